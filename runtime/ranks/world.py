"""The ranks of a run as MPI has them: who is there, what they exchange, and whether they agree.

    world = world_of(MPI.COMM_WORLD)        # or a number of ranks, for planning alone

Transport, topology and launching are MPI's. Only bytes of arrays are sent: nothing is pickled.

Invariants: every rank calls the same methods in the same order.
Non-goals: starting processes (``runtime.ranks.launch``), what programs exchange
(``passes.training.ranks``).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol, cast

import numpy as np

from gradc.codegen.exchange import Bytes, World, members
from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.runtime.native.arrays import Array

# How long a rank that has failed waits for the others to have failed as well (seconds).
PATIENCE = 2.0
# How often a rank looks for what it waits for without a pause, and how long it pauses then
# (seconds): an MPI that waits by itself takes the whole core.
BUSY_TRIES = 40
POLL = 5e-5
_NAME = 64  # bytes of a machine's name


class Ranks(World, Protocol):
    """What a training step knows of the ranks it runs on."""

    def send(self, array: Array, to: int) -> None:
        """Hands a dense array to another rank, which is to ``receive`` it."""

    def receive(self, array: Array, source: int) -> None:
        """Fills a dense array with what another rank has sent."""

    def spread(self, arrays: Sequence[Array]) -> None:
        """Makes ``arrays`` those of rank 0, in place."""

    def total(self, own: Array, ranks: int) -> Array:
        """The sum of f64 arrays over the ``ranks`` ranks that this one belongs to, which follow
        each other, in their order.
        """

    def agree_on(self, what: str, text: str) -> None:
        """Raises DiagnosticError GC0821 unless all ranks give the same ``text``."""

    def after_first(self) -> AbstractContextManager[None]:
        """Inside, one rank of each machine works before the others, which find what it made."""


class PlannedRanks:
    """Ranks that are only planned for: their number is known, and nothing can be sent."""

    rank = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def begin(self, kind: str, parts: Bytes) -> Callable[[], object]:
        """Raises DiagnosticError GC0820."""
        raise self._nobody()

    def send(self, array: Array, to: int) -> None:
        """Raises DiagnosticError GC0820."""
        raise self._nobody()

    def receive(self, array: Array, source: int) -> None:
        """Raises DiagnosticError GC0820."""
        raise self._nobody()

    def spread(self, arrays: Sequence[Array]) -> None:
        """Raises DiagnosticError GC0820."""
        raise self._nobody()

    def total(self, own: Array, ranks: int) -> Array:
        """Raises DiagnosticError GC0820."""
        raise self._nobody()

    def _nobody(self) -> DiagnosticError:
        message = f"this step was planned for {self.size} ranks, and no ranks are there to run it"
        help = "give ranks=MPI.COMM_WORLD of mpi4py, under mpiexec"
        return DiagnosticError([error("GC0820", message, None, help=help)])

    def agree_on(self, what: str, text: str) -> None:
        """Nobody to disagree."""

    def after_first(self) -> AbstractContextManager[None]:
        """Nobody to wait for."""
        return nullcontext()


class MpiRanks:
    """The ranks of an MPI communicator."""

    def __init__(self, comm: Any) -> None:
        """``comm`` is mpi4py's; exchanges go through copies of it, so that other messages of the
        program do not meet them.
        """
        from mpi4py import MPI

        self._mpi = MPI
        self._comm = comm.Dup()
        self._failures = comm.Dup()
        self._neighbours = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._begun: list[Any] = []  # exchanges on their way, the oldest first
        self.waited = 0.0  # seconds, for other ranks
        self._groups: dict[tuple[int, ...], Any] = {}
        # Set before an error that every rank is about to raise.
        self.is_shared_failure = False

    def begin(self, kind: str, parts: Bytes) -> Callable[[], object]:
        """Begins to exchange ``parts``, of [ranks, bytes of a part], in place; what it returns
        waits for them.
        """
        if self._begun:  # many an MPI moves bytes in calls only, whatever they are for
            self._begun[0].Test()
        comm, own = self._group(kind, len(parts))
        if kind.startswith("deal"):
            begun = comm.Ialltoall(self._mpi.IN_PLACE, [parts, self._mpi.BYTE])
        else:
            if own:
                parts[own] = parts[0]
            begun = comm.Iallgather(self._mpi.IN_PLACE, [parts, self._mpi.BYTE])
        self._begun.append(begun)
        return partial(self._end, begun)

    def _end(self, begun: Any) -> None:
        """Waits, and leaves the core to others where that takes longer."""
        start = time.monotonic()
        tries = 0
        while not begun.Test():
            tries += 1
            time.sleep(0.0 if tries < BUSY_TRIES else POLL)
        self._begun = [request for request in self._begun if request is not begun]
        self.waited += time.monotonic() - start

    def _group(self, kind: str, ranks: int) -> tuple[Any, int]:
        """The communicator of those that this rank exchanges with, and its number there."""
        if ranks == self.size:
            return self._comm, self.rank
        group = members(kind, ranks, self.rank, self.size)
        found = self._groups.get(tuple(group))
        if found is None:
            found = self._groups[tuple(group)] = self._comm.Split(group[0], self.rank)
        return found, group.index(self.rank)

    # --- arrays

    def send(self, array: Array, to: int) -> None:
        """Hands a dense array to another rank, which is to ``receive`` it."""
        self._comm.Send([array.reshape(-1).view(np.uint8), self._mpi.BYTE], to)

    def receive(self, array: Array, source: int) -> None:
        """Fills a dense array with what another rank has sent."""
        self._comm.Recv([array.reshape(-1).view(np.uint8), self._mpi.BYTE], source)

    def total(self, own: Array, ranks: int) -> Array:
        """The sum of f64 arrays over the ``ranks`` ranks that this one belongs to, in order."""
        rows = np.empty((self.size, *own.shape))
        self._comm.Allgather([own, self._mpi.DOUBLE], [rows, self._mpi.DOUBLE])
        first = self.rank // ranks * ranks
        found: Array = sum(rows[first + 1 : first + ranks], start=rows[first])
        return found

    # --- agreement

    def agree_on(self, what: str, text: str) -> None:
        """Compares a digest of ``text``.

        Raises:
            DiagnosticError: GC0821 on every rank, naming those that differ from rank 0.
        """
        digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
        found = np.empty((self.size, len(digest)), np.uint8)
        self._comm.Allgather([digest, self._mpi.BYTE], [found, self._mpi.BYTE])
        others = [rank for rank in range(self.size) if (found[rank] != found[0]).any()]
        if others:
            self.is_shared_failure = True
            ranks = f"rank{'s' if len(others) > 1 else ''} {', '.join(map(str, others))}"
            message = f"{ranks} and rank 0 disagree on {what}"
            help = "start every rank with the same program, data, flags and version of gradc"
            raise DiagnosticError([error("GC0821", message, None, help=help)])

    def everyone(self, number: float) -> list[float]:
        """What every rank has for ``number``, in their order."""
        found = np.empty(self.size)
        self._comm.Allgather([np.array([number]), self._mpi.DOUBLE], [found, self._mpi.DOUBLE])
        return [float(x) for x in found]

    def machine_of(self, rank: int) -> str:
        """The name of the machine of a rank; every rank asks."""
        name = self._mpi.Get_processor_name().encode()[:_NAME] if rank == self.rank else b""
        data = np.frombuffer(name.ljust(_NAME, b" "), np.uint8).copy()
        self._comm.Bcast([data, self._mpi.BYTE], rank)
        return data.tobytes().decode(errors="replace").strip()

    def greatest(self, number: int) -> int:
        """The greatest of all ranks' ``number``."""
        found = np.array(number, np.int64)
        self._comm.Allreduce(self._mpi.IN_PLACE, [found, self._mpi.INT64_T], self._mpi.MAX)
        return int(found)

    def spread(self, arrays: Sequence[Array]) -> None:
        """Makes ``arrays`` those of rank 0, in place."""
        for array in arrays:
            data = np.ascontiguousarray(array)
            self._comm.Bcast([data.reshape(-1).view(np.uint8), self._mpi.BYTE], 0)
            if data is not array:
                array[...] = data

    def spread_text(self, text: str) -> str:
        """The text of rank 0."""
        data = np.frombuffer(text.encode(), np.uint8)
        size = np.array(len(data), np.int64)
        self._comm.Bcast([size, self._mpi.INT64_T], 0)
        whole = data.copy() if self.rank == 0 else np.empty(int(size), np.uint8)
        self._comm.Bcast([whole, self._mpi.BYTE], 0)
        return whole.tobytes().decode()

    def neighbours(self) -> int:
        """How many ranks share this machine, this one among them."""
        return int(self._neighbours.Get_size())

    @contextmanager
    def after_first(self) -> Iterator[None]:
        """Inside, one rank of each machine works before the others, which find what it made."""
        is_first = self._neighbours.Get_rank() == 0
        if not is_first:
            self._neighbours.Barrier()
        try:
            yield
        finally:
            if is_first:
                self._neighbours.Barrier()

    # --- failing

    def have_all_failed(self) -> bool:
        """Waits whether every rank comes here; False if one does not within ``PATIENCE``."""
        request = self._failures.Ibarrier()
        until = time.monotonic() + PATIENCE
        while self.is_shared_failure or time.monotonic() < until:
            if request.Test():
                return True
            time.sleep(0.01)
        return False

    def abort(self, status: int) -> None:
        """Ends every rank of the job."""
        self._comm.Abort(status)


def world_of(ranks: object) -> Ranks:
    """What ``ranks=`` of ``train_step`` means: a communicator of mpi4py, or a number of ranks.

    Raises:
        DiagnosticError: GC0801 for anything else.
    """
    if isinstance(ranks, (MpiRanks, PlannedRanks)):
        return ranks
    if type(ranks) is int and ranks >= 1:
        return PlannedRanks(ranks)
    if callable(getattr(ranks, "Get_rank", None)) and callable(getattr(ranks, "Dup", None)):
        return MpiRanks(cast(Any, ranks))
    message = f"ranks is a communicator of mpi4py or a number of ranks, not {ranks!r}"
    raise DiagnosticError([error("GC0801", message, None)])
