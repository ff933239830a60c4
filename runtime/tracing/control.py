"""Control flow on values that are not known while a function is recorded: ``cond``, ``scan``,
``fori_loop``, ``while_loop``; ``vmap``; ``stop_gradient``.

Loops stay rolled: one ``scan`` of the tensor IR, whose reverse sweep is the compiler's. Called with
numbers, outside any recording, all of them are plain Python. Both sides of ``cond`` are computed
and one is chosen; what the other would have contributed to a gradient is exactly nothing.

Non-goals: loops without a bound (a reverse sweep would have to keep an unknown number of states).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradc.ir.tensor.core import Attr, Block, TensorType, Value
from gradc.passes.hoist.stack import stacked_block
from gradc.runtime.native.compile import compile_options
from gradc.runtime.tracing import derive
from gradc.runtime.tracing.pairs import seen
from gradc.runtime.tracing.trace import NAMES, Trace, Traced, current_trace, refuse
from gradc.runtime.tracing.transformed import Choice, Transformed
from gradc.runtime.tracing.trees import Structure, flatten, rebuild, tree_map

Function = Callable[..., Any]


def cond(pred: Any, true_fun: Function, false_fun: Function, *operands: Any) -> Any:
    """``true_fun(*operands)`` where ``pred`` holds, else ``false_fun(*operands)``; both give trees
    of one structure.

    >>> slope = gradc.grad(lambda x: cond(x > 0, np.sin, np.square, x))
    >>> float(slope(0.0)), float(slope(-3.0))
    (0.0, -6.0)
    """
    if type(pred) is not Traced:
        return (true_fun if pred else false_fun)(*_own(operands))
    if pred.shape:
        help = "numpy.where chooses element by element"
        raise refuse("GC0558", f"cond takes one truth value, not {pred.value.type}", help)
    left: list[Any] = []
    right: list[Any] = []
    structure = flatten(true_fun(*_own(operands)), left)
    _same_structure("cond", structure, flatten(false_fun(*_own(operands)), right))
    chosen = []
    for a, b in zip(left, right, strict=True):
        if np.shape(a) != np.shape(b):
            raise refuse(
                "GC0558", f"cond: one side has shape {np.shape(a)}, the other {np.shape(b)}"
            )
        chosen.append(np.where(pred, a, b))
    return rebuild(structure, chosen)


def scan(
    body: Function, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    """``body(carry, x) -> (carry, y)`` along the first axis of ``xs``; returns the last carry and
    the ys, stacked.

    ``xs`` is a tree of arrays of one length, or None with ``length``. What the body writes into
    its carry or x stays its own.

    >>> total = lambda x: scan(lambda c, a: (c * a, c), 1.0, x)[0]
    >>> gradc.grad(total)(np.array([2.0, 3.0, 4.0])).tolist()
    [12.0, 8.0, 6.0]
    """
    leaves: list[Any] = []
    structure = flatten(xs, leaves)
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in leaves}
    sizes |= set() if length is None else {operator.index(length)}
    if len(sizes) != 1 or None in sizes:
        raise refuse(
            "GC0558", f"scan takes arrays of one length; these have {sorted(map(str, sizes))}"
        )
    (count,) = sizes
    assert count is not None, "the length is known"
    trace = current_trace()
    if trace is None:
        return _plain_scan(body, init, structure, leaves, count, reverse)
    return _Loop(trace, body, structure, leaves, count, reverse).run(init)


def _mapped(row: Function, xs: Any) -> Any:
    """``row`` at every position of the first axis of ``xs``."""
    leaves: list[Any] = []
    structure = flatten(xs, leaves)
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes:
        text = ", ".join(sorted("no axis" if n is None else str(n) for n in sizes)) or "nothing"
        raise refuse("GC0558", f"vmap takes arrays of one length along their axes; found {text}")
    (count,) = sizes
    assert count is not None, "the length is known"
    trace = current_trace()
    assert trace is not None, "vmap is recorded"
    loop = _Loop(trace, lambda _, x: ((), row(x)), structure, leaves, count, False, True)
    return loop.run(())[1]


def _own(tree: Any) -> Any:
    """The tree with arrays of its own: what a function writes into them its caller never sees."""
    return tree_map(lambda x: x.copy() if type(x) in (np.ndarray, Traced) else x, tree)


def _plain_scan(
    body: Function, carry: Any, structure: Structure, leaves: list[Any], count: int, reverse: bool
) -> tuple[Any, Any]:
    found = []
    carry = _own(carry)
    for n in reversed(range(count)) if reverse else range(count):
        carry, y = body(carry, rebuild(structure, _own([leaf[n] for leaf in leaves])))
        found.append(y)
    if reverse:
        found.reverse()
    return carry, (tree_map(lambda *ys: np.stack(ys), *found) if found else None)


class _Loop:
    """One scan that is being recorded; or, if its trips are ``independent``, the same for all
    positions at once where its ops can be applied to stacks."""

    def __init__(
        self,
        trace: Trace,
        body: Function,
        structure: Structure,
        leaves: list[Any],
        count: int,
        reverse: bool,
        independent: bool = False,
    ) -> None:
        self.trace, self.body, self.structure = trace, body, structure
        self.count, self.reverse, self.independent = count, reverse, independent
        self.slices = [trace.lift(leaf) for leaf in leaves]

    def run(self, init: Any) -> tuple[Any, Any]:
        """Records the body, once more if the carries have to be of a wider type, and emits the
        loop.
        """
        leaves: list[Any] = []
        structure = flatten(init, leaves)
        carries = [self.trace.lift(leaf) for leaf in leaves]
        inner, outputs, kept, ys = self._recorded(structure, carries)
        found = [v.type for v in outputs[: len(carries)]]
        if found != [v.type for v in carries]:
            carries = [self._widened(v, t) for v, t in zip(carries, found, strict=True)]
            inner, outputs, kept, ys = self._recorded(structure, carries)
            for value, output in zip(carries, outputs, strict=False):
                if value.type != output.type:
                    message = f"a carry is {value.type} before and {output.type} after the body"
                    raise refuse("GC0558", message, "start from a value of that type and shape")
        constants = [self.trace.lift(item) for _, item in inner.captured]
        operands = [self.trace.stored(v) for v in (*carries, *self.slices, *constants)]
        block = inner.builder.block([inner.stored(v) for v in outputs])
        results = self._emitted(operands, block, len(carries))
        types = [v.type for v in outputs]
        for n in range(len(carries), len(types)):
            types[n] = types[n].with_shape((self.count, *types[n].shape))
        pairs = zip(results, types, strict=True)
        wrapped = [self.trace.wrap(seen(self.trace.builder, v, t)) for v, t in pairs]
        return rebuild(kept, wrapped[: len(carries)]), rebuild(ys, wrapped[len(carries) :])

    def _emitted(self, operands: Sequence[Value], block: Block, carried: int) -> Sequence[Value]:
        b, count = self.trace.builder, len(self.slices)
        if self.independent:
            flags = [n < count for n in range(len(operands))]
            found = stacked_block(b, block, operands, flags, self.count)
            if found is not None:
                return found
        attributes: dict[str, Attr] = {
            "trips": self.count,
            "carried": carried,
            "stacked": count,
            "reverse": self.reverse,
            "truncate": 0,
        }
        return b.apply("scan", operands, attributes, (block,))

    def _recorded(
        self, structure: Structure, carries: Sequence[Value]
    ) -> tuple[Trace, list[Value], Structure, Structure]:
        with Trace() as inner:
            states = [inner.wrap(inner.argument("carry", v.type)) for v in carries]
            rows = [
                inner.wrap(inner.argument("x", TensorType(v.type.shape[1:], v.type.dtype)))
                for v in self.slices
            ]
            found = self.body(rebuild(structure, states), rebuild(self.structure, rows))
            inner.raise_refused()
            if not (isinstance(found, tuple) and len(found) == 2):
                raise refuse("GC0565", "the body of a scan returns (carry, y)")
            leaves: list[Any] = []
            kept = flatten(found[0], leaves)
            _same_structure("scan", structure, kept)
            ys = flatten(found[1], leaves)
            outputs = [inner.lift(leaf) for leaf in leaves]
        return inner, outputs, kept, ys

    def _widened(self, value: Value, wanted: TensorType) -> Value:
        """A start in the type that the body gives it, by NumPy's promotion."""
        common = np.result_type(NAMES[value.type.dtype], NAMES[wanted.dtype])
        if common == np.dtype(NAMES[wanted.dtype]):
            value = self.trace.cast(value, wanted.dtype)
        return value


def _same_structure(what: str, a: Structure, b: Structure) -> None:
    if a != b:
        raise refuse("GC0565", f"{what}: the results are trees of different structures")


def fori_loop(lower: Any, upper: Any, body: Function, init: Any) -> Any:
    """``for i in range(lower, upper): carry = body(i, carry)``; the bounds are known numbers.

    >>> float(gradc.grad(lambda x: fori_loop(0, 3, lambda i, c: c * x, 1.0))(2.0))
    12.0
    """
    if type(lower) is Traced or type(upper) is Traced:
        help = "gradc.while_loop(..., max_steps=N) stops on a value"
        raise refuse("GC0561", "the bounds of fori_loop must be known", help)
    places = np.arange(operator.index(lower), max(operator.index(lower), operator.index(upper)))
    return scan(lambda carry, i: (body(i, carry), None), init, places)[0]


def while_loop(cond_fun: Function, body: Function, init: Any, max_steps: int | None = None) -> Any:
    """``while cond_fun(carry): carry = body(carry)``, at most ``max_steps`` times.

    A recorded loop needs ``max_steps``; all of its steps are computed. If the condition still holds
    after them, floating results are NaN.

    >>> halve = lambda x: while_loop(lambda c: c > 1.0, lambda c: c / 2, x, max_steps=10)
    >>> float(gradc.grad(halve)(6.0))
    0.125
    """
    if current_trace() is None:
        return _plain_while(cond_fun, body, init, max_steps)
    if max_steps is None:
        help = "the reverse sweep keeps a state per step; give the most there can be"
        raise refuse("GC0561", "a recorded while_loop needs max_steps=...", help)

    def step(carry: Any, _: Any) -> tuple[Any, None]:
        return cond(cond_fun(carry), body, lambda c: c, carry), None

    last, _ = scan(step, init, length=max_steps)
    return cond(cond_fun(last), lambda c: tree_map(_lost, c), lambda c: c, last)


def _plain_while(cond_fun: Function, body: Function, carry: Any, most: int | None) -> Any:
    steps, carry = 0, _own(carry)
    while cond_fun(carry):
        if most is not None and steps == most:
            return tree_map(_lost, carry)
        carry, steps = body(carry), steps + 1
    return carry


def _lost(leaf: Any) -> Any:
    kind = leaf.dtype.kind if isinstance(leaf, (np.ndarray, np.generic)) else type(leaf).__name__[0]
    return leaf * np.nan if kind in "fc" else leaf


def stop_gradient(tree: Any) -> Any:
    """The same values, through which no derivative passes.

    >>> float(gradc.grad(lambda x: x * stop_gradient(x))(3.0))
    3.0
    """
    return tree_map(_stopped, tree)


def _stopped(leaf: Any) -> Any:
    trace = current_trace()
    if trace is None or type(leaf) is not Traced:
        return leaf
    value = trace.lift(leaf)
    return trace.wrap(trace.emit("stop_gradient", value), leaf.kind)


def vmap(
    function: Function | None = None, in_axes: int | Sequence[int | None] = 0, out_axes: int = 0
) -> Function:
    """``function`` along an axis of its arguments: its operations on stacks, or a rolled loop where
    one cannot be applied to a stack. ``in_axes`` has an axis per argument, None for the same.

    >>> vmap(gradc.grad(lambda x: x**3))(np.array([1.0, 2.0])).tolist()
    [3.0, 12.0]
    """
    if function is None:
        return lambda f: vmap(f, in_axes, out_axes)
    inner = function

    def mapped(*args: Any) -> Any:
        axes = [in_axes] * len(args) if isinstance(in_axes, int) else list(in_axes)
        if len(axes) != len(args):
            raise refuse("GC0566", f"in_axes has {len(axes)} axes for {len(args)} arguments")
        along = [n for n, axis in enumerate(axes) if axis is not None]
        moved = [_to_front(args[n], axes[n]) for n in along]

        def row(xs: Any) -> Any:
            given = dict(zip(along, xs, strict=True))
            return inner(*(given.get(n, arg) for n, arg in enumerate(args)))

        found = _mapped(row, tuple(moved))
        return found if out_axes == 0 else tree_map(lambda y: np.moveaxis(y, 0, out_axes), found)

    mapped.__name__ = getattr(function, "__name__", "mapped")
    mapped.__doc__ = function.__doc__
    return Transformed(mapped, derive.JIT, Choice(()), compile_options())


def _to_front(tree: Any, axis: Any) -> Any:
    return tree if axis == 0 else tree_map(lambda leaf: np.moveaxis(leaf, axis, 0), tree)


__all__ = ["cond", "fori_loop", "scan", "stop_gradient", "vmap", "while_loop"]
