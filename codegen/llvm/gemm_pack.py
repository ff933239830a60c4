"""Packing of matrix factors into dense, converted, aligned scratch, with vector copies along the contiguous axis.

A column block of the right factor becomes panels of ``k x width``, edge columns zero. A strip of the left factor
becomes either ``row x pitch`` (its columns contiguous in memory) or ``k x row`` (its rows contiguous).

Non-goals: deciding when to pack (``gemm_blocking``).
"""

from __future__ import annotations

from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.text import Function, Value, bits_suffix, constant, lanes_of, vector
from gradc.ir.core import DType

_MEMORY = {DType.F64: "double", DType.F32: "float", DType.BF16: "i16", DType.F16: "i16"}
_COMPUTE = {DType.F64: "double", DType.F32: "float", DType.BF16: "float", DType.F16: "float"}
I64 = "i64"


def memory_type(dtype: DType) -> str:
    """The LLVM type of an element in memory (bf16 and f16 as their bits)."""
    return _MEMORY[dtype]


def i64(value: int) -> Value:
    return Value(I64, str(value))


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
    # Exponent and fraction moved into place, then the biases' difference as a factor: exact, denormals too.
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
    steps = ", ".join(f"i64 {n}" for n in range(lanes))
    bound = f.splat(count, lanes)
    return f.op(f"icmp slt <{lanes} x i64> <{steps}>, {bound.name}", vector("i1", lanes))


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
            scaled = index if stride == 1 else f.binary("mul", index, i64(stride))
            pointer = f.address(pointer, element, scaled)
    return pointer


def transpose(f: Function, rows: list[Value]) -> list[Value]:
    """The transpose of ``n`` vectors of ``n`` lanes, ``n`` a power of two, by interleaving halves."""
    count = len(rows)
    low = [x for n in range(count // 2) for x in (n, n + count)]
    high = [x + count // 2 for x in low]
    half = count // 2
    for _ in range(count.bit_length() - 1):
        mixed: list[Value] = []
        for n in range(half):
            mixed.append(f.shuffle(rows[n], rows[n + half], low))
            mixed.append(f.shuffle(rows[n], rows[n + half], high))
        rows = mixed
    return rows


def emit_pack_right(
    f: Function,
    source: Value,
    target: Value,
    depth: Value,
    columns: Value,
    shape: tuple[int, int, int, int],
    dtype: DType,
    isa: Isa,
) -> None:
    """Packs ``depth x columns`` elements from ``source`` into panels at ``target``.

    ``shape`` is (row stride, column stride, lanes, vectors per panel); columns beyond ``columns`` become zero.
    """
    row, column, lanes, vectors = shape
    width = lanes * vectors
    wide = isa.lanes(dtype)
    accumulator = _COMPUTE[dtype]
    size = 8 if accumulator == "double" else 4
    if row == 1 and lanes == wide and lanes > 1:
        _pack_transposed(f, source, target, depth, columns, shape, dtype, isa)
        return
    panel_bytes = f.binary("mul", depth, i64(width))
    panels = f.binary("sdiv", f.binary("add", columns, i64(width - 1)), i64(width))
    with f.loop(i64(0), panels, 1) as panel:
        first = f.binary("mul", panel.index, i64(width))
        base = f.address(target, accumulator, f.binary("mul", panel.index, panel_bytes))
        left = f.binary("sub", columns, first)
        masks = [lane_mask(f, f.binary("sub", left, i64(v * lanes)), lanes) for v in range(vectors)]
        with f.loop(i64(0), depth, 1) as k:
            line = offset(f, source, memory_type(dtype), (k.index, row), (first, column))
            out = offset(f, base, accumulator, (k.index, width))
            for v in range(vectors):
                if column == 1:
                    at = f.address(line, memory_type(dtype), i64(v * lanes))
                    value = load_lanes(f, at, dtype, lanes, masks[v], isa)
                else:
                    value = _gather(f, line, dtype, column, v * lanes, masks[v], isa)
                f.store(value, f.address(out, accumulator, i64(v * lanes)), size)


def _gather(
    f: Function, line: Value, dtype: DType, stride: int, first: int, mask: Value, isa: Isa
) -> Value:
    """Lanes ``first..`` of a strided row."""
    lanes = lanes_of(mask.type)
    steps = ", ".join(f"i64 {(first + n) * stride}" for n in range(lanes))
    element = memory_type(dtype)
    pointers = f.op(
        f"getelementptr {element}, {line}, <{lanes} x i64> <{steps}>", vector("ptr", lanes)
    )
    type_ = vector(element, lanes)
    name = f"llvm.masked.gather.{bits_suffix(type_)}.v{lanes}p0"
    f.module.declare(name, type_, (pointers.type, "i32", mask.type, type_))
    place = f"{pointers}, i32 {dtype.itemsize}"
    text = f"call {type_} @{name}({place}, {mask}, {type_} zeroinitializer)"
    return widen(f, f.effect(text, type_), dtype, isa)


def _pack_transposed(
    f: Function,
    source: Value,
    target: Value,
    depth: Value,
    columns: Value,
    shape: tuple[int, int, int, int],
    dtype: DType,
    isa: Isa,
) -> None:
    """The case of contiguous k: square blocks are loaded along k and transposed in registers."""
    _, column, lanes, vectors = shape
    width = lanes * vectors
    accumulator = _COMPUTE[dtype]
    size = 8 if accumulator == "double" else 4
    element = memory_type(dtype)
    groups = f.binary(
        "mul",
        f.binary("sdiv", f.binary("add", columns, i64(width - 1)), i64(width)),
        i64(vectors),
    )
    last = f.binary("sub", columns, i64(1))
    with f.loop(i64(0), groups, 1) as group:
        panel = f.binary("sdiv", group.index, i64(vectors))
        part = f.binary("srem", group.index, i64(vectors))
        base = f.address(
            target, accumulator, f.binary("mul", panel, f.binary("mul", depth, i64(width)))
        )
        base = offset(f, base, accumulator, (part, lanes))
        first = f.binary("mul", group.index, i64(lanes))
        with f.loop(i64(0), depth, lanes) as k:
            here = f.binary("sub", depth, k.index)
            mask = lane_mask(f, here, lanes)
            lines = []
            for n in range(lanes):
                # Columns past the edge repeat the last one: never read outside, never multiplied into a result.
                wanted = f.binary("add", first, i64(n))
                inside = f.select(f.compare("icmp slt", wanted, last), wanted, last)
                at = offset(f, source, element, (inside, column), (k.index, 1))
                lines.append(load_lanes(f, at, dtype, lanes, mask, isa))
            for n, value in enumerate(transpose(f, lines)):
                index = f.binary("add", k.index, i64(n))
                with f.branch(f.compare("icmp slt", index, depth)):
                    f.store(value, offset(f, base, accumulator, (index, width)), size)


def emit_pack_left(
    f: Function,
    source: Value,
    target: Value,
    height: Value,
    depth: Value,
    shape: tuple[int, int, int, int],
    dtype: DType,
    isa: Isa,
) -> None:
    """Packs ``height x depth`` elements; ``shape`` is (row stride, column stride, lanes, pitch of the result).

    Contiguous columns give ``target[row * pitch + k]``, anything else ``target[k * pitch + row]``.
    """
    row, column, lanes, pitch = shape
    accumulator = _COMPUTE[dtype]
    size = 8 if accumulator == "double" else 4
    by_rows = column == 1
    outer, inner = (height, depth) if by_rows else (depth, height)
    outer_stride, inner_stride = (row, column) if by_rows else (column, row)
    element = memory_type(dtype)
    with f.loop(i64(0), outer, 1) as o:
        line = offset(f, source, element, (o.index, outer_stride))
        out = offset(f, target, accumulator, (o.index, pitch))
        with f.loop(i64(0), inner, lanes) as n:
            mask = lane_mask(f, f.binary("sub", inner, n.index), lanes)
            if inner_stride == 1:
                value = load_lanes(f, f.address(line, element, n.index), dtype, lanes, mask, isa)
            else:
                at = offset(f, line, element, (n.index, inner_stride))
                value = _gather(f, at, dtype, inner_stride, 0, mask, isa)
            f.store(value, f.address(out, accumulator, n.index), size)
