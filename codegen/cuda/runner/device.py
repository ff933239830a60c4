"""One device: its context, a stream, memory on it and pinned memory beside it.

Invariants: memory is taken with plain allocations and given back when its owner is collected; every
entry makes the device's context this thread's.
"""

from __future__ import annotations

import ctypes
import functools
import os
import weakref

from gradc.codegen.cuda.runner.driver import (
    BLOCK_SHARED,
    BUS_BITS,
    CLOCK_KHZ,
    LIBRARY,
    MAJOR,
    MEMORY_KHZ,
    MINOR,
    MULTIPROCESSORS,
    REGISTERS,
    SHARED,
    THREADS,
    Driver,
    driver,
)
from gradc.ir.target.target import Processors

Handle = ctypes.c_void_p
Place = ctypes.c_void_p | ctypes.c_uint64  # an address here, or on the device


class Device:
    """A device that programs run on. ``stream`` orders all that is done there."""

    def __init__(self, number: int) -> None:
        self.driver: Driver = driver()
        self.number = number
        self._device = self.driver.device(number)
        self._context = Handle()
        self.driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.enter()
        self.stream = Handle()
        self.driver.call("cuStreamCreate", ctypes.byref(self.stream), 0)

    def enter(self) -> None:
        """Makes the device's context that of the calling thread."""
        self.driver.call("cuCtxSetCurrent", self._context)

    @functools.cached_property
    def capability(self) -> tuple[int, int]:
        """The compute capability."""
        ask = functools.partial(self.driver.attribute, self._device)
        return ask(MAJOR), ask(MINOR)

    @functools.cached_property
    def processors(self) -> Processors:
        """Its multiprocessors."""
        ask = functools.partial(self.driver.attribute, self._device)
        return Processors(*map(ask, (MULTIPROCESSORS, SHARED, REGISTERS, THREADS, BLOCK_SHARED)))

    @functools.cached_property
    def facts(self) -> dict[str, float]:
        """Clock (Hz), memory (bytes, bytes a second at its clock; 0 where it does not say)."""
        ask = functools.partial(self.driver.attribute, self._device)
        return {
            "clock": 1e3 * ask(CLOCK_KHZ),
            "memory": float(self.driver.memory(self._device)),
            "bandwidth": 2e3 * ask(MEMORY_KHZ) * ask(BUS_BITS) / 8,
        }

    def about(self) -> str:
        """The device in words."""
        name = self.driver.name(self._device)
        capability = ".".join(map(str, self.capability))
        gib = self.driver.memory(self._device) / 2**30
        cuda = ".".join(map(str, self.driver.version))
        return (
            f"{name}, compute capability {capability}, {self.processors.count} multiprocessors, "
            f"{gib:.0f} GiB, driver for CUDA {cuda}"
        )

    # ---- memory

    def take(self, nbytes: int) -> Memory:
        """Memory on the device. Raises DiagnosticError GC0598 if there is not so much."""
        self.enter()
        address = ctypes.c_uint64()
        self.driver.call("cuMemAlloc", ctypes.byref(address), ctypes.c_size_t(max(1, nbytes)))
        return Memory(self, address.value, nbytes)

    def take_pinned(self, nbytes: int) -> Pinned:
        """Memory of the host that the device reads and writes without the processor."""
        self.enter()
        address = ctypes.c_void_p()
        size = ctypes.c_size_t(max(1, nbytes))
        self.driver.call("cuMemHostAlloc", ctypes.byref(address), size, 0)
        return Pinned(self, address.value or 0, nbytes)

    def upload(self, address: int, source: int, nbytes: int) -> None:
        """Copies from the host, in order of the stream."""
        self._moved("HtoD", ctypes.c_uint64(address), ctypes.c_void_p(source), nbytes)

    def download(self, target: int, address: int, nbytes: int) -> None:
        """Copies to the host, in order of the stream."""
        self._moved("DtoH", ctypes.c_void_p(target), ctypes.c_uint64(address), nbytes)

    def copy(self, target: int, address: int, nbytes: int) -> None:
        """Copies on the device, in order of the stream."""
        self._moved("DtoD", ctypes.c_uint64(target), ctypes.c_uint64(address), nbytes)

    def _moved(self, way: str, target: Place, source: Place, nbytes: int) -> None:
        if nbytes:
            size = ctypes.c_size_t(nbytes)
            self.driver.call(f"cuMemcpy{way}Async", target, source, size, self.stream)

    def fill(self, address: int, byte: int, nbytes: int) -> None:
        """Sets every byte, in order of the stream."""
        if nbytes:
            self.driver.call(
                "cuMemsetD8Async",
                ctypes.c_uint64(address),
                ctypes.c_ubyte(byte),
                ctypes.c_size_t(nbytes),
                self.stream,
            )

    def set_word(self, address: int, word: int) -> None:
        """Sets 32 bits, in order of the stream."""
        self.driver.call(
            "cuMemsetD32Async",
            ctypes.c_uint64(address),
            ctypes.c_uint32(word),
            ctypes.c_size_t(1),
            self.stream,
        )

    def wait(self) -> None:
        """Until all that was asked of the device is done."""
        self.driver.call("cuStreamSynchronize", self.stream)

    def event(self) -> Event:
        """A mark in the stream, not yet set."""
        self.enter()
        return Event(self)


class Memory:
    """A block on a device."""

    def __init__(self, device: Device, address: int, nbytes: int) -> None:
        self.device, self.address, self.nbytes = device, address, nbytes
        weakref.finalize(self, _free, device, "cuMemFree", ctypes.c_uint64(address)).atexit = False


class Pinned:
    """A block of pinned memory of the host."""

    def __init__(self, device: Device, address: int, nbytes: int) -> None:
        self.device, self.address, self.nbytes = device, address, nbytes
        place = ctypes.c_void_p(address)
        weakref.finalize(self, _free, device, "cuMemFreeHost", place).atexit = False


def _free(device: Device, call: str, place: object) -> None:
    """Gives a block back; errors of a device that stopped were said by the call that met them."""
    device.driver.status("cuCtxSetCurrent", device._context)
    device.driver.status(call, place)


class Event:
    """A mark in a device's stream."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._handle = Handle()
        device.driver.call("cuEventCreate", ctypes.byref(self._handle), 0)
        finish = weakref.finalize(self, device.driver.status, "cuEventDestroy", self._handle)
        finish.atexit = False

    def set(self) -> None:
        """Marks what was asked for until now."""
        self._device.driver.call("cuEventRecord", self._handle, self._device.stream)

    def wait(self) -> None:
        """Until what was marked is done."""
        self._device.driver.call("cuEventSynchronize", self._handle)

    def seconds_since(self, start: Event) -> float:
        """From another mark to this one, both done."""
        found = ctypes.c_float()
        self._device.driver.call(
            "cuEventElapsedTime", ctypes.byref(found), start._handle, self._handle
        )
        return found.value / 1e3


@functools.cache
def _device(number: int, library: str) -> Device:
    return Device(number)


def device(number: int) -> Device:
    """Device ``number`` of this process.

    Raises:
        DiagnosticError: GC0596 without a driver, GC0597 if there is no such device.
    """
    return _device(number, os.environ.get(LIBRARY, ""))
