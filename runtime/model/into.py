"""Room for results that a caller gives: ``f(params, x=x, out={"w": array})``.

Every array must have the shape and type of its result, be writeable, and share memory with nothing
else of the call. Where it is dense and aligned the program writes to it; otherwise the result is
made elsewhere and copied there.

Non-goals: calls that fit, which machine code checks itself (``codegen.llvm.host.apart``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, error
from gradc.ir.plan.plan import Port
from gradc.ir.tensor.core import DType
from gradc.runtime.native.arrays import NUMPY_DTYPE, Array, check_names, expect

# What telling two strided arrays apart may cost before they count as sharing memory.
_MOST_WORK: Any = 100_000  # NumPy types it as one of its constants


@dataclass(frozen=True, slots=True)
class Room:
    """Arrays for the results of some ports: what the program writes to, and what is copied where
    afterwards.
    """

    arrays: Mapping[str, Array]
    copies: Sequence[tuple[Array, Array]]

    def finish(self, decode: Callable[[Array], Array]) -> None:
        """Copies what could not be written in place; ``decode`` makes numbers of bits."""
        for made, wanted in self.copies:
            wanted[...] = decode(made)


def room(
    ports: Sequence[Port],
    out: object,
    given: Iterable[tuple[str, object]],
    stack: tuple[int, ...] = (),
) -> Room:
    """``out`` as room for the results of ``ports``, of their shapes behind the axes ``stack``;
    ``given`` are the other arrays of the call.

    Raises:
        TypeError: if ``out`` is no dictionary.
        DiagnosticError: GC0551 to GC0557, with every array that does not fit.
    """
    expect("out", out, Mapping, "a dictionary of arrays by name")
    assert isinstance(out, Mapping), "it was asked for"
    check_names("array of `out`", out, [port.name for port in ports])
    found: list[Diagnostic] = []
    for port in ports:
        found += _misfits(port, out[port.name], (*stack, *port.shape))
    if not found:
        found = crossings([(port.name, out[port.name]) for port in ports], given)
    if found:
        raise DiagnosticError(found)
    arrays, copies = dict[str, Array](), list[tuple[Array, Array]]()
    for port in ports:
        array = out[port.name]
        if type(array) is not np.ndarray or not is_plain(array) or port.dtype is DType.BF16:
            wanted, array = array, np.empty((*stack, *port.shape), NUMPY_DTYPE[port.dtype])
            copies.append((array, wanted))
        arrays[port.name] = array
    return Room(arrays, copies)


def is_plain(array: Array) -> bool:
    """Whether machine code can write to ``array`` as it lies."""
    return array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative


def _misfits(port: Port, array: object, shape: tuple[int, ...]) -> list[Diagnostic]:
    """What keeps ``array`` from being room for the result of ``port``."""
    # NumPy has no bf16: such results are handed out in float32.
    wanted = np.dtype(np.float32) if port.dtype is DType.BF16 else NUMPY_DTYPE[port.dtype]
    return misfits(port.name, array, shape, wanted)


def misfits(
    name: str, array: object, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> list[Diagnostic]:
    """What keeps ``array`` from being room for a result called ``name``."""
    help = f"numpy.empty({shape}, numpy.{dtype.name}) has room for it"
    if not isinstance(array, np.ndarray):
        message = f"`out` has {type(array).__name__} for `{name}`; it must be a numpy array"
        return [error("GC0551", message, None, help=help)]
    if array.dtype.newbyteorder("=") != dtype:
        message = f"`out` has {array.dtype.name} for `{name}`; the result is {dtype.name}"
        return [error("GC0552", message, None, help=help)]
    if array.shape != shape:
        message = f"`out` has shape {list(array.shape)} for `{name}`; the result has {list(shape)}"
        return [error("GC0555", message, None, help=help)]
    if not array.flags.writeable:
        message = f"the array of `out` for `{name}` is read-only"
        return [error("GC0557", message, None, help=help)]
    return []


def crossings(
    outs: Sequence[tuple[str, Array]], given: Iterable[tuple[str, object]]
) -> list[Diagnostic]:
    """Arrays of ``outs`` that share memory with each other or with what is ``given``, under names
    as messages have them.
    """
    spans = [(*_span(a), f"`out` for `{name}`", a, True) for name, a in outs]
    for name, item in given:
        if isinstance(item, np.ndarray):
            spans.append((*_span(item), name, item, False))
    spans = sorted((s for s in spans if s[0] < s[1]), key=lambda span: span[:2])
    found: list[Diagnostic] = []
    reaching: list[tuple[int, int, str, Array, bool]] = []
    for span in spans:
        reaching = [other for other in reaching if other[1] > span[0]]
        for other in reaching:
            if (span[4] or other[4]) and _share(span[3], other[3]):
                one, two = (other, span) if other[4] else (span, other)
                message = f"the arrays of {one[2]} and {two[2]} share memory"
                help = "give results memory of their own"
                found.append(error("GC0557", message, None, help=help))
        reaching.append(span)
    return found


def _span(array: Array) -> tuple[int, int]:
    """The first byte of ``array`` and the one behind its last."""
    begin = array.ctypes.data
    if not array.size:
        return begin, begin
    moves = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
    below, above = sum(m for m in moves if m < 0), sum(m for m in moves if m > 0)
    return begin + below, begin + above + array.itemsize


def _share(one: Array, two: Array) -> bool:
    try:
        return bool(np.shares_memory(one, two, max_work=_MOST_WORK))
    except np.exceptions.TooHardError:
        return True
