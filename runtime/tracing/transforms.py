"""Compiled derivatives of NumPy functions.

    @gradc.value_and_grad
    def loss(w, x, y): return np.mean((np.tanh(x @ w) - y) ** 2)

    value, dw = loss(w, x, y)

Arguments are arrays, numbers, or (nested) dictionaries, lists and tuples of them; gradients come back in the same
structure. ``argnums`` chooses which arguments are differentiated. Traces are cached by structure, shapes, types and
the values of arguments that are not arrays or numbers (options). Arrays that the function closes over are read anew on
each call's trace only: a closure whose arrays change between calls must take them as arguments.

Nesting: a derivative taken inside another traced function differentiates in IR (gradients of gradients). The inner
function may use the arrays of the outer one, traced or not.

Non-goals: tracing control flow on values.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

import gradc.runtime.tracing.tables  # noqa: F401  (fills the tables of traceable functions)
from gradc.ir.core import DType, Function, Role, Slot, Value
from gradc.ir.diagnostics import DiagnosticError, error
from gradc.ir.inline import inline_function
from gradc.passes.differentiate import jvp as jvp_of
from gradc.passes.differentiate import value_and_grad as value_and_grad_of
from gradc.passes.differentiate_jacobian import jacobian as jacobian_of
from gradc.runtime.arrays import Array, as_array, convert, expect
from gradc.runtime.call import INPUTS, SEEDS, Entry
from gradc.runtime.compile import Options, compile_function, options_of
from gradc.runtime.tracing.trace import Trace, Traced, current_trace, dtype_of


class Transform(Protocol):
    """A function of IR to be compiled in place of the traced one."""

    def __call__(self, function: Function, wrt: list[str]) -> Function: ...


LOSS = "result"


# --- arguments as trees


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where an array stood in the arguments; prints as in a message, such as ``params['w'][0]``."""

    path: str


def flatten(tree: Any, path: str, leaves: list[tuple[str, Any]]) -> Any:
    """The structure of ``tree`` with Leafs in place of arrays and numbers, which go to ``leaves``."""
    if isinstance(tree, dict):
        return {k: flatten(v, f"{path}[{k!r}]", leaves) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)) and not hasattr(tree, "_fields"):
        return type(tree)(flatten(v, f"{path}[{i}]", leaves) for i, v in enumerate(tree))
    if isinstance(tree, (bool, str, bytes)) or tree is None or callable(tree):
        return tree
    leaves.append((path, tree))
    return Leaf(path)


def rebuild(structure: Any, found: dict[str, Any]) -> Any:
    """``structure`` with each Leaf replaced by what ``found`` has for its path."""
    if isinstance(structure, Leaf):
        return found[structure.path]
    if isinstance(structure, dict):
        return {k: rebuild(v, found) for k, v in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(rebuild(v, found) for v in structure)
    return structure


# --- tracing


@dataclass(frozen=True, slots=True)
class Recorded:
    """A function traced once: its IR, and the arrays it closed over by parameter name.

    Inside another trace, what it closed over may be traced as well.
    """

    function: Function
    captured: dict[str, Array | Traced]


def trace_function(
    function: Callable[..., Any], structure: Any, leaves: Sequence[tuple[str, Array]]
) -> Recorded:
    """Runs ``function`` on traced arrays.

    Raises:
        DiagnosticError: for what cannot be traced, and for a result that is not one array.
    """
    with Trace() as trace:
        values = {path: trace.parameter(path, array) for path, array in leaves}
        arguments = rebuild(structure, {path: trace.wrap(v) for path, v in values.items()})
        result = trace.lift(_one_result(function(*arguments)))
    slots = [Slot(path, Role.INPUT) for path, _ in leaves]
    # Captured parameters were declared while tracing, after the arguments.
    captured = {value.hint: array for value, array in trace.captured}
    slots += [Slot(name, Role.INPUT) for name in captured]
    name = getattr(function, "__name__", "function")
    safe = "".join(c if c.isalnum() else "_" for c in name)
    made = trace.builder.function(f"traced_{safe}", [result], slots, [Slot(LOSS, Role.LOSS)])
    return Recorded(made, captured)


def _one_result(result: object) -> object:
    if isinstance(result, (Traced, int, float, np.ndarray, np.number)):
        return result
    message = f"the function must return one array or number, not {type(result).__name__}"
    raise DiagnosticError([error("GC0565", message, None)])


# --- the public transformations


def value_and_grad(
    function: Callable[..., Any] | None = None, argnums: int | Sequence[int] = 0, **options: Any
) -> Callable[..., Any]:
    """``g(*args) -> (value, gradient)`` of a function that returns a scalar. Usable as a decorator."""
    chosen = options_of(value_and_grad, options)
    return _decorated(function, argnums, chosen, _gradient, _finish_value_and_grad)


def grad(
    function: Callable[..., Any] | None = None, argnums: int | Sequence[int] = 0, **options: Any
) -> Callable[..., Any]:
    """``g(*args) -> gradient``. Usable as a decorator; nests: ``grad(grad(f))``."""
    chosen = options_of(grad, options)
    return _decorated(function, argnums, chosen, _gradient, _finish_grad)


def jacobian(
    function: Callable[..., Any] | None = None, argnums: int | Sequence[int] = 0, **options: Any
) -> Callable[..., Any]:
    """``J(*args)`` of shape ``result.shape + argument.shape``, by the mode that needs fewer passes."""
    chosen = options_of(jacobian, options)
    return _decorated(function, argnums, chosen, _jacobian, _finish_grad)


def hessian(
    function: Callable[..., Any] | None = None, argnums: int = 0, **options: Any
) -> Callable[..., Any]:
    """``H(*args)`` of shape ``argument.shape * 2``: the Jacobian of the gradient."""
    chosen = options_of(hessian, options)
    return _decorated(function, argnums, chosen, _hessian, _finish_grad)


def jvp(function: Callable[..., Any], args: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """``(value, directional derivative)`` of ``function`` at ``args`` along ``tangents``, in forward mode.

    ``tangents`` has the structure of ``args``.
    """
    numbers = tuple(range(len(args)))
    compiled = Derivative(function, numbers, Options(), _forward, _finish_jvp)
    return compiled.with_tangents(tuple(args), tuple(tangents))


def _decorated(
    function: Callable[..., Any] | None,
    argnums: int | Sequence[int],
    options: Options,
    transform: Transform,
    finish: Callable[[Derivative, Any, list[str], list[tuple[Slot, Any]]], Any],
) -> Callable[..., Any]:
    if function is None:
        return lambda f: _decorated(f, argnums, options, transform, finish)
    if options.check_inputs:
        raise TypeError("`check_inputs` is for models; a NumPy function checks its own ids")
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    expect("argnums", numbers, Sequence, "a whole number, or a list of them")
    for number in numbers:
        expect("argnums", number, int, "a whole number, or a list of them")
    made = Derivative(function, argnums, options, transform, finish)
    return functools.wraps(function)(made)


def _gradient(function: Function, wrt: list[str]) -> Function:
    return value_and_grad_of(function, wrt)


def _jacobian(function: Function, wrt: list[str]) -> Function:
    return jacobian_of(function, wrt, LOSS)


def _forward(function: Function, wrt: list[str]) -> Function:
    return jvp_of(function, wrt)


def _hessian(function: Function, wrt: list[str]) -> Function:
    gradient = value_and_grad_of(function, wrt)
    if len(wrt) != 1:
        message = "a Hessian is taken in one array; give argnums an array argument"
        raise DiagnosticError([error("GC0566", message, None)])
    return jacobian_of(gradient, wrt, len(gradient.results) - 1)


class Derivative:
    """A transformed function: traces, compiles and caches per structure, shapes and types."""

    def __init__(
        self,
        function: Callable[..., Any],
        argnums: int | Sequence[int],
        options: Options,
        transform: Transform,
        finish: Callable[[Derivative, Any, list[str], list[tuple[Slot, Any]]], Any],
    ) -> None:
        self.__wrapped__ = function
        self.argnums = argnums
        self.options = options
        self._transform = transform
        self._finish = finish
        self._entries: dict[str, tuple[Entry, dict[str, Array | Traced]]] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        leaves: list[tuple[str, Any]] = []
        structure = flatten(args, "args", leaves)
        wrt = self._wrt(structure, len(args))
        outer = current_trace()
        if outer is not None:
            return self._inlined(outer, structure, leaves, wrt)
        arrays = [(path, _floating(path, item, path in wrt)) for path, item in leaves]
        entry, captured = self._entry(structure, arrays, wrt)
        results = entry.call({INPUTS: {**dict(arrays), **_arrays(captured)}})
        return self._given_back(structure, wrt, entry, results)

    def with_tangents(self, args: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        """Forward mode: tangents have the structure of the arguments."""
        leaves: list[tuple[str, Any]] = []
        structure = flatten(args, "args", leaves)
        seeds: list[tuple[str, Any]] = []
        flatten(tangents, "args", seeds)
        if [path for path, _ in seeds] != [path for path, _ in leaves]:
            message = "tangents must have the structure of the arguments"
            raise DiagnosticError([error("GC0566", message, None)])
        wrt = self._wrt(structure, len(args))
        outer = current_trace()
        if outer is not None:
            return self._inlined(outer, structure, leaves, wrt, [item for _, item in seeds])
        arrays = [(path, _floating(path, item, True)) for path, item in leaves]
        given = {p: _floating(p, s, True) for p, s in seeds}
        seed_arrays = {p: convert(p, given[p], dtype_of(p, a)) for p, a in arrays}
        entry, captured = self._entry(structure, arrays, wrt)
        results = entry.call({INPUTS: {**dict(arrays), **_arrays(captured)}, SEEDS: seed_arrays})
        return self._given_back(structure, wrt, entry, results)

    def _given_back(
        self, structure: Any, wrt: list[str], entry: Entry, results: list[Array]
    ) -> Any:
        slots = [Slot(p.name, p.role) for p in entry.made]
        return self._finish(self, structure, wrt, list(zip(slots, results, strict=True)))

    def _wrt(self, structure: Any, count: int) -> list[str]:
        """Paths of the leaves to differentiate in."""
        numbers = (self.argnums,) if isinstance(self.argnums, int) else tuple(self.argnums)
        paths: list[str] = []
        for number in numbers:
            if not -count <= number < count:
                message = f"argnums {number} is not one of the {count} arguments"
                raise DiagnosticError([error("GC0566", message, None)])
            found: list[tuple[str, Any]] = []
            flatten(structure[number], "", found)
            paths += [item.path for _, item in found if isinstance(item, Leaf)]
        return paths

    def _entry(
        self, structure: Any, arrays: list[tuple[str, Array]], wrt: list[str]
    ) -> tuple[Entry, dict[str, Array | Traced]]:
        shapes = [(path, a.shape, a.dtype.str) for path, a in arrays]
        key = repr((structure, shapes))
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                traced = trace_function(self.__wrapped__, structure, arrays)
                transform = functools.partial(self._transform, wrt=wrt)
                entry = Entry(compile_function(traced.function, transform, self.options))
                found = self._entries[key] = (entry, traced.captured)
        return found

    def _inlined(
        self,
        outer: Trace,
        structure: Any,
        leaves: list[tuple[str, Any]],
        wrt: list[str],
        seeds: Sequence[Any] = (),
    ) -> Any:
        """Inside another trace: the derivative becomes part of the outer program."""
        values = {p: _lifted(outer, p, item, p in wrt) for p, item in leaves}
        stand_ins = [(p, np.zeros(v.type.static_shape, _numpy(v))) for p, v in values.items()]
        traced = trace_function(self.__wrapped__, structure, stand_ins)
        derived = self._transform(traced.function, wrt)
        for name, item in traced.captured.items():
            values[name] = outer.lift(item)
        operands = [values[slot.name] for slot in traced.function.parameters]
        for path, seed in zip(wrt if seeds else (), seeds, strict=True):
            operands.append(_seed(outer, path, seed, values[path]))
        results = inline_function(outer.builder, derived, operands)
        wrapped = [outer.wrap(v) for v in results]
        return self._finish(self, structure, wrt, list(zip(derived.results, wrapped, strict=True)))


def _arrays(captured: dict[str, Array | Traced]) -> dict[str, Array]:
    """What a function that is called from outside any trace has closed over."""
    return {name: item for name, item in captured.items() if not isinstance(item, Traced)}


def _lifted(outer: Trace, path: str, item: Any, is_differentiated: bool) -> Value:
    """``item`` in the outer trace, refused where it has no derivative."""
    if not is_differentiated:
        return outer.lift(item)
    value = outer.lift(item if isinstance(item, Traced) else _floating(path, item, True))
    if not value.type.dtype.is_float:
        raise DiagnosticError(
            [error("GC0562", f"`{path}` holds integers, which have no derivative", None)]
        )
    return value


def _seed(outer: Trace, path: str, item: Any, like: Value) -> Value:
    """A tangent of ``like``."""
    if not isinstance(item, Traced):
        item = convert(path, _floating(path, item, True), like.type.dtype)
    value = outer.lift(item)
    if value.type != like.type:
        message = f"the tangent of `{path}` is {value.type}, and `{path}` itself {like.type}"
        raise DiagnosticError([error("GC0566", message, None)])
    return value


def _numpy(value: Value) -> np.dtype[Any]:
    names = {DType.F64: np.float64, DType.F32: np.float32, DType.F16: np.float16}
    others = {DType.I64: np.int64, DType.I32: np.int32, DType.U32: np.uint32, DType.BOOL: np.bool_}
    return np.dtype({**names, **others}[value.type.dtype])


def _floating(path: str, item: Any, is_differentiated: bool) -> Array:
    array = as_array(path, item)
    if is_differentiated and array.dtype.kind in "iub":
        if isinstance(item, (int, float)):
            return np.asarray(item, np.float64)
        message = f"`{path}` holds integers, which have no derivative"
        help = f"convert it: {path}.astype(float)"
        raise DiagnosticError([error("GC0562", message, None, help=help)])
    return convert(path, array, dtype_of(path, array))


def _chosen(derivative: Derivative, structure: Any, found: dict[str, Any]) -> Any:
    """Gradients in the structure of the chosen arguments."""
    numbers = derivative.argnums
    if isinstance(numbers, int):
        return rebuild(structure[numbers], found)
    return tuple(rebuild(structure[n], found) for n in numbers)


def _finish_grad(
    derivative: Derivative, structure: Any, wrt: list[str], results: list[tuple[Slot, Any]]
) -> Any:
    last = results[-len(wrt) :] if wrt else []
    found = {path: array for path, (_, array) in zip(wrt, last, strict=True)}
    return _chosen(derivative, structure, found)


def _finish_value_and_grad(
    derivative: Derivative, structure: Any, wrt: list[str], results: list[tuple[Slot, Any]]
) -> Any:
    value = results[0][1]
    value = value[()] if isinstance(value, np.ndarray) else value
    return value, _finish_grad(derivative, structure, wrt, results)


def _finish_jvp(
    _derivative: Derivative, _structure: Any, _wrt: list[str], results: list[tuple[Slot, Any]]
) -> Any:
    value, dot = results[0][1], results[-1][1]
    return (value[()], dot[()]) if isinstance(value, np.ndarray) else (value, dot)
