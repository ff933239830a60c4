"""The arrays of one call, where the device has them.

Arrays of the host have a room on the device, which they are copied to and back. An array of a
device is used where it lies, if kernels can read it there: they take 16 bytes at once, so one that
begins elsewhere than at a multiple of 16 bytes (a slice of another library's) goes through the
port's room as well, by copies on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.codegen.cuda.runner.arrays import View, view
from gradc.codegen.cuda.runner.device import Device
from gradc.ir.plan.plan import Port

_ALIGNED = 16  # bytes of the widest access


@dataclass(frozen=True, slots=True)
class _Move:
    """An array of ``nbytes`` that is copied to its room before a call, or back after it."""

    room: int
    array: int
    nbytes: int
    is_host: bool
    is_read: bool
    is_written: bool


class Placed:
    """``addresses`` are those that a program is launched with, one per port. ``room`` gives a
    port's room; arrays of ``apart`` ports have one and are copied by others.
    """

    def __init__(
        self,
        ports: Sequence[Port],
        arrays: Sequence[Any],
        device: Device,
        room: Callable[[int], int],
        apart: Iterable[int] = (),
    ) -> None:
        self.device = device
        self.addresses: list[int] = []
        self._moves: list[_Move] = []
        self._kept: list[View] = []  # what a capsule gave lives as long as its address is used
        others = set(apart)
        for number, (port, array) in enumerate(zip(ports, arrays, strict=True)):
            is_host = isinstance(array, np.ndarray)
            if number in others:
                self.addresses.append(room(number))
                continue
            at, nbytes = _extent(array) if is_host else self._seen(array)
            if not is_host and at % _ALIGNED == 0:
                self.addresses.append(at)
                continue
            self.addresses.append(room(number))
            is_read, is_written = port.direction != "out", port.direction != "in"
            move = _Move(self.addresses[-1], at, nbytes, is_host, is_read, is_written)
            self._moves.append(move)

    def _seen(self, array: Any) -> tuple[int, int]:
        seen = array if isinstance(array, View) else view(array, self.device)
        self._kept.append(seen)
        return seen.address, seen.nbytes

    def arrive(self) -> None:
        """Copies what a call reads to its rooms, in order of the stream."""
        for move in self._moves:
            if move.is_read and move.is_host:
                self.device.upload(move.room, move.array, move.nbytes)
            elif move.is_read:
                self.device.copy(move.room, move.array, move.nbytes)

    def leave(self) -> None:
        """Copies what a call has written back, in order of the stream."""
        for move in self._moves:
            if move.is_written and move.is_host:
                self.device.download(move.array, move.room, move.nbytes)
            elif move.is_written:
                self.device.copy(move.array, move.room, move.nbytes)


def _extent(array: Any) -> tuple[int, int]:
    return int(array.ctypes.data), int(array.nbytes)
