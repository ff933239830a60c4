"""DLPack capsules through ctypes: the structure ``DLManagedTensor`` of dlpack.h, both ways."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np

_CUDA = 2
_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLDataTypeCode
_BFLOAT = 4


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    )


_NAME, _USED = b"dltensor", b"used_dltensor"
_exported: dict[int, tuple[object, ...]] = {}  # by the address of the structure: what it needs

_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_api.PyCapsule_IsValid.argtypes = (ctypes.py_object, ctypes.c_char_p)
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_api.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)


def _forget(address: int) -> None:
    """The consumer needs the memory no longer."""
    _exported.pop(address, None)


_delete = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_forget)


def _is_unused(capsule: int) -> bool:
    valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
    return bool(valid(("PyCapsule_IsValid", _api))(capsule, _NAME))


def _collected(capsule: int) -> None:
    """The capsule is collected; if nobody took what it holds, that is given up."""
    if _is_unused(capsule):
        point = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
        _exported.pop(point(("PyCapsule_GetPointer", _api))(capsule, _NAME), None)


_destroy = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_collected)


def export(
    address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: int, owner: object
) -> object:
    """A capsule of a dense array at ``address``; ``owner`` lives as long as it is used."""
    extents = (ctypes.c_int64 * max(1, len(shape)))(*shape)
    tensor = _Tensor(
        address or None, _CUDA, device, len(shape), _KINDS[dtype.kind], dtype.itemsize * 8, 1,
        extents, None, 0,
    )  # fmt: skip
    managed = _Managed(tensor, None, _delete)
    place = ctypes.addressof(managed)
    _exported[place] = (managed, extents, owner)
    destroy = ctypes.cast(_destroy, ctypes.c_void_p)
    capsule: object = _api.PyCapsule_New(place, _NAME, destroy)
    return capsule


class _Taken:
    """What a capsule held; gives it back when it is collected."""

    def __init__(self, managed: _Managed, address: int) -> None:
        self._managed, self._address = managed, address

    def __del__(self) -> None:
        if self._managed.deleter:
            self._managed.deleter(self._address)


def imported(capsule: object) -> tuple[int, tuple[int, ...], np.dtype[Any], object]:
    """Address, shape, type and owner of what a capsule holds, which is used up.

    Raises:
        ValueError: for an array that is not dense, or of a type that NumPy has no word for.
    """
    if not _api.PyCapsule_IsValid(capsule, _NAME):
        raise ValueError("its capsule was used before")
    place = _api.PyCapsule_GetPointer(capsule, _NAME)
    managed = _Managed.from_address(place)
    _api.PyCapsule_SetName(capsule, _USED)
    kept, tensor = _Taken(managed, place), managed.tensor
    shape = tuple(tensor.shape[n] for n in range(tensor.ndim))
    if tensor.strides and not _is_dense(shape, [tensor.strides[n] for n in range(tensor.ndim)]):
        raise ValueError("it is not dense in row-major order")
    return (tensor.data or 0) + tensor.byte_offset, shape, _dtype(tensor), kept


def _dtype(tensor: _Tensor) -> np.dtype[Any]:
    names = {code: kind for kind, code in _KINDS.items()} | {_BFLOAT: "u"}
    kind = names.get(tensor.code)
    if kind is None or tensor.lanes != 1 or tensor.bits % 8:
        raise ValueError(f"its element type (DLPack code {tensor.code}) is none of a program's")
    return np.dtype(np.bool_) if kind == "b" else np.dtype(f"{kind}{tensor.bits // 8}")


def _is_dense(shape: tuple[int, ...], strides: list[int]) -> bool:
    expected = [prod(shape[n + 1 :]) for n in range(len(shape))]
    return all(s == e or x == 1 for s, e, x in zip(strides, expected, shape, strict=True))
