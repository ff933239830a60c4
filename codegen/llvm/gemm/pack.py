"""Packing of matrix factors into dense, converted, aligned scratch, with vector copies along the
contiguous axis.

A column block of the right factor becomes panels of ``k x width``, edge columns zero. Strips of the
left one have a file of their own (``strips``).

Non-goals: deciding when to pack (``gemm_blocking``).
"""

from __future__ import annotations

from dataclasses import dataclass

from gradc.codegen.llvm import static
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import (
    Function,
    Module,
    Value,
    bits_suffix,
    constant,
    element_of,
    lanes_of,
    literal_vector,
    vector,
)
from gradc.ir.tensor.core import DType

_MEMORY = {DType.F64: "double", DType.F32: "float", DType.BF16: "i16", DType.F16: "i16"}
COMPUTE = {DType.F64: "double", DType.F32: "float", DType.BF16: "float", DType.F16: "float"}
I64 = "i64"
LINE = 64  # bytes that caches hold together
PACKED_PANELS = (4, 2)  # panels packed together, as many as there are


def memory_type(dtype: DType) -> str:
    """The LLVM type of an element in memory (bf16 and f16 as their bits)."""
    return _MEMORY[dtype]


def widen(f: Function, value: Value, dtype: DType, isa: Isa) -> Value:
    """A loaded element or vector as it is computed with: bf16 and f16 become f32, exactly."""
    if dtype in (DType.F32, DType.F64):
        return value
    lanes = lanes_of(value.type)
    floats, words = vector("float", lanes), vector("i32", lanes)
    if dtype is DType.F16 and isa.half:
        return f.convert("fpext", f.convert("bitcast", value, vector("half", lanes)), floats)
    bits = f.convert("zext", value, words)
    if dtype is DType.BF16:
        return f.convert("bitcast", f.binary("shl", bits, constant(words, 16)), floats)
    # Exponent and fraction moved into place, then the biases' difference as a factor: exact,
    # denormals too.
    size = f.binary("shl", f.binary("and", bits, constant(words, 0x7FFF)), constant(words, 13))
    sign = f.binary("shl", f.binary("and", bits, constant(words, 0x8000)), constant(words, 16))
    scaled = f.binary("fmul", f.convert("bitcast", size, floats), constant(floats, 2.0**112))
    finite = f.convert("bitcast", scaled, words)
    special = f.binary("or", size, constant(words, 0x7F800000))
    beyond = f.compare("icmp uge", size, constant(words, 0x0F800000))
    joined = f.binary("or", f.select(beyond, special, finite), sign)
    return f.convert("bitcast", joined, floats)


def lane_mask(f: Function, count: Value, lanes: int) -> Value:
    """``<lanes x i1>`` true in the first ``count`` lanes; ``count`` is any i64."""
    return f.compare("icmp slt", literal_vector(I64, range(lanes)), f.splat(count, lanes))


def load_lanes(
    f: Function, pointer: Value, dtype: DType, lanes: int, mask: Value | None, isa: Isa
) -> Value:
    """``lanes`` contiguous elements, widened; masked-off lanes are zero and not read."""
    type_ = vector(memory_type(dtype), lanes)
    if mask is None:
        return widen(f, f.load(pointer, type_, dtype.itemsize), dtype, isa)
    name = f"llvm.masked.load.{bits_suffix(type_)}.p0"
    f.module.declare(name, type_, ("ptr", "i32", mask.type, type_))
    place = f"{pointer}, i32 {dtype.itemsize}"
    text = f"call {type_} @{name}({place}, {mask}, {type_} zeroinitializer)"
    return widen(f, f.effect(text, type_), dtype, isa)


def offset(f: Function, base: Value, element: str, *terms: tuple[Value, int]) -> Value:
    """``base`` moved by ``sum(index * stride)`` elements."""
    pointer = base
    for index, stride in terms:
        if stride and index.name != "0":
            pointer = f.address(pointer, element, static.mul(f, index, i64(stride)))
    return pointer


def transpose(f: Function, rows: list[Value]) -> list[Value]:
    """The transpose of ``n`` vectors of ``n`` lanes, ``n`` a power of two.

    First squares within 16-byte quarters, then the quarters: every shuffle is one cheap instruction
    on x86.
    """
    count = len(rows)
    square = min(count, 2 if element_of(rows[0].type) in ("double", "i64") else 4)
    groups = [_squares(f, rows[n : n + square]) for n in range(0, count, square)]
    result: list[Value] = [rows[0]] * count
    for q in range(square):
        lines = _quarters(f, [group[q] for group in groups], square)
        for number, line in enumerate(lines):
            result[number * square + q] = line
    return result


def _squares(f: Function, rows: list[Value]) -> list[Value]:
    """Transposes each square of ``len(rows)`` columns: vector q holds column q of every square."""
    if len(rows) < 2:
        return rows
    lanes = lanes_of(rows[0].type)
    size = len(rows)
    half = size // 2

    def mix(a: Value, b: Value, step: int, high: bool) -> Value:
        """Runs of ``step`` lanes from ``a`` and ``b`` in turn, out of the low or the high half of
        every square.
        """
        order = []
        for base in range(0, lanes, size):
            for run in range(0, half, step):
                start = base + run + (half if high else 0)
                order += [start + n for n in range(step)]
                order += [lanes + start + n for n in range(step)]
        return f.shuffle(a, b, order)

    pairs = [
        mix(rows[n], rows[n + 1], 1, high) for n in range(0, size, 2) for high in (False, True)
    ]
    if size == 2:
        return pairs
    low0, high0, low1, high1 = pairs
    return [mix(a, b, 2, high) for a, b in ((low0, low1), (high0, high1)) for high in (False, True)]


def _quarters(f: Function, rows: list[Value], size: int) -> list[Value]:
    """Transposes vectors of ``len(rows)`` runs of ``size`` lanes."""
    if len(rows) == 1:
        return rows
    lanes = lanes_of(rows[0].type)
    runs = [range(start, start + size) for start in range(0, 2 * lanes, size)]

    def every_second(first: int) -> list[Value]:
        order = [n for run in runs[first::2] for n in run]
        pairs = zip(rows[0::2], rows[1::2], strict=True)
        return _quarters(f, [f.shuffle(a, b, order) for a, b in pairs], size)

    even, odd = every_second(0), every_second(1)
    return [line for pair in zip(even, odd, strict=True) for line in pair]


def packing(module: Module, name: str) -> Function:
    """Starts a function that packs a factor: ``void (ptr source, i64 row, i64 column, ptr target,
    i64 extent, i64 depth)``, strides in elements.
    """
    names = ("source", "row", "column", "target", "extent", "depth")
    kinds = [("ptr" if n in ("source", "target") else I64, n) for n in names]
    return module.function(name, "void", kinds, attributes="noinline")


def prefetch(f: Function, at: Value, level: int) -> None:
    """Asks for the line at ``at``, which need not be there, for the cache of that level."""
    f.module.declare("llvm.prefetch.p0", "void", ("ptr", "i32", "i32", "i32"))
    f.line(f"call void @llvm.prefetch.p0({at}, i32 0, i32 {4 - level}, i32 1)")


def pack_right(
    module: Module, strides: tuple[int, int], lanes: int, vectors: int, dtype: DType, isa: Isa
) -> str:
    """Defines, once per module, the packing of a column block; returns its name.

    ``void (ptr source, i64 row, i64 column, ptr target, i64 columns, i64 depth)`` packs ``depth x
    columns`` elements into panels of ``lanes * vectors`` columns; columns beyond ``columns`` become
    zero. Strides are in elements; which of ``strides`` (row, column) is 1 chooses the way to read.
    """
    row, column = strides
    way = "rows" if column == 1 else "columns" if row == 1 and lanes > 1 else "scattered"
    name = f"gradc.pack_right.{dtype}.{way}.{lanes}x{vectors}"
    if name in module.functions:
        return name
    f = packing(module, name)
    source, row_stride, column_stride, target, columns, depth = f.parameters
    shape = _Panels(f, dtype, isa, lanes, vectors, target, depth, columns)
    if way == "columns":
        _pack_transposed(shape, source, column_stride)
    else:
        _pack_straight(shape, source, row_stride, None if way == "rows" else column_stride)
    f.ret()
    return name


@dataclass
class _Panels:
    """A column block being packed."""

    f: Function
    dtype: DType
    isa: Isa
    lanes: int
    vectors: int
    target: Value
    depth: Value
    columns: Value

    @property
    def width(self) -> int:
        return self.lanes * self.vectors

    @property
    def element(self) -> str:
        return memory_type(self.dtype)

    @property
    def compute(self) -> str:
        return COMPUTE[self.dtype]

    @property
    def size(self) -> int:
        return 8 if self.compute == "double" else 4

    def count(self) -> Value:
        """How many panels there are."""
        f = self.f
        return f.binary("sdiv", f.binary("add", self.columns, i64(self.width - 1)), i64(self.width))

    def panel(self, number: Value) -> Value:
        """Where a panel starts."""
        f = self.f
        step = f.binary("mul", self.depth, i64(self.width))
        return f.address(self.target, self.compute, f.binary("mul", number, step))


def _pack_straight(p: _Panels, source: Value, row: Value, column: Value | None) -> None:
    """Row by row; ``column`` is None where the elements of a row are contiguous."""
    f = p.f
    done = i64(0)
    if column is None:
        whole = f.binary("sdiv", p.columns, i64(p.width))
        for count in PACKED_PANELS:
            end = f.binary("and", whole, i64(-count))
            with f.loop(done, end, count) as group:
                _pack_panels(p, source, row, group.index, count)
            done = end
    with f.loop(done, p.count(), 1) as panel:
        first = f.binary("mul", panel.index, i64(p.width))
        base = p.panel(panel.index)
        left = f.binary("sub", p.columns, first)
        masks = [
            lane_mask(f, f.binary("sub", left, i64(v * p.lanes)), p.lanes) for v in range(p.vectors)
        ]
        start = f.binary("mul", first, column) if column else first
        with f.loop(i64(0), p.depth, 1) as k:
            line = f.address(source, p.element, f.binary("mul", k.index, row))
            line = f.address(line, p.element, start)
            out = offset(f, base, p.compute, (k.index, p.width))
            for v, mask in enumerate(masks):
                if column is None:
                    at = f.address(line, p.element, i64(v * p.lanes))
                    value = load_lanes(f, at, p.dtype, p.lanes, mask, p.isa)
                else:
                    at = f.address(line, p.element, f.binary("mul", column, i64(v * p.lanes)))
                    value = gather(f, at, p.dtype, column, mask, p.isa)
                f.store(value, f.address(out, p.compute, i64(v * p.lanes)), p.size)


def _pack_panels(p: _Panels, source: Value, row: Value, first: Value, count: int) -> None:
    """``count`` whole panels side by side: their parts of a row lie together in memory."""
    f = p.f
    bases = [p.panel(f.binary("add", first, i64(n))) for n in range(count)]
    start = f.address(source, p.element, f.binary("mul", first, i64(p.width)))
    with f.loop(i64(0), p.depth, 1) as k:
        line = f.address(start, p.element, f.binary("mul", k.index, row))
        step = f.binary("mul", k.index, i64(p.width))
        for n, base in enumerate(bases):
            out = f.address(base, p.compute, step)
            for v in range(p.vectors):
                at = f.address(line, p.element, i64(n * p.width + v * p.lanes))
                value = load_lanes(f, at, p.dtype, p.lanes, None, p.isa)
                f.store(value, f.address(out, p.compute, i64(v * p.lanes)), p.size)


def gather(f: Function, line: Value, dtype: DType, stride: Value, mask: Value, isa: Isa) -> Value:
    """Lanes of a strided row."""
    lanes = lanes_of(mask.type)
    numbers = literal_vector(I64, range(lanes))
    element = memory_type(dtype)
    pointers = f.address(line, element, f.binary("mul", numbers, f.splat(stride, lanes)))
    type_ = vector(element, lanes)
    name = f"llvm.masked.gather.{bits_suffix(type_)}.v{lanes}p0"
    f.module.declare(name, type_, (pointers.type, "i32", mask.type, type_))
    place = f"{pointers}, i32 {dtype.itemsize}"
    text = f"call {type_} @{name}({place}, {mask}, {type_} zeroinitializer)"
    return widen(f, f.effect(text, type_), dtype, isa)


def _pack_transposed(p: _Panels, source: Value, column: Value) -> None:
    """The case of contiguous k: square blocks are loaded along k and transposed in registers."""
    f, lanes = p.f, p.lanes
    groups = f.binary("mul", p.count(), i64(p.vectors))
    last = f.binary("sub", p.columns, i64(1))
    whole = f.binary("and", p.depth, i64(-lanes))
    with f.loop(i64(0), groups, 1) as group:
        base = p.panel(f.binary("sdiv", group.index, i64(p.vectors)))
        part = f.binary("srem", group.index, i64(p.vectors))
        base = offset(f, base, p.compute, (part, lanes))
        first = f.binary("mul", group.index, i64(lanes))
        starts = []
        for n in range(lanes):
            # Columns past the edge repeat the last one: never read outside, never part of a result.
            wanted = f.binary("add", first, i64(n))
            inside = f.select(f.compare("icmp slt", wanted, last), wanted, last)
            starts.append(f.binary("mul", inside, column))
        if not p.isa.masks:  # where masks cost, whole blocks do without
            with f.loop(i64(0), whole, lanes) as k:
                _transposed_block(p, source, starts, base, k.index, None)
        begin = i64(0) if p.isa.masks else whole
        with f.loop(begin, p.depth, lanes) as k:
            mask = lane_mask(f, f.binary("sub", p.depth, k.index), lanes)
            _transposed_block(p, source, starts, base, k.index, mask)


def _transposed_block(
    p: _Panels, source: Value, starts: list[Value], base: Value, k: Value, mask: Value | None
) -> None:
    """``lanes`` steps of k of ``lanes`` columns.

    Steps that ``mask`` leaves out are written as zeros past the end of the panel, where the next
    one is packed later; the last panel has room for them.
    """
    f = p.f
    lines = []
    for start in starts:
        at = f.address(f.address(source, p.element, start), p.element, k)
        lines.append(load_lanes(f, at, p.dtype, p.lanes, mask, p.isa))
    out = offset(f, base, p.compute, (k, p.width))
    for n, value in enumerate(transpose(f, lines)):
        f.store(value, f.address(out, p.compute, i64(n * p.width)), p.size)
