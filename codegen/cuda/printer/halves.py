"""How slices of a factor in bf16 or f16 get to shared memory for tensor cores: by chunks of 16
bytes, or pieces of 8 or 4 of them, that are on their way while others are multiplied, or by
elements, which threads read and store, where no such are aligned and for windows of images.

Either way element (place, step) lies where ``tensor`` says. Elements are in the order in which
neighbouring threads read neighbours: with k fast where k goes over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradc.codegen.cuda.printer.nest import Nest
from gradc.codegen.cuda.printer.products import times, unflatten
from gradc.ir.loop.kernel import Factor

CHUNK = 8  # elements of a copy


@dataclass(frozen=True, slots=True)
class Slab:
    """A slice of one factor: ``size`` rows (columns) of ``extent`` from the one that ``first``
    names, ``depth`` of ``k`` steps, copied by ``threads``. Where places are fast a slice has lines
    of ``line`` of them, all steps of the first, then of the next.
    """

    name: str
    first: str
    size: int
    extent: int
    k: int
    depth: int
    threads: int
    line: int  # places of a line where they are fast

    @property
    def slice(self) -> int:
        return self.size * self.depth

    def inside(self, place: str, step: str) -> list[str]:
        """What holds where a row (column) and a step are the factor's."""
        found = [f"({place} < {self.extent})"] if self.extent % self.size else []
        return found + ([f"({step} < {self.k})"] if self.k % self.depth else [])


def is_even(threads: int, per_line: int) -> bool:
    """Whether chunks are swapped alike in all lines of a thread, of ``per_line`` copies each."""
    return threads // per_line % 8 == 0


class Chunks:
    """A matrix whose rows (columns) are whole pieces of ``width`` elements, 8, 4 or 2: a copy."""

    def __init__(
        self, nest: Nest, factor: Factor, slab: Slab, strides: tuple[int, int], width: int
    ) -> None:
        self.nest = nest
        self.factor = factor
        self.slab = slab
        self.stride, self.k_stride = strides
        self.width = width
        self.along_k = self.k_stride == 1
        self.per_line = (slab.depth if self.along_k else slab.size) // width
        self.apart = slab.threads // self.per_line  # lines from one copy of a thread to its next
        self.is_even = is_even(slab.threads, self.per_line)

    def base(self, batch: Sequence[str]) -> None:
        """Which pieces this thread copies."""
        add, name, width = self.nest.lines.add, self.slab.name, self.width
        place, step = f"{name}_place", f"{name}_step"
        line, within = (place, step) if self.along_k else (step, place)
        add(f"{line} = floordiv(t, {self.per_line})")
        add(f"{within} = mod(t, {self.per_line})")
        if width < CHUNK:
            add(f"{name}_rest = {width} * mod({within}, {CHUNK // width})")
            add(f"{name}_chunk = floordiv({within}, {CHUNK // width})")
        if self.is_even:
            chunk = within if width == CHUNK else f"{name}_chunk"
            add(f"{name}_to = {self._place(line, chunk)}")
        add(f"{within} = {width} * {within}")
        terms = _batch(self.factor, batch)
        terms.append(times(f"({self.slab.first} + {place})", self.stride))
        terms.append(times(step, self.k_stride))
        add(f"{name}_at = {' + '.join(terms)}")

    def _place(self, line: str, chunk: str) -> str:
        """Where a chunk of a line lies, and in it this thread's piece."""
        slab = self.slab
        rest = "" if self.width == CHUNK else f" + {slab.name}_rest"
        if self.along_k:
            swapped = f"bitxor({chunk}, mod(floordiv({line}, 2), 4))"
            return f"{slab.depth} * {line} + 8 * {swapped}{rest}"
        begin = ""
        if slab.line < slab.size:
            begin = f"{slab.line * slab.depth} * floordiv({chunk}, {slab.line // CHUNK}) + "
            chunk = f"mod({chunk}, {slab.line // CHUNK})"
        return f"{begin}{slab.line} * {line} + 8 * bitxor({chunk}, mod({line}, 8)){rest}"

    def copy(self, k: str, slot: str) -> None:
        """The pieces of the slice that begins with step ``k`` set off."""
        slab, name, lines = self.slab, self.slab.name, self.nest.lines
        count = slab.slice // self.width // slab.threads
        places, steps = (self.apart, 0) if self.along_k else (0, self.apart)
        more = [f" + {times('n', n)}" if n else "" for n in (places, steps)]
        inside = slab.inside(f"{slab.first} + {name}_place{more[0]}", f"{k} + {name}_step{more[1]}")
        k_part = times(k if " " not in k else f"({k})", self.k_stride)
        apart = places * self.stride + steps * self.k_stride
        beyond = slab.depth * places + slab.line * steps
        with lines.block(f"for n in range({count})"):
            to = f"{name}_to + {beyond} * n"
            if not self.is_even:
                line = f"{name}_place{more[0]}" if self.along_k else f"{name}_step{more[1]}"
                lines.add(f"which = {line}")
                to = self._place("which", f"{name}_chunk")
            lines.add(
                f"copy_async({name}, {slab.slice} * {slot} + {to},"
                f" {self.nest.buffers[self.factor.buffer]}, {name}_at + {k_part} + {apart} * n, "
                f"{self.width}, {' & '.join(inside) or 'True'})"
            )


class Elements:
    """Any factor. A thread has elements of one place in several steps, or, with k fast, of one step
    in several places.
    """

    def __init__(self, nest: Nest, factor: Factor, slab: Slab, stride: int, k_stride: int) -> None:
        self.nest = nest
        self.factor = factor
        self.slab = slab
        self.stride = stride
        self.k_stride = k_stride
        patch = factor.patch
        # Whether rows (columns) are channels and taps, and k goes over images.
        self.own_taps = patch is not None and (slab.name == "left") != patch.is_turned
        self.along_k = k_stride == 1 if patch is None else self.own_taps
        new = nest.words.names.new
        self.own, self.at_k = new(f"{slab.name}_own"), new(f"{slab.name}_k")
        self.fixed: list[str] = []  # what the thread's place means, where it has one

    def base(self, batch: Sequence[str]) -> None:
        """Which elements this thread copies."""
        add, slab, name = self.nest.lines.add, self.slab, self.slab.name
        fast = slab.depth if self.along_k else slab.size
        places = ("step", "place") if self.along_k else ("place", "step")
        add(f"{name}_{places[0]} = mod(t, {fast})")
        add(f"{name}_{places[1]} = floordiv(t, {fast})")
        terms = _batch(self.factor, batch)
        if not self.along_k:
            add(f"{self.own} = {slab.first} + {name}_place")
            self.fixed = self._part(self.own, self.own_taps, self.stride)
        add(f"{name}_at = {' + '.join(terms) or '0'}")

    def copy(self, k: str, slot: str) -> None:
        """The slice that begins with step ``k`` is read and stored: 0 where the factor ends or a
        window reaches out of its image.
        """
        slab, name, lines = self.slab, self.slab.name, self.nest.lines
        state = self.nest.words.state()
        add = lines.add
        rows = slab.threads // (slab.depth if self.along_k else slab.size)
        to = slab.slice * int(slot) if slot.isdigit() else times(slot, slab.slice)
        if self.along_k:
            add(f"{self.at_k} = {k} + {name}_step")
            k_part = self._part(self.at_k, not self.own_taps, self.k_stride)
        with lines.block(f"for n in range({slab.slice // slab.threads})"):
            if self.along_k:
                add(f"which = {name}_place + {times('n', rows)}")
                add(f"{self.own} = {slab.first} + which")
                own = self._part(self.own, self.own_taps, self.stride)
                chunk = f"bitxor(floordiv({name}_step, 8), mod(floordiv(which, 2), 4))"
                place = f"{slab.depth} * which + 8 * {chunk} + mod({name}_step, 8)"
            else:
                add(f"which = {name}_step + {times('n', rows)}")
                add(f"{self.at_k} = {k} + which")
                own, k_part = self.fixed, self._part(self.at_k, not self.own_taps, self.k_stride)
                chunk, begin = f"floordiv({name}_place, 8)", ""
                if slab.line < slab.size:
                    chunk = f"mod({chunk}, {slab.line // CHUNK})"
                    begin = f"{slab.line * slab.depth} * floordiv({name}_place, {slab.line}) + "
                chunk = f"bitxor({chunk}, mod(which, 8))"
                place = f"{begin}{slab.line} * which + 8 * {chunk} + mod({name}_place, 8)"
            at, inside = self._meet(own, k_part)
            inside = slab.inside(self.own, self.at_k) + inside
            pointer = self.nest.buffers[self.factor.buffer]
            if inside:
                add("value = u16(0)")
                with lines.block(f"if {' & '.join(inside)}"):
                    add(f"value = load({pointer}, {at})")
            else:
                add(f"value = load({pointer}, {at})")
            add(f"store({name}, {to} + {place}, value)")
        self.nest.words.reset(state)

    def _part(self, flat: str, taps: bool, stride: int) -> list[str]:
        """What a place or a step adds to the address, then where it is along each axis of an image,
        named.
        """
        patch, new, lines = self.factor.patch, self.nest.words.names.new, self.nest.lines
        if patch is None:
            return [times(flat, stride)]
        if taps:
            extents, kinds = (patch.channels, *patch.taps), ("channel", *("tap",) * len(patch.taps))
            outer, steps = patch.channel_stride, patch.step
        else:
            extents, kinds = (patch.images, *patch.places), ("image", *("at",) * len(patch.places))
            outer, steps = patch.image_stride, patch.stride
        names = [new(kind) for kind in kinds]
        unflatten(self.nest, flat, extents, names, short=True)
        found = [times(names[0], outer)]
        for name, step in zip(names[1:], steps, strict=True):
            if step != 1:
                lines.add(f"{name} = {times(name, step)}")
            found.append(name)
        return found

    def _meet(self, own: Sequence[str], k: Sequence[str]) -> tuple[str, list[str]]:
        """The address of an element, and what holds where it is inside of its image."""
        patch, lines, new = self.factor.patch, self.nest.lines, self.nest.words.names.new
        inside: list[str] = []
        within = ""
        if patch is not None:
            for one, other, extent, before in zip(
                own[1:], k[1:], patch.size, patch.before, strict=True
            ):
                at = new("at")
                lines.add(f"{at} = {one} + {other}" + (f" - {before}" if before else ""))
                inside += [f"({at} >= 0)", f"({at} < {extent})"]
                within = f"{extent} * ({within}) + {at}" if within else at
        terms = [f"{self.slab.name}_at", own[0], k[0], within]
        return " + ".join(term for term in terms if term), inside


def _batch(factor: Factor, batch: Sequence[str]) -> list[str]:
    """What the place of a batch adds to an address."""
    strides = zip(batch, factor.batch_strides, strict=True)
    terms = [times(index, stride) for index, stride in strides if stride]
    return terms + ([str(factor.offset)] if factor.offset else [])
