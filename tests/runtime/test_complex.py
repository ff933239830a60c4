"""Complex numbers in traced functions: values are NumPy's, gradients those of finite differences,
conventions JAX's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

import gradc
from gradc.runtime.tracing.pairs import as_parts

RNG = np.random.default_rng(11)
Z = RNG.standard_normal(5) + 1j * RNG.standard_normal(5)
W = RNG.standard_normal(5) + 1j * RNG.standard_normal(5)
M = RNG.standard_normal((3, 5)) + 1j * RNG.standard_normal((3, 5))
SQ = RNG.standard_normal((4, 4)) + 1j * RNG.standard_normal((4, 4))
X = RNG.standard_normal(5)
IDS = np.array([4, 0, 0, -2])

UFUNCS = (
    *("exp", "expm1", "exp2", "log", "log1p", "log2", "log10", "sqrt", "square", "reciprocal"),
    *("sin", "cos", "tan", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "arcsinh"),
    *("arccosh", "arctanh", "sign", "absolute", "conjugate", "negative", "positive"),
)
ELEMENTWISE: list[Callable[[Any], Any]] = [
    *(getattr(np, name) for name in UFUNCS),
    np.angle,
    lambda z: np.angle(z, deg=True),
    lambda z: z.real * z.imag,
    lambda z: z**3,
    lambda z: z**-2,
    lambda z: z**0.5,
    lambda z: z ** (1.5 - 0.5j),
    lambda z: 2.0**z,
    lambda z: W / z,
    lambda z: z / (W * 1e-200) * 1e-200,
    lambda z: z / 3,
    lambda z: 1j * z - z * X + X / z,
    lambda z: abs(z - 1j) ** 2,
    lambda z: (z * z.conj()).real,
    lambda z: np.where(z.real > 0, z, 2j),
    lambda z: np.where(z != 1j, z, 0),
    lambda z: np.power(X**2 + 1, z),
    lambda z: np.isfinite(z) * z,
]


def assigned(z: Any) -> Any:
    y = np.zeros(5, complex)
    y[1:3] = z[:2]
    y[0] = 1j
    y[-1] += z[0] * z[4]
    return y


def parts_assigned(m: Any) -> Any:
    y = m.copy()
    y.real[0] = m.imag[1] ** 2
    y.imag[:, 1] += 3.0
    y.real = y.real * 2
    x = m.real.copy()
    x.real[0] = 1.0
    return y * x


STRUCTURAL: list[Callable[[Any], Any]] = [
    lambda m: m.T @ m,
    lambda m: np.einsum("ij,kj->ik", m, m.conj()),
    lambda m: np.tensordot(m, SQ[:3], ([0], [0])),
    lambda m: np.dot(m, W),
    lambda m: np.vdot(m, 1j * m + 2),
    lambda m: np.vecdot(m, m[::-1] * 1j),
    lambda m: np.outer(m[0], m[1]),
    lambda m: np.kron(m[:, :2], SQ[:2, :2]),
    lambda m: np.sum(m, axis=0) * np.mean(m) - m.prod(),
    lambda m: np.prod(m, axis=1) + np.cumsum(m, axis=1)[:, 2],
    lambda m: np.cumprod(m, axis=1),
    lambda m: np.var(m, axis=1),
    lambda m: np.std(m) * m[0, 0],
    lambda m: np.linalg.norm(m),
    lambda m: np.linalg.norm(m, axis=1),
    lambda m: m[:, IDS] + m[1:, ::-2].sum(),
    lambda m: np.take(m, [2, 0], axis=0),
    lambda m: np.concatenate([m, X[None]], axis=0),
    lambda m: np.stack([m, m.real]),
    lambda m: np.array([m[0, 0], 2.0, m[1, 1].imag]),
    lambda m: assigned(m[0]),
    lambda m: np.roll(np.pad(m, 1), 2, axis=1),
    lambda m: np.diff(m, axis=1),
    lambda m: np.convolve(m[0], m[1, :3]),
    lambda m: np.correlate(m[0], m[1, :3]),
    lambda m: np.correlate(m[1, :3], m[0]),
    lambda m: np.linalg.solve(m[:, :3], m[:, 3]),
    lambda m: np.linalg.solve(m[:, :3].real, m[:, 3:]),
    lambda m: np.linalg.inv(m[:, 1:4]),
    lambda m: np.linalg.matrix_power(m[:, 1:4], 3),
    lambda m: np.linalg.eigvalsh(m[:, :3] + m[:, :3].conj().T),
    lambda m: np.linalg.eigvalsh(m[:, :3], UPLO="U"),
    lambda m: np.linalg.svdvals(m) * np.linalg.norm(m, "nuc"),
    lambda m: parts_assigned(m),
    lambda m: np.trace(m) + np.diag(m)[1] + np.tril(m)[2, 1],
    lambda m: np.add.reduce(m) + np.multiply.outer(m[0], [1j])[:, 0],
    lambda m: np.fft.fft2(m) + np.fft.ifft(m, axis=0),
]


def weighed(functions: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """A random real sum of every function's result, at the same weights for numbers and traces."""

    def total(z: Any) -> Any:
        found = []
        for number, function in enumerate(functions):
            result = function(z)
            rng = np.random.default_rng(number)
            one, other = rng.standard_normal((2, *np.shape(result)))
            found.append(np.sum(one * np.real(result)) + np.sum(other * np.imag(result)))
        return tuple(found)

    return total


@pytest.mark.parametrize(
    ("functions", "z"), [(ELEMENTWISE, Z), (STRUCTURAL, M)], ids=["elementwise", "structural"]
)
def test_values_are_numpys_and_gradients_those_of_differences(functions: Any, z: Any) -> None:
    """Along a random complex direction d the slope is Re(gradient * d), of the sum of all."""
    total = weighed(functions)

    def summed(z: Any) -> Any:
        found = total(z)
        return sum(found), found

    slope, values = gradc.grad(summed, has_aux=True)(z)
    for n, (value, plain) in enumerate(zip(values, total(z), strict=True)):
        assert value == pytest.approx(plain, rel=1e-12, abs=1e-12), n
    assert slope.dtype == np.complex128 and slope.shape == z.shape
    step, along = 1e-6, RNG.standard_normal(z.shape) + 1j * RNG.standard_normal(z.shape)
    after, before = total(z + step * along), total(z - step * along)
    wanted = sum((a - b) / (2 * step) for a, b in zip(after, before, strict=True))
    assert np.sum(slope * along).real == pytest.approx(wanted, rel=1e-7)


def test_branch_cuts_are_numpys() -> None:
    """On both sides of every cut, the sign of zero included; far out; and near 1 for logarithms."""
    parts = (0.0, -0.0, 0.5, -0.5, 2.0, -2.0, 1e-8, 20.0)
    z = np.array([complex(a, b) for a in parts for b in parts if a or b])
    z = z[np.abs(np.abs(z) - 1) > 1e-6]
    names = ("log", "log1p", "sqrt", "arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh")
    found = gradc.jit(lambda z: {n: getattr(np, n)(z) for n in (*names, "tanh", "angle")})(z)
    for name, values in found.items():
        wanted = getattr(np, name)(z)
        np.testing.assert_allclose(values, wanted, rtol=2e-14, atol=2e-14, err_msg=name)


def test_derivatives_on_the_axes() -> None:
    """Where a part is 0 nothing is lost: roots and logarithms have the derivatives of 1/(2 sqrt z)
    and 1/z.
    """
    z = np.array([4.0 + 0j, -4.0 + 0j, 2j, -2j, complex(-4.0, -0.0)])
    pairs: list[tuple[Any, Any]] = [
        (np.sqrt, lambda z: 0.5 / np.sqrt(z)),
        (np.log, lambda z: 1 / z),
        (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
        (np.arctan, lambda z: 1 / (1 + z * z)),
    ]
    for function, slope in pairs:
        found = gradc.elementwise_grad(function, holomorphic=True)(z)
        np.testing.assert_allclose(found, slope(z), rtol=1e-12, atol=1e-15)
    zero = gradc.grad(lambda z: abs(z) + np.angle(z))(0j)
    assert zero == 0


def test_types_follow_numpys_rules() -> None:
    narrow, wide = Z.astype(np.complex64), Z
    functions: list[Callable[[Any], Any]] = [
        lambda z: z * 2 + 1j,
        lambda z: z * X.astype(np.float32),
        lambda z: z * X,
        lambda z: abs(z),
        lambda z: z.real + 1,
        lambda z: z + W,
        lambda z: np.fft.fft(z),
        lambda z: np.fft.rfft(z.real),
        lambda z: np.fft.irfft(z),
        lambda z: z.real * 1j,
        lambda z: z.real.astype(complex),
        lambda z: np.exp(1j * z.imag),
    ]
    for given in (narrow, wide):
        found = gradc.jit(lambda z: [f(z) for f in functions])(given)
        for n, (function, value) in enumerate(zip(functions, found, strict=True)):
            wanted = function(given)
            assert value.dtype == wanted.dtype, n
            np.testing.assert_allclose(value, wanted, rtol=1e-5 if given is narrow else 1e-13)
    assert gradc.grad(lambda z: np.sum(abs(z)))(narrow).dtype == np.complex64

    def kinds(z: Any, x: Any) -> Any:
        seen = [np.iscomplexobj(z), np.iscomplexobj(x), isinstance(z, complex), np.isrealobj(z)]
        assert seen == [True, False, True, False]
        return z * x

    assert gradc.jit(kinds)(1j, 2.0) == 2j


def test_arguments_of_any_layout_come_without_a_copy_where_they_are_dense() -> None:
    assert np.shares_memory(as_parts(M), M) and as_parts(M).shape == (3, 5, 2)
    total = gradc.value_and_grad(lambda z: np.sum(abs(z * [1, 2j, 3]) ** 2))
    whole = np.arange(24).reshape(6, 4) * (1 + 2j)
    swapped = whole.astype(">c16")
    for given in (whole[::2, :3], whole.T[:3], np.asfortranarray(whole)[1:, 1:], swapped[:, :3]):
        given = given if given.shape[-1] == 3 else given.T[..., :3]
        value, slope = total(given)
        assert value == pytest.approx(np.sum(abs(given * [1, 2j, 3]) ** 2))
        np.testing.assert_allclose(slope, 2 * np.conj(given) * np.array([1, 4, 9]))
    value, slope = gradc.value_and_grad(lambda z: (z * z).real)(1 + 2j)
    assert value == -3 and slope == 2 + 4j and isinstance(slope, complex)


def test_what_a_function_reads_is_read_at_each_call() -> None:
    held = Z.copy()
    strided = np.stack([Z, W])

    def f(x: Any) -> Any:
        return np.sum(abs(x * held + strided[:, 0][0]) ** 2)

    slope = gradc.grad(f)
    for _ in range(2):
        steps = [(f(X + 1e-6 * e) - f(X - 1e-6 * e)) / 2e-6 for e in np.eye(5)]
        np.testing.assert_allclose(slope(X), steps, rtol=1e-6)
        held *= 1j
        held += 1


def test_real_inputs_have_real_gradients_and_transforms_nest() -> None:
    def energy(x: Any) -> Any:
        return np.sum(np.abs(np.fft.rfft(np.exp(1j * x).real)) ** 3)

    slope = gradc.grad(energy)(X)
    assert slope.dtype == np.float64
    product = gradc.hvp(energy)(X, W.real)
    steps = (gradc.grad(energy)(X + 1e-6 * W.real) - gradc.grad(energy)(X - 1e-6 * W.real)) / 2e-6
    np.testing.assert_allclose(product, steps, rtol=1e-6, atol=1e-6)
    whole = gradc.hessian(energy)(X)
    np.testing.assert_allclose(whole @ W.real, product, rtol=1e-10)


# --- conventions


def test_a_gradient_is_that_of_the_parts_with_a_minus() -> None:
    slope = gradc.grad(lambda z: np.real(z * (2 + 3j)))(1 + 1j)
    assert slope == 2 + 3j  # dL/dx - i dL/dy
    slopes = gradc.grad(lambda x, z: x * abs(z) ** 2, argnums=(0, 1))(2.0, 1 + 1j)
    np.testing.assert_allclose(slopes, (2.0, 4 - 4j), rtol=1e-15)


def test_holomorphic_functions_have_their_derivative() -> None:
    def f(z: Any) -> Any:
        return z**2 * np.exp(z)

    def slope(z: Any) -> Any:
        return (2 * z + z**2) * np.exp(z)

    def curve(z: Any) -> Any:
        return (2 + 4 * z + z**2) * np.exp(z)

    z = 0.3 + 0.7j
    value, found = gradc.value_and_grad(f, holomorphic=True)(z)
    assert value == pytest.approx(f(z)) and found == pytest.approx(slope(z))
    second = gradc.grad(gradc.grad(f, holomorphic=True), holomorphic=True)(z)
    assert second == pytest.approx(curve(z))
    for jacobian in (gradc.jacobian, gradc.jacfwd, gradc.jacrev):
        np.testing.assert_allclose(
            jacobian(f, holomorphic=True)(Z), np.diag(slope(Z)), rtol=1e-12, atol=1e-14
        )
    total = gradc.hessian(lambda z: np.sum(f(z)), holomorphic=True)(Z)
    np.testing.assert_allclose(total, np.diag(curve(Z)), rtol=1e-12, atol=1e-14)
    back, aux = gradc.grad(lambda z: (f(z), abs(z)), has_aux=True, holomorphic=True)(z)
    assert back == pytest.approx(slope(z)) and aux == pytest.approx(abs(z))


def test_tangents_and_cotangents() -> None:
    """<ct, J t> is the same by both modes: Re(ct * y_dot) = Re(back * z_dot)."""

    def f(z: Any, x: Any) -> Any:
        return np.fft.fft(z * np.conj(z)[::-1]) + x**2 * z.real, np.abs(z)

    tangents = (W, RNG.standard_normal(5))
    (y, size), (y_dot, size_dot) = gradc.jvp(f, (Z, X), tangents)
    assert y_dot.dtype == np.complex128 and size_dot.dtype == np.float64
    plain, pull = gradc.vjp(f, Z, X)
    np.testing.assert_allclose(plain[0], y)
    cts = (RNG.standard_normal(5) + 1j * RNG.standard_normal(5), RNG.standard_normal(5))
    back = pull(cts)
    assert back[0].dtype == np.complex128 and back[1].dtype == np.float64
    left = np.sum(cts[0] * y_dot).real + np.sum(cts[1] * size_dot)
    right = np.sum(back[0] * tangents[0]).real + np.sum(back[1] * tangents[1])
    assert left == pytest.approx(right, rel=1e-12)
    step = [(f(Z + s * W, X + s * tangents[1])[0]) for s in (1e-6, -1e-6)]
    np.testing.assert_allclose(y_dot, (step[0] - step[1]) / 2e-6, rtol=1e-6, atol=1e-6)
    assert size.shape == (5,)


def test_conventions_are_jaxs() -> None:
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    jax.config.update("jax_enable_x64", True)

    def f(np: Any, z: Any) -> Any:
        return np.fft.ifft(np.sin(z) * np.conj(z)) / (2 + z)

    def loss(np: Any, z: Any) -> Any:
        return np.sum(np.abs(f(np, z)) ** 3)

    ours: Any = [lambda z: f(np, z), lambda z: loss(np, z)]
    theirs: Any = [lambda z: f(jnp, z), lambda z: loss(jnp, z)]
    close: Any = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
    close(gradc.grad(ours[1])(Z), jax.jit(jax.grad(theirs[1]))(Z))
    close(gradc.jacrev(ours[1])(Z), jax.jit(jax.jacrev(theirs[1]))(Z))
    tangents = jax.jit(lambda z, w: jax.jvp(theirs[0], (z,), (w,)))
    for a, b in zip(gradc.jvp(ours[0], (Z,), (W,)), tangents(Z, W), strict=True):
        close(a, b)
    close(
        gradc.vjp(ours[0], Z)[1](W)[0], jax.jit(lambda z, w: jax.vjp(theirs[0], z)[1](w)[0])(Z, W)
    )
    real: Any = [lambda x, m=m: f(m, x * (1 + 2j)) for m in (np, jnp)]
    close(gradc.jacfwd(real[0])(X), jax.jit(jax.jacfwd(real[1]))(X))
    slope = gradc.grad(lambda z: np.sum(np.abs(gradc.grad(ours[1])(z)) ** 2))(Z)
    twice = jax.jit(jax.grad(lambda z: jnp.sum(jnp.abs(jax.grad(theirs[1])(z)) ** 2)))
    close(slope, twice(Z))


# --- control flow, derivatives of one's own


def test_loops_and_branches_carry_complex_numbers() -> None:
    def turned(z: Any, x: Any) -> Any:
        def step(carry: Any, row: Any) -> Any:
            carry = carry * np.exp(1j * row) + z[0]
            return carry, (carry * 2, abs(carry))

        last, (all_, sizes) = gradc.scan(step, z, x)
        mapped = gradc.vmap(lambda z, x: z * x)(z, x)
        chosen = gradc.cond(x[0] > 0, lambda z: z * 1j, lambda z: z.conj(), mapped)
        return np.sum(abs(last + chosen) ** 2) + np.sum(all_.imag * sizes)

    def plain(z: Any, x: Any) -> Any:
        carry, found = z, 0.0
        for row in x:
            carry = carry * np.exp(1j * row) + z[0]
            found += np.sum((carry * 2).imag * abs(carry))
        chosen = z * x * 1j if x[0] > 0 else np.conj(z * x)
        return np.sum(abs(carry + chosen) ** 2) + found

    value, slopes = gradc.value_and_grad(turned, argnums=(0, 1))(Z, X)
    assert value == pytest.approx(plain(Z, X), rel=1e-12)
    d, e = W, RNG.standard_normal(5)
    wanted = (plain(Z + 1e-6 * d, X + 1e-6 * e) - plain(Z - 1e-6 * d, X - 1e-6 * e)) / 2e-6
    assert np.sum(slopes[0] * d).real + np.sum(slopes[1] * e) == pytest.approx(wanted, rel=1e-6)


def test_a_pullback_of_complex_numbers_follows_the_convention() -> None:
    """It is compared with differentiation, so a conjugate too many would be told."""
    square = gradc.custom_vjp(lambda z: z * z, lambda ct, z: ct * 2 * z)
    found = gradc.grad(lambda z: np.sum(abs(square(z)) ** 2))(Z)
    np.testing.assert_allclose(found, gradc.grad(lambda z: np.sum(abs(z * z) ** 2))(Z))
    wrong = gradc.custom_vjp(lambda z: z * z, lambda ct, z: ct * 2 * np.conj(z))
    with pytest.warns(UserWarning, match="its pullback gives"):
        gradc.grad(lambda z: np.sum(abs(wrong(z)) ** 2))(Z)


# --- what is refused


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (lambda z: z * z, 1j, "GC0562.*complex result.*holomorphic"),
        (lambda x: x * 1j, 1.0, "GC0562.*complex result"),
        (lambda z: np.sum(np.sort(z)).real, Z, "GC0560.*numpy.sort.*complex.*test_complex"),
        (lambda z: np.max(z).real, Z, "GC0560.*numpy.max"),
        (lambda z: np.sum(np.floor(z)).real, Z, "GC0560.*floor takes no complex"),
        (lambda z: np.sum(z.astype(float)), Z, "GC0560.*imaginary part would be lost"),
        (lambda z: np.sum(np.maximum(z, 0)).real, Z, "GC0560"),
        (lambda z: float(z), 1j, "GC0561"),
        (lambda z: complex(z).real, 1j, "GC0561"),
        (lambda x: _stored(x), X, "GC0560.*imaginary part would be lost"),
        (lambda z: np.linalg.eigh(np.outer(z, z))[0][0], Z, "GC0560.*linalg.eigh"),
        (lambda z: np.linalg.svd(np.outer(z, z))[1][0], Z, "GC0560.*singular vectors.*svdvals"),
        (lambda x: _imaginary(x), X, "GC0560.*no imaginary part to set"),
        (lambda z: np.sum(np.fft.rfft(z)).real, Z, "GC0560.*real numbers"),
        (lambda x: np.sum(np.fft.fft(x, 0)).real, X, "GC0558.*points"),
        (lambda x: np.sum(np.fft.fft(x, norm=cast("Any", "other"))).real, X, "GC0558.*norm"),
        (lambda z: abs(z), np.clongdouble(1), "GC0557"),
    ],
)
def test_no_imaginary_part_is_dropped(function: Any, given: Any, message: str) -> None:
    with pytest.raises(gradc.DiagnosticError, match="(?s)" + message):
        gradc.value_and_grad(function)(given)


def _stored(x: Any) -> Any:
    y = np.zeros(5)
    y[0] = x[0] * 1j
    return np.sum(y)


def _imaginary(x: Any) -> Any:
    y = x * 2
    y.imag = x
    return np.sum(y)


def test_holomorphic_wants_complex_numbers() -> None:
    with pytest.raises(gradc.DiagnosticError, match=r"`x` is real.*complex arguments"):
        gradc.grad(lambda x: x * 1j, holomorphic=True)(1.0)
    with pytest.raises(gradc.DiagnosticError, match="the result is real"):
        gradc.grad(lambda z: abs(z), holomorphic=True)(1j)
    with pytest.raises(gradc.DiagnosticError, match="real axis"):
        gradc.jacfwd(lambda z: abs(z))(Z)
    with pytest.raises(gradc.DiagnosticError, match="is real, and its cotangent complex"):
        gradc.vjp(lambda z: abs(z), Z)[1](W)


# --- transforms


@pytest.mark.parametrize("n", [1, 67, 100_000])
def test_there_and_back(n: int) -> None:
    x = np.random.default_rng(n).standard_normal(n)
    found = gradc.jit(lambda x: np.fft.irfft(np.fft.rfft(x), len(x)))(x)
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-14)
