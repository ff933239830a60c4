"""What a cubin's machine code is like: registers, spills, stack, f64, vector accesses, the share of
multiply-adds, read from nvdisasm's listing and the cubin's own notes.

Non-goals: how long it takes (``runtime.reports.profile``).
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from gradc.codegen.cuda.toolchain.needs import absent
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.target.target import Processors

_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][A-Z0-9_.x]*)([^;]*);")
_SECTION = re.compile(r"^//-+ \.text\.(\S+)")
_LABEL = re.compile(r"^\s*(\.L_\w+):")
_TARGET = re.compile(r"(\.L_\w+)")
_F64 = ("DADD", "DMUL", "DFMA", "DSETP", "F2F.F64", "DMNMX")
_TENSOR = ("HMMA", "IMMA", "DMMA", "HGMMA", "QGMMA")
# Rows, columns and steps of k of what a warp multiplies, as instructions are named; those of a
# group of four warps have their own (HGMMA.64x128x16).
_OF_WARPS = {"884": 256, "1688": 1024, "16816": 2048, "16832": 4096, "16864": 8192}
_OF_GROUPS = re.compile(r"\.(\d+)x(\d+)x(\d+)\b")


@dataclass(frozen=True, slots=True)
class Statistics:
    """One kernel. Counts are of instructions, not of how often they run; ``stack`` and ``local``
    (spills are among them) are bytes a thread, ``shared`` bytes a block.
    """

    name: str
    registers: int
    stack: int
    shared: int
    instructions: int
    local: int  # loads and stores of local memory: spills, and arrays that no register holds
    f64: int
    wide: int  # loads and stores of 128 bits from global memory
    narrow: int  # other loads and stores of global memory
    multiply_adds: int  # FFMA, FADD, FMUL and tensor core instructions
    fused: int  # FFMA
    tensor: int
    doubles: int = 0  # DFMA
    matrix: int = 0  # multiply-adds of tensor cores, a thread

    @property
    def whole(self) -> Loop:
        """All of it, as if it were a loop."""
        fused = self.fused + self.doubles
        return Loop(self.instructions, fused, self.tensor, self.doubles, self.matrix)

    def occupancy(self, threads: int, on: Processors, dynamic: int = 0) -> int:
        """Blocks of ``threads`` that fit a multiprocessor at once, with so many bytes of dynamic
        shared memory besides their static one.

        Registers are given to warps in units of 256 (CUDA C++ Programming Guide, compute
        capabilities 8.0 to 10.0).
        """
        warps = -(-threads // 32)
        each = -(-self.registers * 32 // 256) * 256 * warps
        fits = [on.threads // (warps * 32), on.registers // max(1, each), 32]
        if self.shared or dynamic:
            fits.append(on.shared_bytes // (self.shared + dynamic + 1024))
        return min(fits)


def listing(code: bytes) -> str:
    """The machine code for people.

    Raises:
        DiagnosticError: GC0595 where there is no nvdisasm.
    """
    with tempfile.TemporaryDirectory(prefix="gradc-") as folder:
        path = Path(folder) / "code.cubin"
        path.write_bytes(code)
        asked = [disassembler(), "-c", str(path)]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise DiagnosticError([absent(f"nvdisasm: {last}")])
    return done.stdout


def disassembler() -> str:
    """The path of nvdisasm: the extra's, or one on the path."""
    try:
        files = distribution("nvidia-cuda-nvdisasm").files or ()
        for file in files:
            if file.name in ("nvdisasm", "nvdisasm.exe"):
                return str(file.locate())
    except PackageNotFoundError:
        pass
    found = shutil.which("nvdisasm")
    if found is None:
        raise DiagnosticError([absent("there is no nvdisasm")])
    return found


def statistics(code: bytes) -> dict[str, Statistics]:
    """What every kernel of a cubin is like, by name.

    Raises:
        DiagnosticError: GC0595 where there is no nvdisasm.
        ValueError: for what is no cubin.
    """
    known = _notes(code)
    return {
        name: _counted(name, instructions, *known[name])
        for name, instructions in _kernels(listing(code))
        if name in known
    }


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop without loops in it: its instructions, and those of them that multiply and add: FFMA
    and DFMA (``doubles``) once a thread, those of tensor cores ``matrix`` times a thread together.
    """

    instructions: int
    fused: int
    tensor: int
    doubles: int = 0
    matrix: int = 0

    @property
    def multiply_adds(self) -> int:
        """How many a thread has in one round."""
        return self.fused + self.matrix

    @property
    def share(self) -> float:
        """Of its instructions, those that are FFMA, DFMA or of a tensor core."""
        return (self.fused + self.tensor) / max(1, self.instructions)

    def busy(self, rates: Rates) -> float:
        """For how much of the time the units that multiply most have work, where each of the four
        schedulers of a multiprocessor issues an instruction a clock and nothing is waited for.
        """
        singles = self.fused - self.doubles
        pairs = ((singles, rates.f32), (self.doubles, rates.f64), (self.matrix, rates.matrix))
        clocks = max(_ISSUED * count / rate for count, rate in pairs)
        return clocks / max(1, clocks, self.instructions)


@dataclass(frozen=True, slots=True)
class Rates:
    """Multiply-adds of a multiprocessor in a clock: in f32 and f64, of bf16 and f16 in tensor
    cores.
    """

    f32: int
    f64: int
    matrix: int


_ISSUED = 128  # threads whose instruction a multiprocessor issues in a clock: four warps


def matrix_work(op: str) -> int:
    """Multiply-adds a thread of an instruction of tensor cores; 1 of an unknown one, 0 of others.

    The shape is in its name: HMMA.16816 multiplies 16 x 16 by 16 x 8 (``mma.m16n8k16``) for a warp,
    HGMMA.64x128x16 64 x 16 by 16 x 128 for four (``wgmma.m64n128k16``).
    """
    head, *more = op.split(".")
    if head not in _TENSOR:
        return 0
    group = _OF_GROUPS.search(op)
    if group is not None:
        return int(group[1]) * int(group[2]) * int(group[3]) // 128
    return next((_OF_WARPS[part] // 32 for part in more if part in _OF_WARPS), 1)


def main_loops(code: bytes) -> dict[str, Loop]:
    """Of every kernel with loops the innermost one with the most multiply-adds.

    Raises:
        DiagnosticError: GC0595 where there is no nvdisasm.
    """
    found: dict[str, Loop] = {}
    for name, lines, labels in _sections(listing(code)):
        for first, last in _innermost(lines, labels):
            ops = [op for op, _ in lines[first:last]]
            heads = [op.split(".")[0] for op in ops]
            doubles = heads.count("DFMA")
            loop = Loop(
                len(heads),
                heads.count("FFMA") + doubles,
                sum(head in _TENSOR for head in heads),
                doubles,
                sum(map(matrix_work, ops)),
            )
            best = found.get(name)
            if best is None or loop.multiply_adds > best.multiply_adds:
                found[name] = loop
    return found


def _innermost(lines: list[tuple[str, str]], labels: dict[str, int]) -> list[tuple[int, int]]:
    """From where to where loops go that have no other inside. A jump to itself, as it fills the
    memory after a kernel, is none.
    """
    spans = []
    for number, (op, rest) in enumerate(lines):
        target = _TARGET.search(rest) if op.startswith("BRA") else None
        if target is not None and labels.get(target[1], number) < number:
            spans.append((labels[target[1]], number + 1))
    return [
        (first, last)
        for first, last in spans
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in spans)
    ]


def _counted(
    name: str, lines: list[tuple[str, str]], registers: int, stack: int, shared: int
) -> Statistics:
    def count(*heads: str) -> int:
        return sum(op.split(".")[0] in heads for op, _ in lines)

    memory = [op for op, _ in lines if op.split(".")[0] in ("LDG", "STG", "LD", "ST")]
    wide = sum(".128" in op for op in memory)
    tensor = count(*_TENSOR)
    return Statistics(
        name,
        registers,
        stack,
        shared,
        len(lines),
        count("LDL", "STL"),
        sum(op.startswith(_F64) for op, _ in lines),
        wide,
        len(memory) - wide,
        count("FFMA", "FADD", "FMUL") + tensor,
        count("FFMA"),
        tensor,
        count("DFMA"),
        sum(matrix_work(op) for op, _ in lines),
    )


def _kernels(text: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Name and instructions of every section of code; padding after the end is left out."""
    for name, lines, _ in _sections(text):
        yield name, _trimmed(lines)


def _sections(text: str) -> Iterator[tuple[str, list[tuple[str, str]], dict[str, int]]]:
    """Name and instructions of every section of code, and where its labels stand."""
    name, lines, labels = "", list[tuple[str, str]](), dict[str, int]()
    for line in text.splitlines():
        section = _SECTION.match(line)
        if section is not None:
            if name:
                yield name, lines, labels
            name, lines, labels = section[1], [], {}
        elif name and (label := _LABEL.match(line)) is not None:
            labels[label[1]] = len(lines)
        elif name and (found := _LINE.search(line)) is not None:
            lines.append((found[1], found[2]))
    if name:
        yield name, lines, labels


def _trimmed(lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the branch to itself and the NOPs that fill the last line of the cache."""
    last = len(lines)
    while last and lines[last - 1][0] in ("NOP", "BRA"):
        last -= 1
    return lines[:last]


# ---- the cubin's own notes ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    offset: int
    size: int
    link: int


def _elf(code: bytes) -> list[_Section]:
    """Every section of a 64-bit ELF file. Raises ValueError for another file."""
    if code[:5] != b"\x7fELF\x02":
        raise ValueError("no cubin: it is not a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", code, 40)
    size, count, names = struct.unpack_from("<3H", code, 58)
    heads = [struct.unpack_from("<2I4Q2I2Q", code, table + size * n) for n in range(count)]
    strings = heads[names][4]
    return [_Section(_text(code, strings + h[0]), h[4], h[5], h[6]) for h in heads]


def _text(code: bytes, at: int) -> str:
    return code[at : code.index(b"\0", at)].decode()


_FUNCTION, _GLOBAL = 2, 1
_SYMBOL = struct.Struct("<IBBHQQ")  # name, type and binding, visibility, section, value, size


def _entries(code: bytes, sections: list[_Section]) -> Iterator[tuple[int, str]]:
    """Number of the symbol and name of every kernel; what kernels call is local."""
    symbols = next(s for s in sections if s.name == ".symtab")
    names = sections[symbols.link].offset
    for number in range(symbols.size // _SYMBOL.size):
        word, kind, *_ = _SYMBOL.unpack_from(code, symbols.offset + _SYMBOL.size * number)
        if kind & 15 == _FUNCTION and kind >> 4 == _GLOBAL:
            yield number, _text(code, names + word)


# Kinds of notes (EIATTR_...) whose values are the number of a symbol and a word.
_FRAME, _REGISTERS, _MIN_STACK, _SIZED = 0x11, 0x2F, 0x12, 4


def _notes(code: bytes) -> dict[str, tuple[int, int, int]]:
    """Registers a thread, bytes of stack and static shared bytes of every kernel by name."""
    sections = _elf(code)
    shared = {
        s.name.removeprefix(".nv.shared."): s.size for s in sections if ".nv.shared." in s.name
    }
    words: dict[tuple[int, int], int] = {}
    for section in sections:
        if section.name != ".nv.info":
            continue
        at, end = section.offset, section.offset + section.size
        while at < end:
            form, kind, length = struct.unpack_from("<BBH", code, at)
            if form == _SIZED and length == 8:
                symbol, value = struct.unpack_from("<2I", code, at + 4)
                words[kind, symbol] = value
            at += 4 + (length if form == _SIZED else 0)
    found = {}
    for symbol, name in _entries(code, sections):
        stack = max(words.get((kind, symbol), 0) for kind in (_FRAME, _MIN_STACK))
        found[name] = (words.get((_REGISTERS, symbol), 0), stack, shared.get(name, 0))
    return found
