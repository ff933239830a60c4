"""The caller's arrays as a program wants them: dense, aligned, native-endian, of the declared type.

What fits is passed on untouched (zero copy); what holds the right numbers in another layout (F
order, negative strides, byte-swapped, another float width, another integer width in range) is
copied once; everything else is a diagnostic that names the array, what was found and what was
expected. Numbers are never changed silently: an integer out of range, or a finite float that would
become infinite, is refused.

Non-goals: binding dimensions from shapes (``runtime.model``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gradc.codegen.backend import device_shape
from gradc.ir.diagnostics.diagnostic import DiagnosticError, did_you_mean, error
from gradc.ir.tensor.bf16 import bf16_bits, from_bf16
from gradc.ir.tensor.core import DType, TensorType

Array = NDArray[Any]

# bf16 has no NumPy type of its own: its bits travel as uint16 (``as_bf16``,
# ``gradc.ir.tensor.bf16``).
NUMPY_DTYPE: dict[DType, np.dtype[Any]] = {
    DType.F64: np.dtype(np.float64),
    DType.F32: np.dtype(np.float32),
    DType.F16: np.dtype(np.float16),
    DType.BF16: np.dtype(np.uint16),
    DType.I64: np.dtype(np.int64),
    DType.I32: np.dtype(np.int32),
    DType.U32: np.dtype(np.uint32),
    DType.BOOL: np.dtype(np.bool_),
}


def as_array(name: str, value: object) -> Array:
    """``value`` as an ndarray of numbers, without a copy where possible.

    Accepts ndarrays, Python numbers and nested lists, anything with ``__dlpack__`` on the CPU or
    ``__array__``. Tensors of torch are detached; bf16 becomes float32, which holds the same
    numbers.

    Raises:
        DiagnosticError: GC0551 if it is not an array of booleans, integers or real numbers.
    """
    if isinstance(value, np.ndarray):
        array = value
    else:
        array = _imported(name, value)
    # A plain array is not looked at through np.ma, whose import takes 25 ms.
    if type(array) is not np.ndarray and np.ma.is_masked(array):
        raise _refused(name, "a masked array", "fill it first, e.g. x.filled(0)")
    if array.dtype.name == "bfloat16" and array.dtype.itemsize == 2:
        return from_bf16(np.ascontiguousarray(array).view(np.uint16)).reshape(array.shape)
    if array.dtype.kind not in "biuf":
        found = "an array of Python objects" if array.dtype.hasobject else f"dtype {array.dtype}"
        raise _refused(
            name, found, "pass an array of numbers, e.g. numpy.asarray(x, numpy.float32)"
        )
    return np.asarray(array)


def expect(name: str, value: object, kinds: type | tuple[type, ...], what: str) -> None:
    """Raises TypeError, in the caller's terms, unless ``value`` is of one of ``kinds``."""
    if not isinstance(value, kinds):
        raise TypeError(f"`{name}` must be {what}, not {type(value).__name__}")


def check_seed(seed: object) -> None:
    """Raises TypeError unless ``seed`` is a whole number: another one is no one's seed."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"`seed` must be a whole number, not {seed!r}")


def _imported(name: str, value: object) -> Array:
    try:
        if device_shape(value) is not None and not hasattr(value, "__array__"):
            raise BufferError("an array that lies on a device")
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return _of_tensor(torch, value)
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(cast("Any", value))
        return np.asarray(value)
    except (ValueError, TypeError, BufferError, RuntimeError) as problem:
        help = "convert it to NumPy first, e.g. x.cpu().to_dense().numpy()"
        help = help if hasattr(value, "detach") else ""
        raise _refused(name, f"{type(value).__name__}: {problem}", help) from None


def _of_tensor(torch: Any, value: Any) -> Array:
    """A tensor of torch without its history: what gradc computes of it is no part of torch's
    graph.
    """
    tensor = value.detach()
    if tensor.dtype is not torch.bfloat16:
        return np.asarray(tensor)
    # NumPy lacks the type, so the bits travel as integers.
    bits: Array = np.asarray(tensor.contiguous().view(torch.int16))
    return from_bf16(bits.view(np.uint16))


def _refused(name: str, found: str, help: str) -> DiagnosticError:
    message = f"`{name}` is not an array of numbers: found {found}"
    return DiagnosticError([error("GC0551", message, None, help=help)])


def refuse_bits(name: str, array: Array, dtype: DType) -> None:
    """Raises DiagnosticError GC0552 for 16-bit integers where the program has bf16: taken for its
    bits, they would be other numbers."""
    if dtype is DType.BF16 and array.dtype == np.uint16:
        raise _wrong_type(name, array.dtype, dtype, f"convert it: {name}.astype(numpy.float32)")


def shapes_of(
    types: Mapping[str, TensorType], inputs: Mapping[str, object]
) -> dict[str, tuple[int, ...]]:
    """The shapes of all inputs that ``types`` names.

    Raises:
        DiagnosticError: GC0551 for what is no array, GC0552 for integers in place of bf16.
    """
    found = {}
    for name, type_ in types.items():
        elsewhere = device_shape(inputs[name])
        if elsewhere is not None:  # a program for that device takes it as it is
            found[name] = elsewhere
            continue
        array = as_array(name, inputs[name])
        refuse_bits(name, array, type_.dtype)
        found[name] = array.shape
    return found


def convert(name: str, array: Array, dtype: DType) -> Array:
    """``array`` dense, aligned, native, of type ``dtype``; itself if it already is.

    Raises:
        DiagnosticError: GC0552 if its numbers cannot be had in ``dtype``.
    """
    wanted = NUMPY_DTYPE[dtype]
    if array.dtype != wanted or not array.dtype.isnative:
        array = as_bf16(name, array) if dtype is DType.BF16 else _recast(name, array, dtype, wanted)
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(array, dtype=array.dtype, order="C")


def _recast(name: str, array: Array, dtype: DType, wanted: np.dtype[Any]) -> Array:
    """A copy in ``wanted``; refuses a change of kind and any number that would not survive."""
    source, target = array.dtype.kind.replace("u", "i"), wanted.kind.replace("u", "i")
    if source != target:
        help = f"convert it: {name}.astype(numpy.{wanted.name})"
        raise _wrong_type(name, array.dtype, dtype, help)
    if target == "f":
        with np.errstate(over="ignore"):
            converted = array.astype(wanted)
        if wanted.itemsize < array.dtype.itemsize and not np.array_equal(
            np.isinf(converted), np.isinf(array)
        ):
            raise _wrong_type(
                name, array.dtype, dtype, "a finite value lies beyond that type's range"
            )
        return converted
    converted = array.astype(wanted)
    if not np.array_equal(converted, array):
        bounds = np.iinfo(wanted)
        help = f"values lie outside {bounds.min} .. {bounds.max}"
        raise _wrong_type(name, array.dtype, dtype, help)
    return converted


def _wrong_type(name: str, found: np.dtype[Any], expected: DType, help: str) -> DiagnosticError:
    message = f"`{name}` is {found.name}; the program expects {expected}"
    return DiagnosticError([error("GC0552", message, None, help=help)])


def as_bf16(name: str, array: Array) -> Array:
    """The bf16 bits of a float array, rounded to nearest even, NaN kept; uint16 passes as bits
    already.
    """
    if array.dtype == np.uint16:
        return array
    if array.dtype.kind != "f":
        raise _wrong_type(
            name, array.dtype, DType.BF16, f"convert it: {name}.astype(numpy.float32)"
        )
    return bf16_bits(array)


def check_names(
    what: str, given: Iterable[str], expected: Sequence[str], optional: Iterable[str] = ()
) -> None:
    """Every expected name given, and no other.

    Raises:
        DiagnosticError: GC0553 for missing and GC0554 for unknown names, all at once.
    """
    names = list(given)
    known = [*expected, *optional]
    found = [
        error("GC0553", f"{what} `{name}` is missing", None, help=f"expected: {listed(expected)}")
        for name in expected
        if name not in names
    ]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) if isinstance(name, str) else ""
            help = hint or f"expected: {listed(expected)}"
            found.append(error("GC0554", f"there is no {what} `{name}`", None, help=help))
    if found:
        raise DiagnosticError(found)


def check_shape(name: str, array: Array, shape: Sequence[int]) -> None:
    """Raises DiagnosticError GC0555 unless ``array`` has exactly ``shape``."""
    if array.shape == tuple(shape):
        return
    message = f"`{name}` has shape {list(array.shape)}; the program expects {list(shape)}"
    raise DiagnosticError([error("GC0555", message, None)])


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for a message: ``x, y`` or ``a, b, ... (40 in all)``."""
    if not names:
        return "none"
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"


def finite_or_fail(arrays: Mapping[str, Array]) -> None:
    """Raises DiagnosticError GC0556 naming every float array that holds NaN or infinity."""
    found = []
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int((~np.isfinite(array)).sum())
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            message = (
                f"`{name}` holds {count} values that are NaN or infinite, the first at {where}"
            )
            found.append(
                error("GC0556", message, None, help="clean the data before training on it")
            )
    if found:
        raise DiagnosticError(found)
