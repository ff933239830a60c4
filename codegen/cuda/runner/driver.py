"""NVIDIA's driver through ctypes: the calls that running a Program takes, and nothing else.

The standard library is enough, so that cubins made elsewhere run where only a driver is installed,
and tests put a library of their own in its place (``GRADC_LIBCUDA`` names it). cuda-core would be
one more dependency, and without a driver it raises SystemErrors or hangs.

Invariants: a call that fails is a DiagnosticError: GC0596 without a driver, GC0597 without the
device, GC0598 otherwise.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error

LIBRARY = "GRADC_LIBCUDA"
# The version of each function whose name has one (cuda.h maps the plain names to these).
_VERSIONS = {
    "cuMemAlloc": "_v2",
    "cuMemFree": "_v2",
    "cuMemcpyHtoDAsync": "_v2",
    "cuMemcpyDtoHAsync": "_v2",
    "cuMemcpyDtoDAsync": "_v2",
    "cuMemGetInfo": "_v2",
    "cuStreamBeginCapture": "_v2",
    "cuStreamDestroy": "_v2",
    "cuEventDestroy": "_v2",
    "cuDevicePrimaryCtxRelease": "_v2",
    "cuDeviceTotalMem": "_v2",
}
# Attributes of a device (CUdevice_attribute).
SHARED, REGISTERS, THREADS = 81, 82, 39  # of a multiprocessor at most
BLOCK_SHARED = 97  # of a block, where a kernel asks for it
MULTIPROCESSORS, CLOCK_KHZ, MAJOR, MINOR, BUS_BITS, MEMORY_KHZ = 16, 13, 75, 76, 37, 36

_HELP_DRIVER = (
    "install NVIDIA's driver, or compile only: gradc compile --target cuda --emit ptx,cubin,sass"
)
_HELP_DEVICE = "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES; --target cpu runs on the processor"


class Driver:
    """A loaded and started driver."""

    def __init__(self, library: Any) -> None:
        self._library = library
        status = library.cuInit(0)
        if status:
            raise self._no_device(f"it does not start: {self.name_of(status)}")

    def call(self, name: str, *arguments: Any) -> None:
        """``name(*arguments)``. Integers are 32 bits wide unless wrapped.

        Raises:
            DiagnosticError: GC0598 if it fails.
        """
        status = self.status(name, *arguments)
        if status:
            raise refused(name, self.name_of(status))

    def status(self, name: str, *arguments: Any) -> int:
        """The same; returns what the driver returns."""
        return int(getattr(self._library, name + _VERSIONS.get(name, ""))(*arguments))

    def name_of(self, status: int) -> str:
        """``CUDA_ERROR_...`` of a number."""
        found = ctypes.c_char_p()
        if self._library.cuGetErrorName(status, ctypes.byref(found)) or not found.value:
            return f"error {status}"
        return found.value.decode(errors="replace")

    @functools.cached_property
    def version(self) -> tuple[int, int]:
        """The newest CUDA that it can run."""
        number = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(number))
        return number.value // 1000, number.value % 1000 // 10

    @functools.cached_property
    def count(self) -> int:
        """How many devices there are."""
        number = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(number))
        return number.value

    def device(self, number: int) -> int:
        """The handle of device ``number``.

        Raises:
            DiagnosticError: GC0597 if there are fewer.
        """
        if not 0 <= number < self.count:
            found = f"{self.count} device{'s' * (self.count != 1)}"
            raise self._no_device(f"it finds {found}; number {number} was asked for")
        handle = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(handle), number)
        return handle.value

    def attribute(self, device: int, which: int) -> int:
        """A number that a device states about itself."""
        found = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(found), which, device)
        return found.value

    def name(self, device: int) -> str:
        """What a device is called."""
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, 256, device)
        return text.value.decode(errors="replace")

    def memory(self, device: int) -> int:
        """Bytes of a device."""
        found = ctypes.c_size_t()
        self.call("cuDeviceTotalMem", ctypes.byref(found), device)
        return found.value

    @staticmethod
    def _no_device(reason: str) -> DiagnosticError:
        message = f"the CUDA driver is there, but {reason}"
        return DiagnosticError([error("GC0597", message, None, help=_HELP_DEVICE)])


def refused(call: str, reason: str) -> DiagnosticError:
    """GC0598 for a call."""
    help = ""
    if reason == "CUDA_ERROR_OUT_OF_MEMORY":
        help = "give a budget, a smaller batch, or free what other programs hold on the device"
    elif reason in ("CUDA_ERROR_NO_BINARY_FOR_GPU", "CUDA_ERROR_INVALID_IMAGE"):
        help = "the code is for another kind of device: compile it again on this machine"
    return DiagnosticError([error("GC0598", f"{call}: {reason}", None, help=help)])


def too_large(name: str, nbytes: int, most: int) -> DiagnosticError:
    """GC0598 for a kernel whose blocks have more shared memory than those of a device."""
    message = f"a block of {name} has {nbytes} bytes of shared memory; this device gives {most}"
    help = "the code is for another kind of device: compile it again on this machine"
    return DiagnosticError([error("GC0598", message, None, help=help)])


def driver() -> Driver:
    """The driver of this machine, started.

    Raises:
        DiagnosticError: GC0596 if there is none, GC0597 if it does not start.
    """
    return _opened(os.environ.get(LIBRARY, "libcuda.so.1"))


@functools.cache
def _opened(path: str) -> Driver:
    try:
        library = ctypes.CDLL(path)
    except OSError as problem:
        reason = str(problem).partition("\n")[0]
        message = f"there is no CUDA driver on this machine: {reason}"
        raise DiagnosticError([error("GC0596", message, None, help=_HELP_DRIVER)]) from None
    return Driver(library)
