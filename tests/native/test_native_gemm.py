"""Generated matrix products against NumPy in float64: shapes, layouts, types, instruction sets,
ranges.
"""

from __future__ import annotations

import ctypes
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradc.codegen.llvm.gemm import gemm
from gradc.codegen.llvm.gemm.blocking import WIDE, blocking
from gradc.codegen.llvm.gemm.pack import LINE
from gradc.codegen.llvm.host import jit
from gradc.codegen.llvm.isa import Isa, select
from gradc.codegen.llvm.nest import nest
from gradc.codegen.llvm.text import Module
from gradc.ir.loop.equal import equal
from gradc.ir.loop.execute import execute_kernel
from gradc.ir.loop.kernel import (
    Affine,
    Bound,
    Buffer,
    Const,
    Factor,
    Gemm,
    Kernel,
    Let,
    Load,
    Stmt,
    Store,
    Var,
    Within,
)
from gradc.ir.loop.order import COLUMNS_AT_ONCE, ROWS_AT_ONCE
from gradc.ir.loop.text import parse_kernel, print_kernel
from gradc.ir.loop.verify import verify_kernel
from gradc.ir.tensor.bf16 import from_bf16
from gradc.ir.tensor.core import DType
from gradc.runtime.native.arrays import NUMPY_DTYPE, as_bf16
from tests.support.llvm_kernels import Room, sets

Array = NDArray[Any]
ISAS = sets()
EPSILON = {DType.F32: 2.0**-23, DType.F64: 2.0**-52}


class Case:
    """One Gemm with its operands: layouts are axis orders of (batch, row, column), outermost
    first.
    """

    def __init__(
        self,
        m: int,
        n: int,
        k: int,
        *,
        batch: tuple[int, ...] = (),
        left: str = "bmk",
        right: str = "bkn",
        out: str = "bmn",
        dtype: DType = DType.F32,
        offset: int = 0,
        epilogue: str = "",
        seed: int = 0,
    ) -> None:
        self.dtype = dtype
        self.acc_type = DType.F64 if dtype is DType.F64 else DType.F32
        self.sizes = {"b": int(np.prod(batch, dtype=int)), "m": m, "n": n, "k": k}
        self.batch, self.offset, self.epilogue = batch, offset, epilogue
        self.left, self.right, self.out = left, right, out
        rng = np.random.default_rng(seed)
        self.a, self.a64 = self._random(rng, left, "bmk", offset)
        self.b, self.b64 = self._random(rng, right, "bkn", 0)
        self.bias = rng.standard_normal(n).astype(NUMPY_DTYPE[self.acc_type])
        self.more: tuple[Array, ...] = ()  # what the kernel reads besides
        self.kernel = self._kernel()

    def _random(
        self, rng: np.random.Generator, layout: str, order: str, offset: int
    ) -> tuple[Array, Array]:
        """Flat storage in ``layout``, and the values as float64 in ``order``."""
        shape = [self.sizes[c] for c in layout]
        values = rng.standard_normal(shape)
        if self.dtype is DType.BF16:
            stored = as_bf16("x", values.astype(np.float32))
            exact = from_bf16(stored).astype(np.float64)
        else:
            stored = values.astype(NUMPY_DTYPE[self.dtype])
            exact = stored.astype(np.float64)
        flat = np.concatenate([np.zeros(offset, stored.dtype), stored.ravel()])
        return flat, exact.transpose([layout.index(c) for c in order])

    def _strides(self, layout: str) -> dict[str, int]:
        strides, step = {}, 1
        for axis in reversed(layout):
            strides[axis] = step
            step *= self.sizes[axis]
        return strides

    def _batch_strides(self, step: int) -> tuple[int, ...]:
        out: list[int] = []
        for size in reversed(self.batch):
            out.append(step)
            step *= size
        return tuple(reversed(out))

    def _kernel(self) -> Kernel:
        i64 = DType.I64
        left, right, out = map(self._strides, (self.left, self.right, self.out))
        a = Buffer("a", self.dtype, self.a.size, "read")
        b = Buffer("b", self.dtype, self.b.size, "read")
        count = self.sizes["b"] * self.sizes["m"] * self.sizes["n"]
        c = Buffer("c", self.acc_type, count, "update")
        bias = Buffer("bias", self.acc_type, self.sizes["n"], "read")
        i, j, acc = Var("i", i64), Var("j", i64), Var("acc", self.acc_type)
        batch = tuple(Var(f"b{n}", i64) for n in range(len(self.batch)))
        place = Affine.of(i) * out["m"] + Affine.of(j) * out["n"]
        for var, stride in zip(batch, self._batch_strides(out["b"]), strict=True):
            place = place + Affine.of(var) * stride
        body: tuple[Stmt, ...] = (Store(c, place, acc),)
        if self.epilogue == "bias_relu_add":
            row, total, cut = (Var(x, self.acc_type) for x in ("row", "total", "cut"))
            body = (
                Load(row, bias, Affine.of(j)),
                Let(total, "add", (acc, row)),
                Let(cut, "max", (total, Const(0.0, self.acc_type))),
                Store(c, place, cut, "add"),
            )
        factors = (
            Factor(a, self._batch_strides(left["b"]), left["m"], left["k"], self.offset),
            Factor(b, self._batch_strides(right["b"]), right["k"], right["n"]),
        )
        m, n, k = (self.sizes[x] for x in "mnk")
        product = Gemm(self.batch, batch, m, n, k, *factors, i, j, acc, body)
        return Kernel("product", (a, b, c, bias), (product,))

    def run(self, isa_name: str, cuts: tuple[float, ...] = ()) -> Array:
        """The result, axes (b, m, n), computed in the ranges that ``cuts`` say."""
        isa = select(isa_name)
        library = program([self], isa)  # its code lives as long as it does
        return self.computed(library["product0"], isa, cuts)

    @property
    def product(self) -> Gemm:
        (found,) = self.kernel.body
        assert isinstance(found, Gemm)
        return found

    def computed(self, address: int, isa: Isa, cuts: tuple[float, ...] = ()) -> Array:
        """What the compiled product at ``address`` makes."""
        product = self.product
        shape = [self.sizes[x] for x in self.out]
        c = np.full(shape, 1.0 if self.epilogue else np.nan, NUMPY_DTYPE[self.acc_type])
        pointers = [x.ctypes.data for x in (self.a, self.b, c, self.bias, *self.more)]
        places = [ctypes.c_void_p] * (len(pointers) + 1)
        call = ctypes.CFUNCTYPE(None, *places, ctypes.c_int64, ctypes.c_int64)
        units = gemm.units(product, isa)
        borders = [0, *(int(units * cut) for cut in cuts), units]
        room = Room(gemm.scratch_bytes(product, isa))
        for begin, end in itertools.pairwise(borders):
            room.poison()
            call(address)(*pointers, room.address, begin, end)
            assert room.is_intact(), "scratch is overrun"
        return c.transpose([self.out.index(x) for x in "bmn"])

    def check(self, isa_name: str, cuts: tuple[float, ...] = (0.5,)) -> Array:
        """Runs and compares with float64."""
        return self.compare(self.run(isa_name, cuts))

    def compare(self, found: Array) -> Array:
        """Of a right result; the bound is the textbook one for sums of k terms."""
        expected = self.a64 @ self.b64
        scale = np.abs(self.a64) @ np.abs(self.b64) + np.abs(self.bias) + 2
        if self.epilogue:
            expected = np.maximum(expected + self.bias, 0) + 1
        bound = (self.sizes["k"] + 4) * EPSILON[self.acc_type] * scale
        assert np.all(np.abs(found - expected) <= bound)
        return found


def program(
    cases: Sequence[Case], isa: Isa, change: Callable[[str], str] = lambda text: text
) -> jit.Library:
    """The products of ``cases`` in one module, as ``product0``, ``product1`` and so on."""
    names = [f"product{number}" for number in range(len(cases))]
    return jit.Library(jit.compile_object(change(text_of(cases, isa)), isa), names, {})


def text_of(cases: Sequence[Case], isa: Isa) -> str:
    """The module of ``program``."""
    module = Module(isa.triple, "", isa.attributes)
    names = [f"product{number}" for number in range(len(cases))]
    for name, case in zip(names, cases, strict=True):
        epilogue = partial(nest.emit_epilogue, isa)
        gemm.emit_kernel(module, case.kernel, case.product, name, isa, epilogue)
    text = module.text()
    for name in names:
        text = text.replace(f"define internal void @{name}(", f"define void @{name}(")
    return text


SHAPES = [(1, 1, 1), (3, 5, 7), (14, 32, 16), (15, 33, 17), (29, 47, 31), (64, 10, 20), (1, 70, 9)]
SHAPES += [(200, 1, 64), (130, 3, 41)]  # computed as their transposes


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("right", ["bkn", "bnk"])
@pytest.mark.parametrize("left", ["bmk", "bkm"])
def test_shapes_and_transpositions(isa: str, left: str, right: str) -> None:
    for number, (m, n, k) in enumerate(SHAPES):
        Case(m, n, k, left=left, right=right, offset=number % 3, seed=number).check(isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [DType.F64, DType.BF16, DType.F16])
def test_other_element_types(isa: str, dtype: DType) -> None:
    for left, right in (("bmk", "bkn"), ("bkm", "bnk")):
        Case(21, 37, 19, left=left, right=right, dtype=dtype).check(isa)
        Case(5, 40, 33, batch=(2,), left=left, right=right, dtype=dtype).check(isa)


@pytest.mark.parametrize("isa", ISAS)
def test_axes_interleaved_with_the_batch(isa: str) -> None:
    """Heads inside rows, as attention has them: no axis of a factor or of the result need be
    contiguous.
    """
    Case(17, 20, 23, batch=(3,), left="mbk", right="kbn", out="mbn").check(isa)
    Case(17, 20, 23, batch=(3,), left="mkb", right="knb", out="nmb").check(isa)
    Case(9, 18, 11, batch=(2, 3), left="mbk", right="nbk", out="bmn").check(isa)


def _views(
    a: Array, b: Array, left: tuple[int, int, int], right: tuple[int, int, int]
) -> tuple[Array, Array]:
    """Both operands as float64 matrices (20 x 30 and 30 x 40) from (row, column, offset) of flat
    storage.
    """
    rows, columns, depth = np.arange(20), np.arange(40), np.arange(30)
    x = a[left[2] + rows[:, None] * left[0] + depth * left[1]]
    y = b[right[2] + depth[:, None] * right[0] + columns * right[1]]
    return x.astype(np.float64), y.astype(np.float64)


# (row stride, column stride, offset): broadcast along one axis or both, reversed, overlapping,
# spread out.
LEFTS = [(0, 1, 3), (1, 0, 0), (0, 0, 5), (-30, 1, 570), (30, -1, 29), (1, 1, 0), (-1, 7, 19)]
RIGHTS = [(0, 1, 0), (1, 0, 2), (40, -1, 39), (-40, 1, 1160), (-1, 30, 29), (1, 1, 0), (3, 97, 0)]


@pytest.mark.parametrize("isa", ISAS)
def test_broadcast_reversed_and_overlapping_operands(isa: str) -> None:
    for left, right in zip(LEFTS, RIGHTS, strict=True):
        for other in (RIGHTS[0], right):
            case = Case(20, 40, 30)
            case.a = np.random.default_rng(1).standard_normal(1200).astype(np.float32)
            case.b = np.random.default_rng(2).standard_normal(4000).astype(np.float32)
            x, y = _views(case.a, case.b, left, other)
            case.a64, case.b64 = x[None], y[None]
            (product,) = case.kernel.body
            assert isinstance(product, Gemm)
            factors = (
                Factor(product.left.buffer, (), *left),
                Factor(product.right.buffer, (), *other),
            )
            changed = replace(product, left=factors[0], right=factors[1])
            case.kernel = replace(case.kernel, body=(changed,))
            case.check(isa)


@pytest.mark.parametrize("isa", ISAS)
def test_packed_and_blocked_in_k(isa: str) -> None:
    wide = Case(40, 1100, 530, left="bkm", epilogue="bias_relu_add")
    (product,) = wide.kernel.body
    assert isinstance(product, Gemm)
    assert blocking(product, select(isa)).k_blocks > 1
    wide.check(isa, (0.3, 0.31, 0.9))
    Case(33, 50, 1030, right="bnk", epilogue="bias_relu_add").check(isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
def test_strips_that_crowd_the_first_cache_are_packed(isa: str, dtype: DType) -> None:
    """Rows contiguous and far apart, in whole groups of strips and less, or so many that with a
    panel they fill it; bits are those of the same product that packs nothing.
    """
    for m, k in ((256, 130), (250, 256)):
        case = Case(m, 130, k, left="bkm", dtype=dtype)
        cut = blocking(case.product, select(isa))
        panel = k * cut.width * dtype.itemsize
        fills = cut.panels_total >= WIDE and k * LINE + panel >= select(isa).caches[0]
        assert cut.pack_left == (m == 256 or fills)
        found = case.check(isa, (0.2, 0.9))
        plain = Case(m, 130, k, dtype=dtype)
        assert not blocking(plain.product, select(isa)).pack_left
        plain.a, plain.b = case.a.reshape(k, m).T.copy().ravel(), case.b
        assert np.array_equal(plain.run(isa), found)


@pytest.mark.parametrize("isa", ISAS)
def test_what_lies_beyond_the_caches_is_asked_for_before_it_is_read(isa: str) -> None:
    """Factors that are packed, strips of short rows that are not, what epilogues add to; nothing
    where the caches hold it.
    """
    sizes = [(256, 64, 70, "bkm", ""), (256, 272, 530, "bkm", "")]
    sizes += [(900, 70, 90, "bmk", ""), (600, 70, 200, "bmk", "")]
    sizes += [(m, 80, 40, "bmk", "bias_relu_add") for m in (110, 90)]
    asked = []
    for m, n, k, left, epilogue in sizes:
        case = Case(m, n, k, left=left, epilogue=epilogue)
        text = text_of([case], select(isa))
        calls = [line for line in text.splitlines() if "call void @gradc.ask" in line]
        asked.append("".join(n for n in "12" if any(f"@gradc.ask{n}." in line for line in calls)))
        case.check(isa, (0.4,))
    assert asked == ["", "2", "2", "", "1", ""]


@pytest.mark.parametrize("isa", ISAS)
def test_epilogue_reads_and_updates(isa: str) -> None:
    Case(31, 45, 12, epilogue="bias_relu_add").check(isa)
    Case(31, 45, 12, out="bnm", epilogue="bias_relu_add").check(isa)
    Case(6, 3, 12, batch=(4,), epilogue="bias_relu_add").check(isa)


@pytest.mark.parametrize("isa", ISAS)
def test_empty_sums_and_empty_results(isa: str) -> None:
    assert np.all(Case(5, 9, 0).run(isa) == 0)
    assert np.all(Case(5, 9, 0, batch=(2,), right="bnk").run(isa) == 0)
    for m, n, batch in ((0, 4, ()), (4, 0, ()), (4, 4, (0,))):
        assert Case(m, n, 3, batch=batch).run(isa).size == 0


class Banded(Case):
    """A Case of which only part counts: terms and elements on one side of a diagonal each, which
    counts from a number in memory.
    """

    def __init__(self, m: int, n: int, k: int, seed: int, left: str, right: str) -> None:
        super().__init__(m, n, k, left=left, right=right, seed=seed)
        rng = random.Random(seed)
        product, self.shift = self.product, rng.randint(-3, 3)
        i, j, step = (Affine.of(v) for v in (product.i, product.j, Var("step", DType.I64)))
        side, down = rng.choice([(i, m), (j, n)]), rng.choice((-1, 1))
        terms = [step * down + side[0] * rng.choice((-1, 1)) + rng.randint(0, side[1])]
        terms += [step * -down + rng.randint(k // 2, k)] if rng.random() < 0.5 else []
        results = [(i * rng.choice((-2, 1)) + j) * rng.choice((-1, 1)) + rng.randint(-n, n)]
        origin = Buffer("at", DType.I32, 3, "read")
        bounds = [tuple(Bound(x, 1) for x in each) for each in (terms, results)]
        within = Within(next(iter(step.terms))[0], bounds[0], bounds[1], (origin, 2))
        self.more = (np.asarray([99, 99, self.shift], np.int32),)
        changed = replace(product, within=within)
        self.kernel = replace(self.kernel, buffers=(*self.kernel.buffers, origin), body=(changed,))
        verify_kernel(self.kernel)
        assert equal(parse_kernel(print_kernel(self.kernel)), self.kernel, ("spans",))

    def _holds(self, bound: Bound, at: dict[Var, Any]) -> Any:
        total = bound.value.constant + self.shift
        return sum((at[var] * n for var, n in bound.value.terms), start=total) >= 0

    def wanted(self) -> tuple[Array, Array]:
        """The sums of the terms that count, term by term, and where elements do."""
        within, product = self.product.within, self.product
        assert within is not None
        rows, columns = np.ogrid[: product.m, : product.n]
        total = np.zeros((product.m, product.n))
        for step in range(product.k):
            kept = np.zeros((product.m, product.n), bool)
            for r in range(0, product.m, ROWS_AT_ONCE):
                for c in range(0, product.n, COLUMNS_AT_ONCE):
                    i, j = np.ogrid[r : r + ROWS_AT_ONCE, c : c + COLUMNS_AT_ONCE]
                    at = {product.i: i, product.j: j, within.step: step}
                    each = [np.any(self._holds(bound, at)) for bound in within.terms]
                    kept[r : r + ROWS_AT_ONCE, c : c + COLUMNS_AT_ONCE] = all(each)
            total += kept * self.a64[0, :, step, None] * self.b64[0, step]
        at = {product.i: rows, product.j: columns}
        seen = np.broadcast_to(
            np.logical_and.reduce([self._holds(bound, at) for bound in within.results]),
            total.shape,
        )
        return total, seen


@pytest.mark.parametrize("isa", ISAS)
def test_only_what_counts_is_added(isa: str) -> None:
    rng = random.Random(5)
    cases = []
    for seed in range(10):
        m, n, k = rng.randint(1, 90), rng.randint(1, 150), rng.choice((5, 64, 130, 700))
        left, right = rng.choice(["bmk", "bkm"]), rng.choice(["bkn", "bnk"])
        cases.append(Banded(m, n, k, seed, left=left, right=right))
    library = program(cases, select(isa))
    for number, case in enumerate(cases):
        found = case.computed(library[f"product{number}"], select(isa), (0.4,))[0]
        total, seen = case.wanted()
        scale = np.abs(case.a64[0]) @ np.abs(case.b64[0]) + 1
        bound = (case.sizes["k"] + 4) * EPSILON[DType.F32] * scale
        assert np.all((np.abs(found - total) <= bound)[seen]), case.sizes
        arrays = [case.a, case.b, np.zeros(found.size, np.float32), case.bias, *case.more]
        execute_kernel(case.kernel, arrays)
        executed = arrays[2].reshape(found.shape)
        assert np.all((np.abs(executed - total) <= bound)[seen])
        assert np.all(executed[~seen] == 0)


def test_random_shapes_against_float64() -> None:
    rng = random.Random(3)
    for seed in range(40):
        m, n, k = (int(2 ** rng.uniform(0, 7.5)) for _ in range(3))
        batch = (rng.randint(1, 3),) if rng.random() < 0.3 else ()
        left, right = rng.choice(["bmk", "bkm", "mbk"]), rng.choice(["bkn", "bnk", "nbk"])
        cuts = tuple(sorted(rng.random() for _ in range(rng.randint(0, 4))))
        case = Case(m, n, k, batch=batch, left=left, right=right, seed=seed)
        case.check(rng.choice(ISAS), cuts)


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_products_of_one_program_share_only_what_is_the_same(dtype: DType) -> None:
    """Packings and tiles that differ have names of their own."""
    isa, rng = select("native"), random.Random(7)
    cases = [Case(m, n, 64, left="bkm", dtype=dtype) for m, n in ((64, 128), (128, 10))]
    for seed in range(10):
        m, n, k = rng.randint(4, 140), rng.choice((10, 33, 64, 128)), rng.choice((64, 65, 300))
        left, right = rng.choice(["bmk", "bkm", "mbk"]), rng.choice(["bkn", "bnk", "nbk"])
        cases.append(Case(m, n, k, left=left, right=right, dtype=dtype, seed=seed))
    library = program(cases, isa)
    for number, case in enumerate(cases):
        case.compare(case.computed(library[f"product{number}"], isa, (0.4,)))


@pytest.mark.parametrize("right", ["bkn", "bnk"])
def test_bits_do_not_depend_on_how_the_units_are_cut(right: str) -> None:
    case = Case(67, 90, 300, batch=(2,), right=right)
    whole = case.run("native")
    for cuts in ((0.5,), (0.1, 0.2, 0.7), tuple(n / 20 for n in range(1, 20))):
        assert np.array_equal(whole, case.run("native", cuts))


def test_bits_depend_on_k_alone() -> None:
    """Whatever the tile, packing or blocking: the same rows give the same sums in another
    product.
    """
    small, large = Case(8, 24, 700, seed=5), Case(200, 1100, 700, seed=6)
    large.a.reshape(200, 700)[96:104] = small.a.reshape(8, 700)
    large.b.reshape(700, 1100)[:, 500:524] = small.b.reshape(700, 24)
    part = large.run("native")[:, 96:104, 500:524]
    assert np.array_equal(small.run("native"), part)
    turned = Case(8, 24, 700, right="bnk", seed=5)
    turned.a[:] = small.a
    turned.b[:] = small.b.reshape(700, 24).T.ravel()
    assert np.array_equal(small.run("native"), turned.run("native"))


def test_nan_and_infinity_reach_exactly_their_rows_and_columns() -> None:
    case = Case(20, 40, 30)
    case.a.reshape(20, 30)[3, 7] = np.nan
    case.b.reshape(30, 40)[5, 11] = np.inf
    found = case.run("native")[0]
    assert np.isnan(found[3]).all()
    assert not np.isfinite(found[:, 11]).any()
    rest = np.delete(np.delete(found, 3, 0), 11, 1)
    assert np.isfinite(rest).all()


def test_scratch_is_bounded_and_counted() -> None:
    for m, n, k, right in ((2000, 2000, 2000, "bkn"), (64, 4096, 64, "bnk"), (4096, 64, 64, "bkn")):
        product = Case(1, 1, 1, right=right).kernel.body[0]
        assert isinstance(product, Gemm)
        column = 1 if right == "bkn" else k
        wide = Factor(product.right.buffer, (), n if right == "bkn" else 1, column)
        big = Gemm((), (), m, n, k, product.left, wide, *_rest(product))
        assert gemm.scratch_bytes(big, select("native")) <= 1 << 20


def _rest(product: Gemm) -> tuple[Var, Var, Var, tuple[Stmt, ...]]:
    return product.i, product.j, product.acc, product.epilogue
