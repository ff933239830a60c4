"""What is known of a program's machine code without a machine to run it on: what each kernel takes
of a multiprocessor, what its hottest loop consists of, and what the machine could do at most.

Non-goals: times, which are measured (``codegen.measured``) or not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradc.ir.plan.plan import Launch


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a data sheet says of a processor: flops a second by precision, bytes a second,
    multiprocessors; ``source`` names the sheet.
    """

    processor: str
    flops: Mapping[str, float]
    bandwidth: float
    multiprocessors: int
    source: str


@dataclass(frozen=True, slots=True)
class KernelCode:
    """Machine code of one kernel as it is launched: ``grid`` blocks of ``threads``.

    ``blocks`` fit a multiprocessor at once, which has ``occupancy`` of the threads it can have.
    ``spilled`` counts instructions that touch local memory, ``stack`` is in bytes a thread,
    ``shared`` in bytes a block. ``hot`` are the instructions of the hottest loop, of the kernel
    where it has none, ``hot_adds`` the multiply-adds that a thread has in it (an instruction of
    tensor cores has many), ``hot_share`` for how much of the time the units that multiply have work
    there, if an instruction is issued every clock; ``wide`` of the accesses to global memory are of
    16 bytes, ``narrow`` are not.
    """

    name: str
    grid: int
    threads: int
    registers: int
    shared: int
    stack: int
    spilled: int
    blocks: int
    occupancy: float
    instructions: int
    hot: int
    hot_adds: int
    hot_share: float
    wide: int
    narrow: int
    f64: int


@dataclass(frozen=True, slots=True)
class LaunchCode:
    """One launch of a Plan, how often a call runs it, and its kernels."""

    launch: Launch
    runs: int
    precision: str
    kernels: tuple[KernelCode, ...]


@dataclass(frozen=True, slots=True)
class CodeEstimate:
    """All launches of a Plan in order, and the data sheets of processors that run this code."""

    architecture: str
    sheets: tuple[Sheet, ...]
    launches: Sequence[LaunchCode]
