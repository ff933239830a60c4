"""The register tile of products of bf16 pairs on the matrix unit (``codegen.llvm.amx``).

``void @tile(ptr left, i64 left_step, ptr right, i64 right_step, ptr parked, i64 depth, i1 fresh)``,
as every register tile (``tile``): up to two by two tiles of sums, each 16 rows of 16 columns; a
step takes 16 pairs of k. Packed strips and panels hold whole steps, filled up with zeros. Rows of a
strip that are not there are summed like others and nobody reads them.

Sums over k: the unit's order within a step, steps in order within a leaf of ``K_LEAF`` pairs,
leaves as everywhere.
"""

from __future__ import annotations

from gradc.codegen.llvm import static
from gradc.codegen.llvm.amx import MULTIPLY, PAIRS, ROW_BYTES, ROWS, SIZES
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Module, Value, vector
from gradc.ir.loop.order import K_LEAF

# Tiles: 0 to 3 hold sums, two of each factor follow.
_LEFT, _RIGHT = 4, 6
_ELEMENT = 4  # bytes of a sum, and of a pair


def configure(f: Function) -> None:
    """Says how large tiles are: all of them 16 rows of 64 bytes. Empties them."""
    _do(f, "ldtilecfg", f.module.add_global("gradc.tiles", SIZES))


def release(f: Function) -> None:
    """Leaves the unit as others expect it, who then save nothing of it."""
    _do(f, "tilerelease")


def emit_matrix_tile(module: Module, rows: int, vectors: int, pitch: int, width: int) -> str:
    """Defines, once per module, the tile of ``rows`` rows and ``vectors`` vectors; returns its
    name.

    ``pitch`` counts pairs from row to row of the left factor, ``width`` columns of a panel and of a
    parked row.
    """
    down = -(-rows // ROWS)
    name = f"gradc.tile.matrix.{down}x{vectors}of{width}.{pitch}"
    if name in module.functions:
        return name
    parameters = (
        ("ptr noalias readonly", "left"),
        ("i64", "left_step"),
        ("ptr noalias readonly", "right"),
        ("i64", "right_step"),
        ("ptr noalias", "parked"),
        ("i64", "depth"),
        ("i1", "fresh"),
    )
    f = module.function(name, "void", parameters, attributes="noinline")
    left, _, right, right_step, parked, depth, fresh = f.parameters
    sums = [(r, v) for r in range(down) for v in range(vectors)]
    room = f.alloca("float", down * ROWS * width)
    with f.loop(i64(0), depth, K_LEAF, [left, right], nonempty=True) as leaf:
        for r, v in sums:
            _do(f, "tilezero", _number(_sum(r, v)))
        count = f.intrinsic("llvm.smin", f.binary("sub", depth, leaf.index), i64(K_LEAF))
        with f.loop(i64(0), count, PAIRS, leaf.carried, nonempty=True) as step:
            step.next = _step(f, step.carried, (down, vectors), pitch, right_step)
        leaf.next = step.results
        is_first = f.binary("and", fresh, f.compare("icmp eq", leaf.index, i64(0)))
        with static.when(f, is_first):
            _put(f, sums, parked, width)
        with static.when(f, static.negation(f, is_first)):
            _put(f, sums, room, width)
            _add(f, room, parked, (down * ROWS, vectors), width)
    f.ret()
    return name


def _do(f: Function, what: str, *given: Value) -> None:
    """One instruction of the unit; its tiles are numbers in the code."""
    name = MULTIPLY if what == "multiply" else f"llvm.x86.{what}"
    kinds = ["i8 immarg" if value.type == "i8" else value.type for value in given]
    f.module.declare(name, "void", kinds)
    f.line(f"call void @{name}({', '.join(map(str, given))})")


def _number(tile: int) -> Value:
    return Value("i8", str(tile))


def _sum(row: int, column: int) -> int:
    """The tile that holds the sums of 16 rows and 16 columns."""
    return 2 * row + column


def _step(
    f: Function,
    carried: list[Value],
    size: tuple[int, int],
    pitch: int,
    right_step: Value,
) -> list[Value]:
    """16 pairs of k; returns where the next ones lie."""
    left, right = carried
    down, vectors = size
    line = i64(pitch * _ELEMENT)
    for r in range(down):
        at = f.address(left, "i8", i64(r * ROWS * pitch * _ELEMENT))
        _do(f, "tileloadd64", _number(_LEFT + r), at, line)
    for v in range(vectors):
        at = f.address(right, "i8", i64(v * ROW_BYTES))
        _do(f, "tileloadd64", _number(_RIGHT + v), at, right_step)
        for r in range(down):
            _do(f, "multiply", *map(_number, (_sum(r, v), _LEFT + r, _RIGHT + v)))
    below = f.binary("mul", right_step, i64(PAIRS))
    return [f.address(left, "i8", i64(ROW_BYTES)), f.address(right, "i8", below)]


def _put(f: Function, sums: list[tuple[int, int]], target: Value, width: int) -> None:
    """Stores all sums, rows ``width`` apart."""
    for r, v in sums:
        at = f.address(target, "float", i64(r * ROWS * width + v * ROWS))
        _do(f, "tilestored64", _number(_sum(r, v)), at, i64(width * _ELEMENT))


def _add(f: Function, source: Value, target: Value, size: tuple[int, int], width: int) -> None:
    """Adds rows of sums to what is parked."""
    rows, vectors = size
    type_ = vector("float", ROWS)
    with f.loop(i64(0), i64(rows * width), width, nonempty=True) as line:
        for v in range(vectors):
            near = f.binary("add", line.index, i64(v * ROWS))
            here = f.address(target, "float", near)
            value = f.load(f.address(source, "float", near), type_, _ELEMENT)
            total = f.binary("fadd", f.load(here, type_, _ELEMENT), value)
            f.store(total, here, _ELEMENT)
