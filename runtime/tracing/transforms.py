"""Derivatives of NumPy functions: the functions that users call.

    @gradc.value_and_grad
    def loss(w, x, y): return np.mean((np.tanh(x @ w) - y) ** 2)

    value, dw = loss(w, x, y)

Arguments are arrays, numbers, or trees of them (``trees``); gradients come back in the same
structure. Every transform may be taken of every other, and of functions that take transforms
inside. docs/functions.md is the users' page.

Non-goals: how a call is recorded and compiled (``transformed``).
"""

from __future__ import annotations

import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from gradc.runtime.native.compile import CompileKeywords, compile_options, refuse_unknown
from gradc.runtime.tracing import derive
from gradc.runtime.tracing.derive import Transform
from gradc.runtime.tracing.transformed import Choice, Transformed, argument_numbers
from gradc.runtime.tracing.trees import flatten, rebuild

Function = Callable[..., Any]
Numbers = int | Sequence[int]
Names = str | Sequence[str] | None


class TransformKeywords(CompileKeywords, total=False):
    """The options of all transforms, for type checkers."""

    argnames: Names
    static_argnums: Numbers
    static_argnames: Names
    holomorphic: bool


class JvpKeywords(TransformKeywords, total=False):
    """Those of ``jvp``."""

    has_aux: bool


def value_and_grad(
    function: Function | None = None,
    argnums: Numbers | None = None,
    has_aux: bool = False,
    **options: Unpack[TransformKeywords],
) -> Function:
    """``g(*args) -> (value, gradient)`` of a function that returns a scalar. Usable as a decorator.

    ``argnums`` or ``argnames`` choose the arguments (the first by default), several as a tuple.
    With ``has_aux`` the function returns (value, more) and g ((value, more), gradient). Other
    options: ``static_argnums``, ``static_argnames``, and those of compiling: ``budget``,
    ``threads``, ``fast_math``, ``use_cache``.

    >>> loss = lambda p, x: np.mean((x @ p["w"] + p["b"]) ** 2)
    >>> x = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> value, slopes = value_and_grad(loss)({"w": np.array([1.0, -1.0]), "b": 0.5}, x)
    >>> float(value), slopes["w"].tolist(), float(slopes["b"])
    (0.25, [-2.0, -3.0], -1.0)
    """
    _checked(value_and_grad, options)
    return _made(derive.VALUE_AND_GRAD, function, argnums, has_aux, dict(options))


def grad(
    function: Function | None = None,
    argnums: Numbers | None = None,
    has_aux: bool = False,
    **options: Unpack[TransformKeywords],
) -> Function:
    """``g(*args) -> gradient``, or (gradient, more) with ``has_aux``. Nests: ``grad(grad(f))``. See
    `value_and_grad`.

    >>> float(grad(lambda x: x**3)(2.0)), float(grad(grad(lambda x: x**3))(2.0))
    (12.0, 12.0)
    """
    _checked(grad, options)
    return _made(derive.GRAD, function, argnums, has_aux, dict(options))


def jit(function: Function | None = None, **options: Unpack[TransformKeywords]) -> Function:
    """The function itself, compiled.

    >>> float(jit(lambda x: np.sum(np.sort(x)[:2]))(np.array([3.0, 1.0, 2.0])))
    3.0
    """
    _checked(jit, options)
    return _made(derive.JIT, function, (), False, dict(options))


def jacobian(
    function: Function | None = None,
    argnums: Numbers | None = None,
    has_aux: bool = False,
    **options: Unpack[TransformKeywords],
) -> Function:
    """``J(*args)`` of shape ``result.shape + argument.shape``, by the mode that needs fewer passes.

    For trees: the tree of the result, with trees of the arguments as its leaves.

    >>> jacobian(lambda x: np.array([x[0] + x[1], x[0] * x[1]]))(np.array([2.0, 5.0])).tolist()
    [[1.0, 1.0], [5.0, 2.0]]
    """
    _checked(jacobian, options)
    return _made(derive.JACOBIAN, function, argnums, has_aux, dict(options))


def jacfwd(
    function: Function | None = None,
    argnums: Numbers | None = None,
    has_aux: bool = False,
    **options: Unpack[TransformKeywords],
) -> Function:
    """`jacobian` in forward mode.

    >>> jacfwd(lambda x: x**2)(np.array([1.0, 3.0])).tolist()
    [[2.0, 0.0], [0.0, 6.0]]
    """
    _checked(jacfwd, options)
    return _made(derive.JACFWD, function, argnums, has_aux, dict(options))


def jacrev(
    function: Function | None = None,
    argnums: Numbers | None = None,
    has_aux: bool = False,
    **options: Unpack[TransformKeywords],
) -> Function:
    """`jacobian` in reverse mode.

    >>> jacrev(lambda x: x[0] * x[1])(np.array([2.0, 5.0])).tolist()
    [5.0, 2.0]
    """
    _checked(jacrev, options)
    return _made(derive.JACREV, function, argnums, has_aux, dict(options))


def hessian(
    function: Function | None = None,
    argnums: Numbers | None = None,
    has_aux: bool = False,
    **options: Unpack[TransformKeywords],
) -> Function:
    """``H(*args)`` of shape ``argument.shape * 2``: the Jacobian of the gradient. For trees a tree
    of trees.

    >>> hessian(lambda x: x[0] ** 2 * x[1])(np.array([1.0, 3.0])).tolist()
    [[6.0, 2.0], [2.0, 0.0]]
    """
    _checked(hessian, options)
    if function is None:
        return lambda f: hessian(f, argnums, has_aux, **options)
    slope = grad(function, argnums, has_aux, **options)
    return jacobian(slope, argnums, has_aux, **options)


def hvp(
    function: Function | None = None, argnums: Numbers | None = None, **options: Any
) -> Function:
    """``P(*args, vector)``: the Hessian times ``vector``, which has the structure of the chosen
    arguments.

    >>> hvp(lambda x: np.sum(x**3))(np.array([1.0, 2.0]), np.array([1.0, -1.0])).tolist()
    [6.0, -12.0]
    """
    _checked(hvp, options)
    if function is None:
        return lambda f: hvp(f, argnums, **options)
    slope = grad(function, argnums, **options)
    tangent = _transformed(derive.JVP, slope, argnums or 0, False, dict(options))

    def product(*args: Any, **kwargs: Any) -> Any:
        return tangent.seeded(args[:-1], kwargs, args[-1])[1]

    named: Function = _named(product, function)
    return named


def elementwise_grad(
    function: Function | None = None, argnums: Numbers | None = None, **options: Any
) -> Function:
    """The gradient of the sum of all results: the derivative of each where they do not mix.

    >>> elementwise_grad(np.square)(np.array([1.0, 2.0, 3.0])).tolist()
    [2.0, 4.0, 6.0]
    """
    _checked(elementwise_grad, options)
    if function is None:
        return lambda f: elementwise_grad(f, argnums, **options)
    inner = function

    def total(*args: Any, **kwargs: Any) -> Any:
        leaves: list[Any] = []
        flatten(inner(*args, **kwargs), leaves)
        return sum(np.sum(leaf) for leaf in leaves)

    return grad(_named(total, function), argnums, **options)


def jvp(
    function: Function, args: Any = None, tangents: Any = None, **options: Unpack[JvpKeywords]
) -> Any:
    """``(value, directional derivative)`` of ``function`` at ``args`` along ``tangents``, in
    forward mode.

    ``tangents`` has the structure of ``args``. ``jvp(function)`` alone is a function of (args,
    tangents). With ``has_aux`` the function returns (value, more), and more is the third result.
    What is compiled is kept for as long as the function lives.

    >>> value, slope = jvp(lambda x, y: x * y, (2.0, 3.0), (1.0, 0.0))
    >>> float(value), float(slope)
    (6.0, 3.0)
    """
    _checked(jvp, options)
    has_aux = bool(options.pop("has_aux", False))
    chosen = dict(options)
    if args is None:
        made = _transformed(derive.JVP, function, None, has_aux, chosen, everything=True)
        return lambda args, tangents: made.seeded(*_directed(args, tangents))
    made = _kept(derive.JVP, function, has_aux, chosen)
    return made.seeded(*_directed(args, tangents))


def _directed(args: Any, tangents: Any) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Any, ...]]:
    """What ``seeded`` takes. Raises TypeError for one array where a tuple is meant: its rows are
    no arguments."""
    for name, given in (("args", args), ("tangents", tangents)):
        if not isinstance(given, (tuple, list)):
            message = f"jvp: {name} is a tuple with an entry per argument, not a"
            raise TypeError(f"{message} {type(given).__name__}; write ({name},)")
    return tuple(args), {}, tuple(tangents)


def vjp(
    function: Function, *args: Any, has_aux: bool = False, **options: Unpack[TransformKeywords]
) -> Any:
    """``(value, pull)`` of ``function`` at ``args``; ``pull(cotangent)`` is a tuple with an entry
    per argument.

    ``vjp(function)`` alone is a function of the arguments. With ``has_aux``: (value, pull, more).

    >>> value, pull = vjp(lambda x, y: x * y, 2.0, 3.0)
    >>> [float(g) for g in pull(10.0)]
    [30.0, 20.0]
    """
    _checked(vjp, options)
    if not args:
        return lambda *args: vjp(function, *args, has_aux=has_aux, **options)
    value = _kept(derive.JIT, function, False, dict(options))(*args)
    value, more = value if has_aux else (value, None)
    back = _kept(derive.VJP, function, has_aux, dict(options))
    taken = _copied(args)

    def pull(cotangent: Any) -> Any:
        return back.seeded(taken, {}, cotangent)

    return (value, pull, more) if has_aux else (value, pull)


# --- making and keeping


_STATIC = ("static_argnums", "static_argnames")


def _made(
    kind: Transform,
    function: Function | None,
    argnums: Numbers | None,
    has_aux: bool,
    options: dict[str, Any],
) -> Function:
    if function is None:
        return lambda f: _transformed(kind, f, argnums, has_aux, options)
    return _transformed(kind, function, argnums, has_aux, options)


def _transformed(
    kind: Transform,
    function: Function,
    argnums: Numbers | None,
    has_aux: bool,
    options: dict[str, Any],
    everything: bool = False,
) -> Transformed:
    """The transform; ``everything`` differentiates in all arguments where none are chosen."""
    if not callable(function):
        raise TypeError(f"gradc.{kind.name} takes a function, not {type(function).__name__}")
    argnames = _names(options.get("argnames"))
    static = options.get("static_argnums", ())
    numbers = argument_numbers(static, "static_argnums")
    names = _names(options.get("static_argnames")) or ()
    chosen: int | tuple[int, ...] | None
    if argnums is not None:
        chosen = argument_numbers(argnums)
    else:
        chosen = None if everything or argnames is not None else 0
    choice = Choice(
        chosen,
        argnames,
        numbers if isinstance(numbers, tuple) else (numbers,),
        (names,) if isinstance(names, str) else names,
        has_aux,
        bool(options.get("holomorphic", False)),
    )
    compiling = {k: v for k, v in options.items() if k not in (*_STATIC, "argnames", "holomorphic")}
    return Transformed(function, kind, choice, compile_options(**compiling))


def _choosing(
    *,
    argnums: Numbers,
    argnames: Names,
    static_argnums: Numbers,
    static_argnames: Names,
    has_aux: bool,
    holomorphic: bool,
) -> None:
    """The options of all transforms, beside those of compiling; only its signature is used."""


def _checked(call: Function, options: Mapping[str, object]) -> None:
    """Raises TypeError, in terms of ``call``, for options that transforms do not have."""
    refuse_unknown(call, options, _choosing, compile_options)
    if options.get("check_inputs"):
        raise TypeError("`check_inputs` is for models; a NumPy function checks its own ids")


def _names(given: Names) -> str | tuple[str, ...] | None:
    if given is None or isinstance(given, str):
        return given
    return tuple(given)


def _named(made: Any, function: Function) -> Any:
    """``made`` under the name of ``function``; nothing else is taken over."""
    made.__name__ = getattr(function, "__name__", made.__name__)
    made.__doc__ = getattr(function, "__doc__", None)
    made.__wrapped__ = function
    return made


def _copied(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments that stay what they are while a pullback waits: arrays are copied."""
    leaves: list[Any] = []
    structure = flatten(args, leaves)
    copies = [leaf.copy() if type(leaf) is np.ndarray else leaf for leaf in leaves]
    result: tuple[Any, ...] = rebuild(structure, copies)
    return result


_MOST_KEPT = 256
_MOST_TWINS = 8
_made_before: OrderedDict[Any, list[Transformed]] = OrderedDict()
_keeping = threading.Lock()


class _Same:
    """A key that is equal to itself only, and keeps what it stands for alive."""

    __slots__ = ("item",)

    def __init__(self, item: object) -> None:
        self.item = item

    def __hash__(self) -> int:
        return id(self.item)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.item is other.item


def _kept(
    kind: Transform, function: Function, has_aux: bool, options: dict[str, Any]
) -> Transformed:
    """The transform of ``function`` that was made before, or of a function that is the same in all
    it can see.
    """
    if isinstance(function, types.FunctionType):
        whose: Any = function.__code__
    else:
        whose = function if isinstance(function, types.MethodType) else _Same(function)
    key = (whose, kind.name, has_aux, tuple(sorted(options.items())))
    with _keeping:
        twins = _made_before.setdefault(key, [])
        _made_before.move_to_end(key)
        while len(_made_before) > _MOST_KEPT:
            _made_before.popitem(last=False)
        for found in twins:
            if _see_the_same(found.__wrapped__, function):
                return found
        made = _transformed(kind, function, None, has_aux, options, everything=True)
        twins.insert(0, made)
        del twins[_MOST_TWINS:]
        return made


def _see_the_same(a: Any, b: Any) -> bool:
    """Whether two functions of one code have the same globals, defaults and contents of their
    cells.
    """
    if a is b or not isinstance(a, types.FunctionType):
        return True
    if a.__globals__ is not b.__globals__:
        return False
    try:
        return all(x is y for x, y in zip(_seen(a), _seen(b), strict=True))
    except ValueError:
        return False


def _seen(function: Any) -> list[Any]:
    """What a function sees besides globals. Raises ValueError for an empty cell."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    named = function.__kwdefaults__ or {}
    return [*cells, *(function.__defaults__ or ()), *(named[name] for name in sorted(named))]
