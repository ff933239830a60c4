"""Functions with a derivative of their own: ``custom_vjp``, recorded as the op ``custom`` (a primal
region and a pullback region).

What a call brings that is not traced is known: it has no derivative, and the function sees it as it
is. The pullback region runs the forward function again; what it shares with the primal is found by
CSE.

The pullback is compared once with what differentiation gives for the function (``pullbacks``).
Where the two differ, a ``TraceWarning`` shows the point, and the user's pullback is used
nevertheless: to differ may be its purpose.

Non-goals: proving a pullback (``passes.prove``), rules for forward mode (the compiler transposes
the pullback).
"""

from __future__ import annotations

import functools
import inspect
import operator
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gradc.ir.loop.equal import PLACES, fingerprint
from gradc.ir.tensor.core import Attr, Block, DType, TensorType, Value
from gradc.runtime.tracing.captures import TraceWarning
from gradc.runtime.tracing.complexes import conjugate
from gradc.runtime.tracing.pairs import Pair, seen
from gradc.runtime.tracing.pullbacks import Pullback, difference
from gradc.runtime.tracing.trace import Trace, Traced, current_trace, refuse, user_span
from gradc.runtime.tracing.trees import LEAF, Static, Structure, flatten, leaf_count, paths, rebuild

Fn = Callable[..., Any]


def custom_vjp(
    function: Fn | None = None,
    pullback: Fn | None = None,
    *,
    nondiff_argnums: Sequence[int] = (),
    asserted: bool = False,
) -> Any:
    """``function`` with a derivative of its own.

    ``pullback(cotangent, *args)`` gives a cotangent per argument: a tuple, or one alone for one
    argument; None is zero. Or, as in JAX, ``defvjp(fwd, bwd)`` follows: ``fwd(*args)`` gives
    (result, residuals), and ``bwd(*those of nondiff_argnums, residuals, cotangent)`` gives the
    cotangents of the other arguments.

    Both are compared once with the derivative of ``function`` itself; ``asserted=True`` leaves that
    out.

    >>> safe = custom_vjp(np.sqrt, lambda ct, x: ct / (2 * np.sqrt(x)))
    >>> float(gradc.grad(safe)(4.0))
    0.25
    """
    if function is None:
        return lambda f: custom_vjp(f, pullback, nondiff_argnums=nondiff_argnums, asserted=asserted)
    return CustomVjp(function, pullback, tuple(nondiff_argnums), asserted)


class CustomVjp:
    """``function`` with its own pullback; called with numbers alone it is the function."""

    __gradc_wrapped__ = True

    def __init__(
        self, function: Fn, pullback: Fn | None, nondiff: tuple[int, ...], asserted: bool
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self.__wrapped__ = function
        #: What else is called, for finding what it reads.
        self.reads: tuple[Fn, ...] = ()
        self._nondiff, self.asserted = nondiff, asserted
        self._forward: Fn | None = None
        self._backward: Fn | None = None
        self._compared: set[str] = set()
        if pullback is not None:
            given = pullback
            self.reads = (pullback,)
            self._forward = lambda *args: (self(*args), args)
            self._backward = lambda *rest: given(rest[-1], *rest[-2])

    def defvjp(self, fwd: Fn, bwd: Fn) -> None:
        """The derivative in JAX's convention. Raises TypeError if there is one already."""
        if self._forward is not None:
            raise TypeError(f"{self!r} has its derivative already; make another custom_vjp")
        self._forward, self._backward, self.reads = fwd, bwd, (fwd, bwd)

    def defvjps(self, *makers: Fn | None) -> None:
        """The derivative in autograd's convention, one per argument: ``maker(result, *args)`` gives
        the function from the cotangent of the result to that of the argument; None is zero.

        Raises TypeError if there is one already.

        >>> times = custom_vjp(lambda x, y: x * y)
        >>> times.defvjps(lambda z, x, y: lambda ct: ct * y, lambda z, x, y: lambda ct: ct * x)
        >>> tuple(map(float, gradc.grad(times, argnums=(0, 1))(2.0, 3.0)))
        (3.0, 2.0)
        """

        def forward(*args: Any) -> tuple[Any, Any]:
            result = self(*args)
            return result, (result, args)

        def backward(*rest: Any) -> tuple[Any, ...]:
            (result, args), ct = rest[-2:]
            known = {n % len(args) for n in self._nondiff}
            padded = (*makers, *[None] * (len(args) - len(makers)))
            chosen = [m for n, m in enumerate(padded) if n not in known]
            return tuple(None if m is None else m(result, *args)(ct) for m in chosen)

        self.defvjp(forward, backward)
        self.reads = tuple(m for m in makers if m is not None)

    def __repr__(self) -> str:
        return f"<gradc.custom_vjp of {getattr(self, '__qualname__', self.__wrapped__)}>"

    def __get__(self, owner: object, _kind: type | None = None) -> Any:
        return self if owner is None else types.MethodType(self, owner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            bound = inspect.signature(self.__wrapped__).bind(*args, **kwargs)
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
        if kwargs:
            raise TypeError(f"{self!r} takes no arguments by keyword alone")
        trace = current_trace()
        if trace is None:
            return self.__wrapped__(*args)
        count = len(args)
        if any(not -count <= n < count for n in self._nondiff):
            message = f"nondiff_argnums {self._nondiff}: there are {count} arguments"
            raise refuse("GC0566", message)
        nondiff = {n % count for n in self._nondiff}
        parts = [Static(arg) if n in nondiff else arg for n, arg in enumerate(args)]
        leaves: list[Any] = []
        structure = flatten(tuple(parts), leaves)
        if not any(type(leaf) is Traced for leaf in leaves):
            return self.__wrapped__(*args)
        for pulling in reversed(_pulling()):
            if pulling.custom is self:
                return pulling.again(args, leaves)
        return _Recording(trace, self, structure, leaves, sorted(nondiff)).run()

    def derivative(self) -> tuple[Fn, Fn]:
        """(forward, backward). Raises DiagnosticError GC0565 if none is given."""
        if self._forward is None or self._backward is None:
            help = "give it by defvjp(fwd, bwd), or as custom_vjp(function, pullback)"
            raise refuse("GC0565", f"{self!r} has no derivative", help)
        return self._forward, self._backward

    def compare(self, pullback: Pullback, names: Sequence[str]) -> None:
        """Warns, once for each form of the pullback, where it is not the derivative of the
        function.
        """
        key = fingerprint((pullback.primal, pullback.pull), PLACES)
        if key in self._compared:
            return
        self._compared.add(key)
        found = difference(pullback, names)
        if found:
            place = user_span()
            message = f"{self!r}: {found}; asserted=True says that this is meant"
            warnings.warn_explicit(TraceWarning(message), None, place.file, place.line)


_now = threading.local()


def _pulling() -> list[_Recording]:
    """The calls whose pullbacks this thread is recording, the outermost first."""
    found: list[_Recording] = getattr(_now, "stack", [])
    return found


class _Recording:
    """One call that is being recorded."""

    def __init__(
        self,
        trace: Trace,
        custom: CustomVjp,
        structure: Structure,
        leaves: list[Any],
        nondiff: list[int],
    ) -> None:
        self.trace, self.custom, self.structure = trace, custom, structure
        self.leaves, self.nondiff = leaves, nondiff
        self.places = [n for n, leaf in enumerate(leaves) if type(leaf) is Traced]
        self.operands = [trace.lift(leaves[n]) for n in self.places]
        self.own: tuple[Trace, Sequence[Value]] = trace, ()
        self.results: tuple[Structure, Sequence[Value]] = None, ()

    def run(self) -> Any:
        """Records both regions and emits the op."""
        forward, backward = self.custom.derivative()
        with Trace() as first:
            args = self._arguments(first)
            result = self.custom.__wrapped__(*args)
            first.raise_refused()
            self._refuse_written(args)
            found: list[Any] = []
            out = flatten(result, found)
            outputs = [first.lift(leaf) for leaf in found]
        types_ = [v.type for v in outputs]
        with Trace() as second:
            args = self._arguments(second)
            inner = [second.argument("result", t) for t in types_]
            cts = [second.argument("ct", t) for t in types_]
            self.own = second, second.builder.parameters[: len(self.operands)]
            self.results = out, inner
            known = [args[n] for n in self.nondiff]
            seeds = rebuild(out, [second.wrap(_turned(second, v)) for v in cts])
            with self._pulling():
                residuals = self._residuals(forward(*args), out, types_)
                given = backward(*known, residuals, seeds)
            second.raise_refused()
            self._refuse_written(args)
            cotangents = [_turned(second, v) for v in self._cotangents(second, given)]
        stored = [first.stored(v) for v in outputs], [second.stored(v) for v in cotangents]
        more = [second.stored(v) for v in (*inner, *cts)]
        blocks, items = self._closed((first, second), stored, more)
        if not self.custom.asserted:
            self.custom.compare(Pullback(*blocks, len(self.operands), items), self._names())
        attributes: dict[str, Attr] = {"asserted": True} if self.custom.asserted else {}
        called = getattr(self.custom.__wrapped__, "__name__", "")
        attributes |= {"function": called} if called else {}
        with self.trace.builder.at(user_span()):
            results = self.trace.builder.apply(
                "custom",
                [
                    self.trace.stored(v)
                    for v in (*self.operands, *(self.trace.lift(item) for item in items))
                ],
                attributes,
                blocks,
            )
        b, pairs = self.trace.builder, zip(results, types_, strict=True)
        return rebuild(out, [self.trace.wrap(seen(b, v, t)) for v, t in pairs])

    @contextmanager
    def _pulling(self) -> Iterator[None]:
        stack = _pulling()
        _now.stack = [*stack, self]
        try:
            yield
        finally:
            _now.stack = stack

    def again(self, args: tuple[Any, ...], leaves: list[Any]) -> Any:
        """The function called by its own pullback: the result is known if the arguments are the
        same.
        """
        second, values = self.own
        given = [second.stored(leaf.value) for leaf in leaves if type(leaf) is Traced]
        is_same = len(given) == len(values) and all(map(operator.is_, given, values))
        rest = [(a, b) for a, b in zip(leaves, self.leaves, strict=False) if type(b) is not Traced]
        if is_same and len(leaves) == len(self.leaves) and all(a is b for a, b in rest):
            out, results = self.results
            return rebuild(out, [second.wrap(v) for v in results])
        return self.custom.__wrapped__(*args)

    def _arguments(self, inner: Trace) -> tuple[Any, ...]:
        leaves = list(self.leaves)
        for n, value in zip(self.places, self.operands, strict=True):
            leaves[n] = inner.wrap(inner.argument("x", value.type), self.leaves[n].kind)
        rebuilt: tuple[Any, ...] = rebuild(self.structure, leaves)
        return rebuilt

    def _refuse_written(self, args: tuple[Any, ...]) -> None:
        """Raises DiagnosticError GC0561 if an argument was written into: its caller has another."""
        leaves: list[Any] = []
        flatten(args, leaves)
        traced = [leaf for leaf in leaves if type(leaf) is Traced]
        for name, leaf in zip(self._names(), traced, strict=True):
            if leaf.changes:
                message = f"{self.custom!r} writes into `{name}`, which its caller would not see"
                raise refuse("GC0561", message, "write into a copy: x = x.copy()")

    def _names(self) -> list[str]:
        """What messages call the traced leaves."""
        parts = enumerate(self.structure[2])
        names = [name for n, part in parts for name in paths(part, f"args[{n}]")]
        return [names[n] for n in self.places]

    def _residuals(self, given: Any, out: Structure, types_: Sequence[TensorType]) -> Any:
        if not (isinstance(given, tuple) and len(given) == 2):
            raise refuse("GC0565", "the fwd of a custom_vjp returns (result, residuals)")
        leaves: list[Any] = []
        structure = flatten(given[0], leaves)
        shapes = [np.shape(leaf) for leaf in leaves]
        if structure != out or shapes != [t.static_shape for t in types_]:
            raise refuse(
                "GC0565", "the fwd of a custom_vjp returns another result than the function"
            )
        return given[1]

    def _cotangents(self, second: Trace, given: Any) -> list[Value]:
        """One per operand; what is no float, and None, gives zeros."""
        parts = [p for n, p in enumerate(self.structure[2]) if n not in self.nondiff]
        if not isinstance(given, (tuple, list)) and len(parts) == 1:
            given = (given,)
        if not isinstance(given, (tuple, list)) or len(given) != len(parts):
            shown = len(given) if isinstance(given, (tuple, list)) else type(given).__name__
            message = (
                f"a pullback returns a tuple with a cotangent per argument, {len(parts)}: {shown}"
            )
            raise refuse("GC0566", message, "None stands for zero")
        found: list[Any] = []
        for part, item in zip(parts, given, strict=True):
            leaves: list[Any] = []
            structure = flatten(item, leaves)
            _match(part, structure, iter(leaves), found)
        chosen = [found[n] for n in self.places]
        triples = zip(self._names(), self.operands, chosen, strict=True)
        return [_cotangent(second, name, v.type, item) for name, v, item in triples]

    def _closed(
        self, traces: Sequence[Trace], outputs: Sequence[list[Value]], more: Sequence[Value]
    ) -> tuple[tuple[Block, Block], list[Any]]:
        """The regions, and what they read from around them: further operands, without a
        derivative.
        """
        items: list[Any] = []
        for trace in traces:
            items += [item for _, item in trace.captured if all(item is not i for i in items)]
        for item in items:
            if type(item) is Traced and item.value.type.dtype.is_float:
                message = f"{self.custom!r} reads a traced value that is none of its arguments"
                help = "its derivative would be lost: pass it as an argument"
                raise refuse("GC0562", message, help)
        first, second = traces
        own = [[t.stored(t.capture(item)) for item in items] for t in traces]
        zeros = [_zeros(second, v.type) for v in own[1]]
        count = len(self.operands)
        heads = [t.builder.parameters[:count] for t in traces]
        primal = first.builder.block(outputs[0])
        pull = second.builder.block([*outputs[1], *zeros])
        blocks = (
            Block((*heads[0], *own[0]), primal.ops),
            Block((*heads[1], *own[1], *more), pull.ops),
        )
        return blocks, items


def _turned(trace: Trace, value: Value) -> Value:
    """A cotangent between users' convention for complex numbers and that of pairs."""
    return conjugate(trace, value) if isinstance(value, Pair) else value


def _zeros(trace: Trace, type_: TensorType) -> Value:
    zero = False if type_.dtype is DType.BOOL else 0
    return trace.constant(zero, type_.dtype, type_.shape)


def _match(expected: Structure, given: Structure, leaves: Iterator[Any], found: list[Any]) -> None:
    """Appends the cotangent of each leaf of ``expected``, or None; containers may be of another
    type, names may not.
    """
    if type(given) is Static and given.value is None:
        found += [None] * leaf_count(expected)
    elif expected is LEAF and given is LEAF:
        found.append(next(leaves))
    elif type(expected) is Static:
        for _ in range(leaf_count(given)):
            next(leaves)
    else:
        is_tree = isinstance(expected, tuple) and isinstance(given, tuple)
        if not is_tree or len(expected[2]) != len(given[2]) or expected[1] != given[1]:
            message = "a pullback returns cotangents of another structure than the arguments"
            raise refuse("GC0566", f"{message}: {given} for {expected}", "None stands for zero")
        for a, b in zip(expected[2], given[2], strict=True):
            _match(a, b, leaves, found)


def _cotangent(trace: Trace, name: str, type_: TensorType, given: Any) -> Value:
    if given is None or not type_.dtype.is_float:
        return _zeros(trace, type_)
    value = trace.cast(trace.lift(given, type_.dtype), type_.dtype)
    if isinstance(given, (int, float, complex)):
        value = trace.broadcast(value, type_.static_shape)
    if value.type.shape != type_.shape:
        shapes = f"{list(value.type.static_shape)}, and `{name}` {list(type_.static_shape)}"
        raise refuse("GC0566", f"the cotangent of `{name}` has shape {shapes}")
    return value


__all__ = ["CustomVjp", "custom_vjp"]
