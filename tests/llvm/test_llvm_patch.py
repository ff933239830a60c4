"""Matrix products over the windows of images: machine code against the reference executor, and to
the bit against the product of the matrices written out.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest

from gradc.codegen.llvm.gemm import slide, walk
from gradc.codegen.llvm.gemm.gemm import column_blocks, units
from gradc.codegen.llvm.isa import available, select
from gradc.ir.loop.execute import execute_kernel
from gradc.ir.loop.kernel import Affine, Buffer, Factor, Gemm, Kernel, Patch, Store, Var
from gradc.ir.loop.text import parse_kernel, print_kernel
from gradc.ir.loop.verify import verify_kernel
from gradc.ir.tensor.core import DType
from tests.support.llvm_kernels import Array, Compiled

I64 = DType.I64
# images, channels, size, taps, places, stride, step, before
CASES = (
    (2, 2, (4, 8), (3, 3), (4, 8), (1, 1), (1, 1), (1, 1)),
    (3, 2, (5, 7), (3, 3), (5, 7), (1, 1), (1, 1), (1, 1)),  # vectors that span images
    (9, 2, (2, 3), (2, 1), (2, 3), (1, 1), (1, 1), (1, 0)),  # ... several of them
    (2, 2, (9, 7), (3, 2), (4, 3), (2, 2), (1, 2), (0, 1)),  # strided, dilated
    (1, 36, (3, 5), (3, 3), (3, 5), (1, 1), (-1, -1), (-1, -1)),  # mirrored; leaves of k
    (1, 2, (4, 3, 5), (2, 2, 2), (4, 3, 5), (1, 1, 1), (1, 1, 1), (0, 1, 0)),
    (2, 19, (1,), (1,), (1,), (1,), (1,), (0,)),
    # Read in place: rows of whole vectors and of parts, several images of a block, bands of one.
    (3, 5, (6, 16), (3, 3), (6, 16), (1, 1), (1, 1), (1, 1)),
    (3, 3, (5, 8), (3, 3), (5, 8), (1, 1), (1, 1), (1, 1)),
    (5, 2, (3, 2, 4), (1, 2, 3), (3, 2, 4), (1, 1, 1), (1, 1, 1), (0, 0, 1)),
    (7, 29, (2, 15), (3, 3), (2, 15), (1, 1), (1, 1), (1, 1)),
    (2, 4, (9, 20), (2, 3), (7, 14), (1, 1), (2, -3), (0, -6)),
    (2, 3, (4, 3, 16), (2, 2, 2), (4, 3, 16), (1, 1, 1), (1, 1, 1), (0, 1, 0)),
    (3, 5, (40,), (5,), (40,), (1,), (1,), (2,)),
)


@pytest.fixture(params=[name for name in available() if name != "native"])
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def patch_of(case: tuple[Any, ...], gap: int = 3) -> Patch:
    """The patch of a case; images and channels lie ``gap`` elements apart."""
    images, channels, size, *axes = case
    channel = prod(size) + gap
    return Patch(images, channels * channel + gap, channels, channel, size, *axes)


def written(patch: Patch, x: Array) -> Array:
    """The matrix of a patch, by plain loops."""
    found = np.zeros((patch.channels, *patch.taps, patch.images, *patch.places), x.dtype)
    for index in np.ndindex(*found.shape):
        c, *tap = index[: 1 + len(patch.taps)]
        n, *place = index[1 + len(patch.taps) :]
        axes = zip(place, patch.stride, tap, patch.step, patch.before, strict=True)
        at = [y * s + p * d - b for y, s, p, d, b in axes]
        if all(0 <= i < size for i, size in zip(at, patch.size, strict=True)):
            flat = int(np.ravel_multi_index(at, patch.size))
            found[index] = x[n * patch.image_stride + c * patch.channel_stride + flat]
    return found.reshape(patch.channels * prod(patch.taps), -1)


def kernel(m: int, n: int, k: int, left: Factor, right: Factor) -> Kernel:
    """``z = left @ right``."""
    z = Buffer("z", left.buffer.dtype, m * n, "write")
    i, j, acc = Var("i", I64), Var("j", I64), Var("acc", left.buffer.dtype)
    store = Store(z, Affine(0, ((i, n), (j, 1))), acc)
    product = Gemm((), (), m, n, k, left, right, i, j, acc, (store,))
    return Kernel("product", (left.buffer, right.buffer, z), (product,))


def factors(
    patch: Patch, matrix: Array, other: int, side: str, dtype: DType
) -> tuple[tuple[int, int, int], Factor, Factor, Factor, Factor]:
    """The sizes of a product with ``patch`` on one side and ``other`` rows or columns; its factors,
    and those with the matrix written out.
    """
    rows, columns = matrix.shape
    size = patch.images * patch.image_stride
    of = Factor(Buffer("x", dtype, size, "read"), (), 0, 0, 0, patch)
    out = Factor(Buffer("x", dtype, rows * columns, "read"), (), columns, 1)
    if side == "right":
        a = Factor(Buffer("a", dtype, other * rows, "read"), (), rows, 1)
        return (other, columns, rows), a, of, a, out
    if side == "left":
        b = Factor(Buffer("b", dtype, other * columns, "read"), (), other, 1)
        return (rows, other, columns), of, b, out, b
    a = Factor(Buffer("a", dtype, other * columns, "read"), (), columns, 1)
    turned = replace(of, patch=replace(patch, is_turned=True))
    return (other, rows, columns), a, turned, a, replace(out, row=1, column=columns)


@pytest.mark.parametrize("side", ["right", "left", "turned"])
def test_products_of_patches(side: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Vectors run across rows or along places, whatever is cheaper.
    monkeypatch.setattr(walk, "_pays", lambda gemm, *others: gemm.m % 2 == 0)
    ways = set[bool]()
    # Both types, turn by turn.
    dtype = DType.F64 if side == "left" else DType.F32
    kind: Any = np.float64 if side == "left" else np.float32
    rng, tolerance = np.random.default_rng(7), 1e-3 if kind == np.float32 else 1e-10
    pairs: list[tuple[Kernel, Kernel]] = []
    given: list[tuple[Array, ...]] = []
    for case in CASES:
        patch = patch_of(case)
        if side == "turned":
            ones = (1,) * len(patch.size)
            patch = replace(patch, taps=ones, step=ones)
        x = rng.standard_normal(patch.images * patch.image_stride).astype(kind)
        matrix = written(patch, x)
        other = int(rng.integers(1, 40))
        sizes, *sides = factors(patch, matrix, other, side, dtype)
        pair = kernel(*sizes, *sides[:2]), kernel(*sizes, *sides[2:])
        for one in pair:
            verify_kernel(one)
        text = print_kernel(pair[0])
        assert print_kernel(parse_kernel(text)) == text
        operand = sides[1 if side == "left" else 0].buffer
        pairs.append(pair)
        given.append((x, matrix, rng.standard_normal(operand.size).astype(kind)))
    code = Compiled([one for pair in pairs for one in pair], isa)
    for number, ((ours, theirs), (x, matrix, plain)) in enumerate(zip(pairs, given, strict=True)):
        results = []
        for one, image in ((ours, x), (theirs, matrix.reshape(-1))):
            z = np.full(one.buffers[2].size, np.nan, kind)
            arrays = [image, plain] if side == "left" else [plain, image]
            (product,) = one.body
            assert isinstance(product, Gemm)
            end = units(product, select(isa))
            ways.add(walk.across_of(product, select(isa)) is not None)
            for begin, stop in ((0, end // 3), (end // 3, end)):
                code([*arrays, z], 2 * number + (one is theirs), begin, stop)
            results.append(z)
            truth = z * np.nan
            execute_kernel(one, [*arrays, truth])
            np.testing.assert_allclose(z, truth, rtol=0, atol=tolerance)
        np.testing.assert_array_equal(results[0], results[1])
    assert ways == ({True, False} if side == "right" else {False})


# Two axes; one, dilated and mirrored, whose windows leave it on both sides.
@pytest.mark.parametrize(
    "case",
    [
        (2, 3, (12, 16), (3, 3), (12, 16), (1, 1), (1, 1), (1, 1)),
        (2, 3, (420,), (3,), (424,), (1,), (-5,), (-7,)),
    ],
)
def test_bands_of_images(case: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    # An image that the second cache does not hold is read band by band, to the bit as whole.
    patch = patch_of(case)
    x = np.random.default_rng(3).standard_normal(2 * patch.image_stride).astype(np.float32)
    sizes, a, of, *_, out = factors(patch, written(patch, x), 5, "right", DType.F32)
    one, other = kernel(*sizes, a, of), kernel(*sizes, a, out)
    (product,) = one.body
    assert isinstance(product, Gemm)
    plain = np.random.default_rng(4).standard_normal(a.buffer.size).astype(np.float32)
    found, bands = list[Array](), set()
    for share in (75, 1):
        monkeypatch.setattr(slide, "SHARE", share)
        layout = slide.slide_of(product, select("native"))
        assert layout is not None
        bands.add(layout.band)
        code = Compiled([one, other])
        end = units(product, select("native"))
        z = np.full(one.buffers[2].size, np.nan, np.float32)
        for begin, stop in ((0, end // 2), (end // 2, end)):
            code([plain, x, z], 0, begin, stop)
        found.append(z)
    (written_out,) = other.body
    assert isinstance(written_out, Gemm)
    found.append(np.full(one.buffers[2].size, np.nan, np.float32))
    arrays = [plain, written(patch, x).reshape(-1), found[-1]]
    code(arrays, 1, 0, units(written_out, select("native")))
    assert len(bands) == 2
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


# Summed over places: strided, mirrored, of one tap, more than a leaf of them, read where they lie.
SUMMED = (
    *CASES[1:4:2],
    (5, 31, (9, 12), (3, 3), (9, 12), (1, 1), (1, 1), (1, 1)),
    (6, 4, (11, 13), (3, 2), (5, 6), (2, 2), (1, 1), (0, 0)),
    (40, 2, (5, 7), (1, 1), (3, 4), (2, 2), (1, 1), (0, 0)),
    (2, 3, (320,), (3,), (160,), (2,), (3,), (2,)),
)


def summed(case: tuple[Any, ...], other: int, dtype: DType) -> tuple[Kernel, Kernel, list[Array]]:
    """Windows by images of ``other`` channels over their places, and the same with matrices; what
    either reads.
    """
    kind, rng = (np.float64 if dtype is DType.F64 else np.float32), np.random.default_rng(len(case))
    patch = patch_of(case)
    ones, places = (1,) * len(patch.places), patch.places
    axes = (places, ones, places, ones, ones, (0,) * len(places))
    area = prod(places)
    turned = Patch(patch.images, other * area, other, area, *axes, is_turned=True)
    x = rng.standard_normal(patch.images * patch.image_stride).astype(kind)
    y = rng.standard_normal(patch.images * other * area).astype(kind)
    matrix, dense = written(patch, x), written(replace(turned, is_turned=False), y).T
    (m, k), n = matrix.shape, other
    a, b = (Buffer(name, dtype, v.size, "read") for name, v in (("a", x), ("b", y)))
    ours = kernel(m, n, k, Factor(a, (), 0, 0, 0, patch), Factor(b, (), 0, 0, 0, turned))
    a, b = Buffer("a", dtype, m * k, "read"), Buffer("b", dtype, k * n, "read")
    theirs = kernel(m, n, k, Factor(a, (), k, 1), Factor(b, (), n, 1))
    return ours, theirs, [x, y, matrix.reshape(-1), dense.reshape(-1).copy()]


@pytest.mark.parametrize(("isa", "table"), [("native", 50), ("sse2", 2048)])
def test_windows_summed_over_places(isa: str, table: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Groups of places that end inside of leaves, bands of images, any chunk of strips: same bits.
    monkeypatch.setattr(walk, "_TABLE", table)
    monkeypatch.setattr(walk, "CHUNK", 288 if table > 1000 else 20)
    cases = [
        summed(case, 1 + 7 * n % 37, (DType.F32, DType.F64)[n % 2]) for n, case in enumerate(SUMMED)
    ]
    code = Compiled([one for case in cases for one in case[:2]], isa)
    cuts, ways = set(), set()
    for number, (ours, theirs, arrays) in enumerate(cases):
        results = []
        for one, given in ((ours, arrays[:2]), (theirs, arrays[2:])):
            verify_kernel(one)
            (product,) = one.body
            assert isinstance(product, Gemm)
            found = walk.walk_of(product, select(isa))
            if found is not None:
                cuts.add(found.is_cut)
                ways.add(found.packed is None)
            z = np.full(one.buffers[2].size, np.nan, given[0].dtype)
            end = units(product, select(isa))
            for begin, stop in ((0, end // 3), (end // 3, end)):
                code([*given, z], 2 * number + (one is theirs), begin, stop)
            results.append(z)
        np.testing.assert_array_equal(results[0], results[1])
        (product,) = theirs.body
        assert isinstance(product, Gemm)
        a, b = arrays[2].reshape(product.m, -1), arrays[3].reshape(-1, product.n)
        truth = a.astype(np.float64) @ b
        np.testing.assert_allclose(results[0].reshape(truth.shape), truth, rtol=0, atol=1e-3)
    assert ways == {True, False} and (table > 1000 or True in cuts)


def test_products_of_a_kernel_take_turns() -> None:
    # Blocks of columns of one and of the other in turns: every unit once, however they are cut.
    sizes = ((5, 3000, 70), (9, 2100, 90))  # three column blocks and two
    reads, products, total = list[Buffer](), list[Gemm](), sum(m * n for m, n, _ in sizes)
    z, first = Buffer("z", DType.F32, total, "update"), 0
    for number, (m, n, k) in enumerate(sizes):
        a, b = (Buffer(f"{x}{number}", DType.F32, k * e, "read") for x, e in (("a", m), ("b", n)))
        i, j, acc = Var("i", I64), Var("j", I64), Var("acc", DType.F32)
        store = Store(z, Affine(first, ((i, n), (j, 1))), acc, combine="add")
        left, right = Factor(a, (), k, 1), Factor(b, (), 1, k)
        products.append(Gemm((), (), m, n, k, left, right, i, j, acc, (store,)))
        reads, first = [*reads, a, b], first + m * n
    code = Compiled([Kernel("both", (*reads, z), tuple(products))])
    rng = np.random.default_rng(8)
    given = [rng.standard_normal(x.size).astype(np.float32) for x in reads]
    blocks = [column_blocks(product, select("native")) for product in products]
    assert min(blocks) > 1 and blocks[0] != blocks[1]
    end, found = sum(units(product, select("native")) for product in products), list[Array]()
    for cuts in ((0, end), (0, 1, end // 3, end - 1, end)):
        found.append(np.zeros(total, np.float32))
        for begin, stop in itertools.pairwise(cuts):
            code([*given, found[-1]], 0, begin, stop)
    np.testing.assert_array_equal(found[0], found[1])
    pairs = zip(sizes, given[::2], given[1::2], strict=True)
    truth = [
        (a.reshape(m, k).astype(np.float64) @ b.reshape(n, k).T).ravel()
        for (m, n, k), a, b in pairs
    ]
    np.testing.assert_allclose(found[0], np.concatenate(truth), rtol=0, atol=1e-3)


def test_blocks_of_images_are_alike() -> None:
    """What two threads get differs by a sixteenth of all images at most, where blocks may be half
    as large; one block stays one.
    """
    for count, most, m in itertools.product((16, 60, 64, 96, 128), (3, 5, 6, 7, 10), (6, 64)):
        images = slide.even_images(count, most, m)
        assert most // 2 <= images <= most
        blocks = [min(images, count - n) for n in range(0, count, images)]
        strips = -(-m // 6)
        ranges = np.array_split(np.repeat(blocks, strips), 4)
        loads = [sum(map(int, some)) / strips for some in ranges]
        assert max(loads) <= count / 4 + max(count / 16, 2), (count, most, m)
    assert slide.even_images(1, 6, 6) == slide.even_images(3, 1, 6) == 1
