"""Matrix products, any of them: one thread per element, k in order.

The sum is a tree of leaves of ``K_LEAF`` steps, each a chain of fused multiply-adds from zero, and
of nodes of ``K_NODE`` children (``ir.loop.order``). A node starts at -0, so that it begins with its
first child.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from gradc.codegen.cuda.printer.nest import Nest
from gradc.codegen.cuda.printer.words import from_element, literal, zero
from gradc.ir.loop.kernel import Factor, Gemm, Patch
from gradc.ir.loop.order import K_LEAF, K_NODE, node_spans
from gradc.ir.tensor.core import DType

PRODUCT_THREADS = 128


def results(gemm: Gemm) -> int:
    """How many elements a product has."""
    return prod(gemm.batch) * gemm.m * gemm.n


def write_product(nest: Nest, gemm: Gemm, threads: int) -> None:
    """Writes what a thread does: its element, then the epilogue."""
    total = results(gemm)
    lines, words = nest.lines, nest.words
    lines.add(f"element = b * {threads} + t")
    with lines.block(f"if element < {total}"):
        extents = (*gemm.batch, gemm.m, gemm.n)
        variables = (*gemm.batch_index, gemm.i, gemm.j)
        names = [words.define(var) for var in variables]
        unflatten(nest, "element", extents, names)
        acc = words.define(gemm.acc)
        _sum(nest, gemm, names, acc)
        nest.body(gemm.epilogue)


def unflatten(
    nest: Nest, flat: str, extents: Sequence[int], names: Sequence[str], short: bool = False
) -> None:
    """The indices of a row-major place, named; ``short``: it is not negative and fits 31 bits, in
    which a processor divides several times faster.
    """
    step = prod(extents)
    if short and step < 1 << 31 and step > 1:
        _short(nest, flat, extents, names)
        return
    for n, (extent, name) in enumerate(zip(extents, names, strict=True)):
        step //= extent
        text = flat if step == 1 else f"floordiv({flat}, {step})"
        wraps = n > 0 and prod(extents[:n]) > 1
        nest.lines.add(f"{name} = mod({text}, {extent})" if wraps else f"{name} = {text}")


def _short(nest: Nest, flat: str, extents: Sequence[int], names: Sequence[str]) -> None:
    """From the last index to the first, each a quotient and what is left."""
    lines, new = nest.lines, nest.words.names.new
    rest = new("rest")
    lines.add(f"{rest} = u32({flat})")
    for n in reversed(range(1, len(extents))):
        if extents[n] == 1:
            lines.add(f"{names[n]} = 0")
            continue
        lines.add(f"{names[n]} = i64(mod({rest}, u32({extents[n]})))")
        lines.add(f"{rest} = floordiv({rest}, u32({extents[n]}))")
    lines.add(f"{names[0]} = i64({rest})")


def _sum(nest: Nest, gemm: Gemm, names: Sequence[str], acc: str) -> None:
    """The chain, or the tree of chains."""
    lines, words = nest.lines, nest.words
    *batch, i, j = names
    left = _Side(nest, gemm.left, batch, i, "left")
    right = _Side(nest, gemm.right, batch, j, "right")
    dtype = gemm.acc.dtype
    spans = node_spans(gemm.k, K_LEAF, K_NODE)
    k = "k"
    lines.add(f"{acc} = {literal(-0.0 if spans else 0.0, dtype)}")

    def level(start: str, end: str, total: str, spans: Sequence[int]) -> None:
        if not spans:
            head = f"range({end})" if start == "0" else f"range({start}, {end})"
            with lines.block(f"for {k} in {head}"):
                x, y = left.element(k, True), right.element(k, False)
                lines.add(f"{total} = fma({x}, {y}, {total})")
            return
        first, step = words.names.new("first"), spans[0]
        with lines.block(f"for {first} in range({start}, {end}, {step})"):
            stop, part = words.names.new("stop"), words.names.new("part")
            lines.add(f"{stop} = min({first} + {step}, {end})")
            lines.add(f"{part} = {literal(-0.0 if spans[1:] else 0.0, dtype)}")
            level(first, stop, part, spans[1:])
            lines.add(f"{total} = {total} + {part}")

    level("0", str(gemm.k), acc, spans)


class _Side:
    """One factor: the part of its address that a thread's element fixes, then elements along k."""

    def __init__(
        self, nest: Nest, factor: Factor, batch: Sequence[str], own: str, name: str
    ) -> None:
        self.nest = nest
        self.factor = factor
        self.own = own
        self.wide = "f64" if factor.buffer.dtype is DType.F64 else "f32"
        terms = [times(n, s) for n, s in zip(batch, factor.batch_strides, strict=True) if s]
        fixed = factor.row if name == "left" else factor.column
        if fixed:
            terms.append(times(own, fixed))
        terms += [str(factor.offset)] if factor.offset or not terms else []
        self.base = nest.words.names.new(name)
        nest.lines.add(f"{self.base} = {' + '.join(terms)}")

    def element(self, k: str, is_left: bool) -> str:
        """The element at k, as an f32 or f64."""
        factor, dtype = self.factor, self.factor.buffer.dtype
        pointer = self.nest.buffers[factor.buffer]
        if factor.patch is None:
            stride = factor.column if is_left else factor.row
            place = self.base if not stride else f"{self.base} + {times(k, stride)}"
            return from_element(f"load({pointer}, {place})", dtype)
        row, column = (self.own, k) if is_left else (k, self.own)
        if factor.patch.is_turned:
            row, column = column, row
        return self._patched(factor.patch, pointer, row, column)

    def _patched(self, patch: Patch, pointer: str, row: str, column: str) -> str:
        """An element of windows of images: 0 outside."""
        nest = self.nest
        lines, new = nest.lines, nest.words.names.new
        taps = [new("tap") for _ in patch.taps]
        places = [new("place") for _ in patch.places]
        channel, image = new("channel"), new("image")
        unflatten(nest, row, (patch.channels, *patch.taps), [channel, *taps])
        unflatten(nest, column, (patch.images, *patch.places), [image, *places])
        inside: list[str] = []
        within = ""
        for axis, size in enumerate(patch.size):
            at = new("at")
            where = f"{times(places[axis], patch.stride[axis])} + "
            where += f"{times(taps[axis], patch.step[axis])} - {patch.before[axis]}"
            lines.add(f"{at} = {where}")
            inside += [f"({at} >= 0)", f"({at} < {size})"]
            within = at if not within else f"({within}) * {size} + {at}"
        value = new("x")
        dtype = self.factor.buffer.dtype
        lines.add(f"{value} = {zero(dtype)}")
        place = f"{self.base} + {times(channel, patch.channel_stride)}"
        place += f" + {times(image, patch.image_stride)} + {within}"
        with lines.block(f"if {' & '.join(inside)}"):
            lines.add(f"{value} = {from_element(f'load({pointer}, {place})', dtype)}")
        return value


def times(name: str, factor: int) -> str:
    """A product with a literal."""
    return name if factor == 1 else f"{factor} * {name}"
