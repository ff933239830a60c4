"""Arrays on a device: gradc's own, handed to others without copies, and those of others, taken
likewise.

Others are told by ``__cuda_array_interface__`` (version 3) and DLPack (``dlpack``). NumPy lacks
bf16: its bits are uint16 here as they are on the CPU.

Invariants: what an array of another library holds is ready before it is used (its stream is waited
for); an array of gradc's is ready for what waits for its stream, which it names.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from gradc.codegen.backend import Array
from gradc.codegen.cuda.runner.device import Device, Memory
from gradc.codegen.cuda.runner.dlpack import export, imported

# Streams that the interface names by number: the default one, and none to wait for.
_DEFAULT_STREAMS = (1, 2)


@dataclass(frozen=True, slots=True)
class View:
    """A dense array on a device that a call uses as it is; ``kept`` owns its memory."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_writable: bool
    kept: object

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class DeviceArray:
    """A dense array on a device. NumPy sees its numbers as a copy: ``numpy.asarray(a)``.

    Other libraries take it without one: ``torch.from_dlpack(a)``, ``cupy.asarray(a)``.
    """

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self._memory: Memory = device.take(prod(shape) * dtype.itemsize)

    @classmethod
    def of(cls, device: Device, array: Array) -> DeviceArray:
        """A copy of an array of the host; the copy is in order of the device's stream, and waited
        for.
        """
        made = cls(device, array.shape, array.dtype)
        dense = np.ascontiguousarray(array)
        device.enter()
        device.upload(made.address, dense.ctypes.data, dense.nbytes)
        device.wait()
        return made

    @property
    def device(self) -> Device:
        return self._memory.device

    @property
    def address(self) -> int:
        """Where it begins on its device."""
        return self._memory.address

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"<array on CUDA device {self.device.number}: {self.dtype}{list(self.shape)}>"

    # ---- to the host

    def numpy(self) -> Array:
        """Its numbers, on the host."""
        found = np.empty(self.shape, self.dtype)
        self.device.enter()
        self.device.download(found.ctypes.data, self.address, found.nbytes)
        self.device.wait()
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("numbers on a device are copied to be seen by NumPy")
        found = self.numpy()
        return found if dtype is None else found.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        return self.numpy()[key]

    def __len__(self) -> int:
        return len(self.numpy())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.numpy())

    def __float__(self) -> float:
        return float(self.numpy())

    def __int__(self) -> int:
        return int(self.numpy())

    def copy(self) -> Array:
        """A copy on the host."""
        return self.numpy()

    def tobytes(self) -> bytes:
        """The bytes of its numbers."""
        return self.numpy().tobytes()

    # ---- to other libraries

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "version": 3,
            "strides": None,
            "stream": self.device.stream.value or 1,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.number  # kDLCUDA

    def __dlpack__(self, *, stream: int | None = None, **more: Any) -> object:
        """A capsule without a copy; what was asked of the device is done before."""
        if stream != -1:
            self.device.enter()
            self.device.wait()
        return export(self.address, self.shape, self.dtype, self.device.number, self)


def view(value: object, device: Device) -> View:
    """``value``, which is on a device, as a call takes it.

    Raises:
        ValueError: that says why it cannot be used there as it is.
    """
    if isinstance(value, DeviceArray):
        if value.device is not device:
            raise ValueError(f"it lies on device {value.device.number}, not {device.number}")
        return View(value.address, value.shape, value.dtype, True, value)
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is not None:
        return _of_interface(interface, value, device)
    number = int(value.__dlpack_device__()[1])  # type: ignore[attr-defined]
    if number != device.number:
        raise ValueError(f"it lies on device {number}, not {device.number}")
    capsule = value.__dlpack__(stream=device.stream.value or 1)  # type: ignore[attr-defined]
    address, shape, dtype, kept = imported(capsule)
    return View(address, shape, dtype, True, kept)


def _of_interface(interface: dict[str, Any], value: object, device: Device) -> View:
    shape, dtype = tuple(map(int, interface["shape"])), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    if strides is not None and not _is_dense(shape, tuple(strides), dtype.itemsize):
        raise ValueError("it is not dense in row-major order")
    stream = interface.get("stream")
    if stream is not None and stream != device.stream.value:
        # Of the default streams, the device's own one waits by itself.
        device.enter()
        handle = ctypes.c_void_p(None if stream in _DEFAULT_STREAMS else stream)
        device.driver.call("cuStreamSynchronize", handle)
    address, is_read_only = interface["data"]
    return View(int(address), shape, dtype, not is_read_only, value)


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    expected = itemsize
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent > 1 and stride != expected:
            return False
        expected *= extent
    return True
