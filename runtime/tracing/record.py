"""Running a function once on arrays without numbers: its program, its result as a tree, what it
took from around it.

Non-goals: deriving anything from the program (``derive``), compiling it (``transformed``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value
from gradc.passes.rewrite import renamed
from gradc.runtime.native.arrays import Array
from gradc.runtime.tracing.captures import SMALL
from gradc.runtime.tracing.complexes import whole
from gradc.runtime.tracing.foreign import present
from gradc.runtime.tracing.pairs import ComplexType, Pair
from gradc.runtime.tracing.trace import Trace, Traced, dtype_of, refuse
from gradc.runtime.tracing.trees import LEAF, Static, Structure, flatten, rebuild

RESULT = "result"
Class: TypeAlias = type


@dataclass(frozen=True, slots=True)
class Argument:
    """A leaf of the arguments: what a message calls it, its type, and the class of the caller's
    object.
    """

    name: str
    type: TensorType
    kind: Class = np.ndarray

    @staticmethod
    def of(name: str, array: Array, kind: Class = np.ndarray) -> Argument:
        """The argument for an array. Raises DiagnosticError GC0557 for a width that programs do not
        have.
        """
        return Argument(name, TensorType(array.shape, dtype_of(name, array)), kind)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A function recorded once.

    ``function`` has a parameter per argument, then one per captured array; its results are the
    leaves of ``out``, then those of ``aux``, complex ones as real arrays [..., 2]. Inside another
    trace, what was captured may be traced as well.
    """

    function: Function
    captured: dict[str, Array | Traced]
    arguments: tuple[Argument, ...]
    out: Structure
    aux: Structure = None
    outputs: int = 1
    #: The types of the leaves of ``out`` and ``aux``, complex ones among them. A complex loss is
    #: its real part; its imaginary part is one more result, the last.
    types: tuple[TensorType, ...] = ()

    @property
    def floating(self) -> list[int]:
        """The results, but for those of ``aux``, that have derivatives."""
        values = self.function.block.outputs[: self.outputs]
        return [i for i, v in enumerate(values) if v.type.dtype.is_float]

    @property
    def has_complex_loss(self) -> bool:
        return len(self.function.results) > len(self.types)


def record(
    function: Callable[..., Any],
    structure: Structure,
    arguments: Sequence[Argument],
    *,
    has_aux: bool = False,
    is_loss: bool = False,
) -> Recorded:
    """Runs ``function`` on traced arrays; ``structure`` is that of (positional, by name).

    Raises:
        DiagnosticError: for what cannot be traced, also where the function swallowed it; GC0565 for
            a result of another form.
    """
    before = present()
    try:
        return _recorded(function, structure, arguments, has_aux, is_loss)
    except DiagnosticError:
        if present() == before:
            raise
        # The function itself loaded a module of SciPy's, whose functions had no rules yet.
        return _recorded(function, structure, arguments, has_aux, is_loss)


def _recorded(
    function: Callable[..., Any],
    structure: Structure,
    arguments: Sequence[Argument],
    has_aux: bool,
    is_loss: bool,
) -> Recorded:
    with Trace() as trace:
        values = [trace.argument(a.name, a.type) for a in arguments]
        wrapped = [trace.wrap(v, a.kind) for v, a in zip(values, arguments, strict=True)]
        for item in wrapped:
            item._is_dense = True  # the function's own arrays, in order
        args, kwargs = rebuild(structure, wrapped)
        try:
            result = function(*map(_plain, args), **{k: _plain(v) for k, v in kwargs.items()})
        except Exception:
            trace.raise_refused()  # NumPy may have put an error of its own in its place
            raise
        trace.raise_refused()
        result, extra = _split(result) if has_aux else (result, None)
        leaves: list[Any] = []
        out = _result_structure(result, leaves, is_loss)
        count = len(leaves)
        aux = flatten(extra, leaves) if has_aux else None
        values = [trace.lift(leaf) for leaf in leaves]
        types = tuple(v.type for v in values)
        if is_loss and isinstance(values[0], Pair):
            values[0], im = whole(trace, values[0])
            values.append(im)
        if is_loss and not values[0].type.dtype.is_float:
            message = f"a gradient needs a floating number, not {values[0].type}"
            raise refuse("GC0565", message, "write x.astype(float), or float(n)")
        outputs = [trace.stored(v) for v in values]
        outputs = _without_twins(trace, outputs)
    slots = [Slot(a.name, Role.INPUT) for a in arguments]
    # Captured parameters were declared while recording, after the arguments.
    captured = {value.hint: item for value, item in trace.captured}
    slots += [Slot(name, Role.INPUT) for name in captured]
    names = [RESULT if n == 0 else f"{RESULT}.{n}" for n in range(len(outputs))]
    results = [Slot(n, Role.OUTPUT) for n in names]
    if is_loss:
        results[0] = replace(results[0], role=Role.LOSS)
    name = "".join(c if c.isalnum() else "_" for c in getattr(function, "__name__", "function"))
    made = trace.builder.function(f"traced_{name}", outputs, slots, results)
    return Recorded(made, captured, tuple(arguments), out, aux, count, types)


def _without_twins(trace: Trace, outputs: Sequence[Value]) -> list[Value]:
    """The outputs of the program in which arrays that the function made, and nobody has any more,
    are one where they are equal: ``np.eye(3)`` in each trip of a loop.
    """
    first: dict[Any, Value] = {}
    mapping: dict[Value, Value] = {}
    kept: list[tuple[Value, Array | Traced]] = []
    for entry in trace.captured:
        item = entry[1]
        is_small = type(item) is np.ndarray and item.nbytes <= SMALL and item.base is None
        # Held by its entry, by the name here, and by the call that counts.
        if is_small and sys.getrefcount(item) <= 3 and type(entry[0]) is Value:
            key = item.dtype.str, item.shape, item.tobytes()
            known = first.setdefault(key, entry[0])
            if known is not entry[0]:
                mapping[entry[0]] = known
                continue
        kept.append(entry)
    if not mapping:
        return list(outputs)
    trace.captured = kept
    b = trace.builder
    b.parameters = [v for v in b.parameters if v not in mapping]
    b.ops = [
        replace(op, operands=renamed(op.operands, mapping))
        if any(v in mapping for v in op.operands)
        else op
        for op in b.ops
    ]
    return list(renamed(outputs, mapping))


def record_arrays(
    function: Callable[..., Any], arrays: Mapping[str, Array], *, is_loss: bool = False
) -> Recorded:
    """``record`` of a function of a few arrays, whose parameters get the names of ``arrays``."""
    given = [Argument.of(name, array) for name, array in arrays.items()]
    structure = (tuple, None, ((tuple, None, (LEAF,) * len(given)), (dict, (), ())))
    return record(function, structure, given, is_loss=is_loss)


def _plain(item: Any) -> Any:
    return item.value if type(item) is Static else item


def _split(result: Any) -> tuple[Any, Any]:
    if isinstance(result, tuple) and len(result) == 2:
        return result
    message = f"with has_aux the function returns (result, more), not {type(result).__name__}"
    raise DiagnosticError([error("GC0565", message, None)])


def _result_structure(result: Any, leaves: list[Any], is_loss: bool) -> Structure:
    out = flatten(result, leaves)
    if out is not LEAF and (is_loss or not leaves):
        kind = type(result).__name__
        wanted = "one array or number" if is_loss else "arrays or numbers"
        help = "for further results: has_aux=True, and return (value, more)" if is_loss else ""
        message = f"the function must return {wanted}, not {kind}"
        raise DiagnosticError([error("GC0565", message, None, help=help)])
    return out


def numpy_of(dtype: DType) -> np.dtype[Any]:
    """NumPy's type for an element type that functions can have."""
    names = {DType.F64: np.float64, DType.F32: np.float32, DType.F16: np.float16}
    others = {DType.I64: np.int64, DType.I32: np.int32, DType.U32: np.uint32, DType.BOOL: np.bool_}
    if isinstance(dtype, ComplexType):
        return np.dtype(dtype.name.replace("C", "complex"))
    return np.dtype({**names, **others}[dtype])
