"""Kernel texts beside the loop nests that they were printed from: every launch of a Plan is run as
text, by the simulator, and as loop nest, by the reference executor, over the same numbers.

Both have a memory of their own, a word per byte, that starts with the same words. After each launch
the whole of both is compared, scratch apart, and what the text has left becomes what the loop nest
has: each text is judged on right operands. Launches come in the order of the texts' program, so a
launch that is missing, is in the wrong place, or points elsewhere shows like a wrong store.

Invariants: a fault names the text that stored the element, or the last text of the kernel where
none did.
Non-goals: what numbers are computed with (``ir.loop.execute.Scalars``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from gradc.codegen.cuda.program import Counted, Exchanged, Program, Resolved, Text
from gradc.codegen.cuda.simulate.memory import Pointer, Space
from gradc.codegen.cuda.simulate.run import Device, count_at
from gradc.codegen.cuda.simulate.shadow import SimulationError
from gradc.codegen.cuda.toolchain.build import CAPABILITIES, build
from gradc.codegen.cuda.toolchain.needs import versions
from gradc.codegen.texts import Same, TextFault, TextRow, TextsRun
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.loop.execute import Scalars, execute_kernel
from gradc.ir.loop.kernel import Buffer
from gradc.ir.loop.verbs import Array
from gradc.ir.plan.execute import resolve
from gradc.ir.plan.plan import Launch, Plan, Repeat, Step
from gradc.ir.tensor.core import DType

_MARK = 1 << 24  # lines of a text are fewer
_LINE = re.compile(r" \(line (\d+)\)$")
_SHOWN = 6


class KernelTexts:
    """See ``codegen.texts.Texts``."""

    def __init__(self, plan: Plan, program: Program, isa: str) -> None:
        self.plan = plan
        self.program = program
        self.isa = isa
        self.rows = tuple(TextRow(t.name, t.kernel, digest(t.source)) for t in program.texts)

    def run(
        self,
        scalars: Scalars,
        poison: Callable[[int], Array],
        arguments: Mapping[str, Any],
        same: Same,
    ) -> TextsRun:
        found = _Lockstep(self.plan, self.program, scalars, poison, same)
        found.fill(arguments)
        found.steps(self.plan.steps, ())
        found.end()
        return TextsRun(found.faults, found.device.trips, found.device.operations)

    def machine_code(self) -> dict[str, str]:
        known = {name: found for name, found in versions().items() if found is not None}
        try:
            made = build(self.program, CAPABILITIES[self.isa])
        except DiagnosticError:  # the extra is missing
            return {}
        return {f"cubin {made.architecture}": digest(made.cubin), **known}


def digest(code: str | bytes) -> str:
    """What names a text or machine code in reports."""
    data = code.encode() if isinstance(code, str) else code
    return hashlib.blake2b(data, digest_size=20).hexdigest()


class _Lockstep:
    """Two memories, and the texts' program as far as it has come."""

    def __init__(
        self,
        plan: Plan,
        program: Program,
        scalars: Scalars,
        poison: Callable[[int], Array],
        same: Same,
    ) -> None:
        self.plan = plan
        self.program = program
        self.scalars = scalars
        self.same = same
        self.device = Device(scalars)
        self.faults: dict[str, TextFault] = {}
        self.memory = [poison(plan.arena_bytes)]  # the arena, then ports
        self.memory += [poison(plan.tensors[port.tensor].nbytes) for port in plan.ports]
        self.spaces: list[Space] = []
        self._parts: dict[int, int] = {}
        for text in program.texts:
            self._parts[text.kernel] = self._parts.get(text.kernel, 0) + 1
        self._steps = program.unrolled()

    def fill(self, arguments: Mapping[str, Any]) -> None:
        """Puts values into the ports that are read, and gives the device its copies."""
        is_read = [False]
        for port, words in zip(self.plan.ports, self.memory[1:], strict=True):
            is_read.append(port.direction != "out")
            if is_read[-1]:
                values = np.asarray(arguments[port.name]).reshape(-1)
                words[:: port.dtype.itemsize] = self.scalars.store(values, port.dtype)
        names = ["arena", *(port.name for port in self.plan.ports)]
        rows = zip(names, self.memory, is_read, strict=True)
        self.spaces = [self.device.space(name, words.copy(), read) for name, words, read in rows]

    # ---- steps

    def steps(self, steps: Sequence[Step], counters: tuple[int, ...]) -> None:
        for step in steps:
            step.case(
                partial(self._launch, counters=counters), partial(self._repeat, counters=counters)
            )

    def end(self) -> None:
        """Notes launches that are left over."""
        for step in self._steps:
            if isinstance(step, Resolved):
                text = self.program.texts[step.launch.text]
                self._note(text, "launch", 0, "its launches", "one too many", "the Plan's")

    def _repeat(self, repeat: Repeat, counters: tuple[int, ...]) -> None:
        for trip in range(repeat.trips):
            if repeat.counter_cell is not None:
                tensor = self.plan.tensors[repeat.counter_cell]
                space, start = self._whole(tensor)
                cell = self.memory[space][start : start + 1]
                cell[:] = self.scalars.store(np.asarray([trip], np.int64), DType.I64)
            self.steps(repeat.body, (*counters, trip))

    def _launch(self, launch: Launch, counters: tuple[int, ...]) -> None:
        kernel = self.plan.kernels[launch.kernel]
        views, places = [], []
        for buffer, argument in zip(kernel.bound, launch.arguments, strict=True):
            tensor = self.plan.tensors[argument.tensor]
            space, start = self._whole(tensor)
            start += resolve(argument, counters) * buffer.dtype.itemsize
            end = start + buffer.size * buffer.dtype.itemsize
            views.append(self.memory[space][start : end : buffer.dtype.itemsize])
            places.append((buffer, tensor.name, space, start, end))
        texts = list(self._texts(launch.kernel))
        execute_kernel(kernel, views, self.scalars)
        if not texts:
            return
        written = [place for place in places if place[0].access != "read"]
        for buffer, name, space, start, end in written:
            self._compare(buffer, name, space, slice(start, end), texts[-1])
        self._beside(launch, texts[-1])
        for _, _, space, start, end in written:
            # What a refused launch has not written is there all the same.
            self.spaces[space].shadow.written[start:end] |= bool(self.faults)

    def _whole(self, tensor: Any) -> tuple[int, int]:
        """The memory that a tensor lies in, and where."""
        if tensor.space == "argument":
            return 1 + (tensor.argument or 0), 0
        return 0, tensor.offset or 0

    def _texts(self, kernel: int) -> Iterator[Text]:
        """Runs the next launches of the program, which should be those of ``kernel``'s texts."""
        left = self._parts.get(kernel, 0)
        while left:
            step = next(self._steps, None)
            if step is None:
                return
            if isinstance(step, Counted):
                space, number, offset = step.place
                count_at(self.spaces[0 if space == "arena" else 1 + number], offset, step.value)
                continue
            if isinstance(step, Exchanged):
                continue  # of numbers of a domain there are no ranks
            text = self.program.texts[step.launch.text]
            self.device.mark = step.launch.text * _MARK
            pointers = [
                Pointer(
                    *(p.name, self.spaces[0 if space == "arena" else 1 + number], offset),
                    *(p.dtype, p.size, p.access),
                )
                for p, (space, number, offset) in zip(text.parameters, step.places, strict=True)
            ]
            try:
                self.device.launch(text, step.launch.grid, pointers)
            except SimulationError as fault:
                said = str(fault).removeprefix(f"{fault.kind}: ").removeprefix(f"{text.name}: ")
                line = _LINE.search(said)
                number = 0 if line is None else int(line[1])
                said = f"{fault.kind}: {_LINE.sub('', said)}"
                self._note(text, fault.kind, number, "what it does", said, "allowed")
            yield text
            left -= 1

    # ---- comparisons

    def _compare(self, buffer: Buffer, name: str, space: int, at: slice, last: Text) -> None:
        """One buffer that a launch has written; the text's becomes the loop nest's."""
        size = buffer.dtype.itemsize
        mine, theirs = (
            words[at][::size] for words in (self.spaces[space].words, self.memory[space])
        )
        equal = self._equal(mine, theirs, buffer.dtype)
        if not equal.all():
            element = int(np.flatnonzero(~equal)[0])
            mark = int(self.spaces[space].lines[at][::size][element])
            found, expected = (
                self.scalars.load(np.ascontiguousarray(words[element : element + 1]), buffer.dtype)
                for words in (mine, theirs)
            )
            text = last if not mark else self.program.texts[mark // _MARK]
            if text.kernel != last.kernel:  # another launch has stored it: this one has not
                text, mark = last, 0
            shown = ("not stored" if not mark else _shown(found)), _shown(expected)
            self._note(text, "differs", mark % _MARK, f"{name}[{element}]", *shown)
        self.spaces[space].words[at] = self.memory[space][at]

    def _equal(self, mine: Array, theirs: Array, dtype: DType) -> Array:
        """Which elements are equal; words that nothing was written to are equal to themselves."""
        if mine.dtype == object:
            is_same = np.array([a is b for a, b in zip(mine, theirs, strict=True)], bool)
        else:
            is_same = mine == theirs
        if is_same.all():
            return is_same
        rest = ~is_same
        left, right = (self.scalars.load(x[rest], dtype) for x in (mine, theirs))
        is_same[rest] = self.same(left, right)
        return is_same

    def _beside(self, launch: Launch, last: Text) -> None:
        """What a launch must not have touched: all but what it writes, and its scratch."""
        for number, (space, words) in enumerate(zip(self.spaces, self.memory, strict=True)):
            if words.dtype == object:
                continue
            other = space.words != words
            if words.dtype.kind == "f":
                other &= ~(np.isnan(space.words) & np.isnan(words))
            if number == 0 and launch.scratch is not None:
                tensor = self.plan.tensors[launch.scratch]
                start = tensor.offset or 0
                other[start : start + tensor.nbytes] = False
                words[start : start + tensor.nbytes] = space.words[start : start + tensor.nbytes]
            if other.any():
                at = int(np.flatnonzero(other)[0])
                mark = int(space.lines[at])
                text = self.program.texts[mark // _MARK] if mark else last
                what = f"byte {at} of {space.name}"
                self._note(text, "differs", mark % _MARK, what, "changed", "as it was")
                space.words[:] = words

    def _note(self, text: Text, kind: str, line: int, of: str, found: str, expected: str) -> None:
        if text.name in self.faults:
            return
        lines = text.source.split("\n")
        source = lines[line - 1].strip() if 0 < line <= len(lines) else ""
        self.faults[text.name] = TextFault(text.name, kind, line, source, of, found, expected)


def _shown(values: Array) -> str:
    value = np.asarray(values).reshape(-1)[0]
    return f"{value:.{_SHOWN}g}" if isinstance(value, np.floating) else str(value)
