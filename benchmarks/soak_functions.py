"""Generated NumPy functions: value and gradient in f64 against NumPy, finite differences and, where
installed, JAX.

    python -m benchmarks.soak_functions --count 3000

A function takes a tree of arrays and makes new ones from it: elementwise, reductions over axes,
indices and slices, assignment, `where`, products of matrices, loops, complex numbers and Fourier
transforms, and arrays put together. It is a list of steps, so that it runs with any module that has
NumPy's names. The value is held to 1e-11 of NumPy's, the gradient to 1e-5 of differences in three
directions. Where two steps of a difference disagree, a kink is near, and JAX decides; it looks at
one in six of the others too, to 1e-9. Half of the functions are compiled; the derived programs of
the others run in the reference interpreter.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

import gradc
import gradc.runtime.tracing.tables
from benchmarks.soak_common import Tally, command, soak
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.runtime.tracing.record import record_arrays

jax: Any = importlib.import_module("jax") if find_spec("jax") else None  # optional
jnp: Any = importlib.import_module("jax.numpy") if jax else None
if jax:
    jax.config.update("jax_enable_x64", True)

Array = np.ndarray[Any, Any]
# A step sees the module of NumPy's names and the arrays so far, and gives another array.
Step = Callable[[Any, list[Any]], Any]
STEPS = (3, 9)
KINK = "near a kink"
NO_NUMBER = "JAX has no number"
MOST = 60  # elements of an array

UNARY: dict[str, Callable[[Any, Any], Any]] = {
    "sin": lambda m, x: m.sin(x),
    "tanh": lambda m, x: m.tanh(x),
    "exp": lambda m, x: m.exp(-x * x),
    "log": lambda m, x: m.log(1.5 + m.tanh(x)),
    "sqrt": lambda m, x: m.sqrt(1.0 + x * x),
    "square": lambda m, x: m.square(m.tanh(x)),
    "power": lambda m, x: (1.5 + m.sin(x)) ** 1.7,
    "cube": lambda m, x: m.tanh(x) ** 3,
    "abs": lambda m, x: m.abs(x),
    "arctan": lambda m, x: m.arctan(x),
    "arcsinh": lambda m, x: m.arcsinh(x),
    "log1p": lambda m, x: m.log1p(x * x),
    "expm1": lambda m, x: m.expm1(-m.abs(x)),
    "sinc": lambda m, x: m.sinc(x),
    "reciprocal": lambda m, x: 1 / (2 + m.cos(x)),
    "clip": lambda m, x: m.clip(x, -0.8, 0.9),
    "negative": lambda m, x: -x,
    "cumsum": lambda m, x: m.tanh(m.cumsum(x)),
    "sort": lambda m, x: m.sort(x.ravel()),
    "flip": lambda m, x: m.flip(x),
    "transpose": lambda m, x: x.T,
    "ravel": lambda m, x: x.reshape(-1),
    "where": lambda m, x: m.where(x > 0.1, x * x, m.sin(x)),
    "softmax": lambda m, x: m.exp(x - m.max(x)) / m.sum(m.exp(x - m.max(x))),
    "prod": lambda m, x: m.prod(1 + 0.1 * m.tanh(x), axis=-1) if x.ndim else x,
    "outer": lambda m, x: m.outer(x.ravel()[:5], m.cos(x.ravel()[:4])),
    "pad": lambda m, x: m.pad(x, 1),
    "diff": lambda m, x: m.diff(x, axis=0) if x.ndim and x.shape[0] > 1 else x,
    "roll": lambda m, x: m.roll(x, 1),
    "tril": lambda m, x: m.tril(m.tanh(x)) if x.ndim == 2 else x,
    "repeat": lambda m, x: m.repeat(x, 2, axis=0) if x.ndim and x.size < MOST / 2 else x,
}
BINARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda m, x, y: x + y,
    "subtract": lambda m, x, y: x - y,
    "multiply": lambda m, x, y: x * y,
    "divide": lambda m, x, y: x / (1.5 + m.tanh(y)),
    "maximum": lambda m, x, y: m.maximum(x, y),
    "minimum": lambda m, x, y: m.minimum(x, y),
    "arctan2": lambda m, x, y: m.arctan2(x, 2.0 + m.sin(y)),
    "hypot": lambda m, x, y: m.hypot(1 + m.abs(x), y),
    "logaddexp": lambda m, x, y: m.logaddexp(x, y),
    "where": lambda m, x, y: m.where(x < y, m.sin(x), y),
    "power": lambda m, x, y: (1.2 + m.tanh(x)) ** m.tanh(y),
}  # fmt: skip
# Complex arrays in, complex arrays out; cuts and poles are kept away.
COMPLEX: dict[str, Callable[[Any, Any], Any]] = {
    "exp": lambda m, z: m.exp(1j * z),
    "log": lambda m, z: m.log(3 + m.tanh(m.abs(z)) + 0.3j * m.cos(z.real)),
    "sqrt": lambda m, z: m.sqrt(2 + m.sin(z.real) + 1j * z.imag),
    "sin": lambda m, z: m.sin(z.real + 1j * m.tanh(z.imag)),
    "cosh": lambda m, z: m.cosh(m.tanh(z.real) + 1j * z.imag),
    "tanh": lambda m, z: m.tanh(1 + m.abs(z) + 0.3j * m.sin(z.imag)),
    "arctan": lambda m, z: m.arctan(2 + m.abs(z) + 1j * z.real),
    "square": lambda m, z: z**2 / (1 + m.abs(z)),
    "power": lambda m, z: (2 + m.cos(z.real) + 1j * m.tanh(z.imag)) ** (0.7 - 0.4j),
    "divide": lambda m, z: (1 + 2j) / (2 + m.abs(z) + 1j * z.real),
    "conj": lambda m, z: m.conj(z) * (0.5 + 1j),
    "where": lambda m, z: m.where(z.real > 0.1, z, 1j * m.conj(z)),
    "fft": lambda m, z: m.fft.fft(z, axis=-1) / z.shape[-1] if z.ndim else z,
    "ifft": lambda m, z: m.fft.ifft(z, axis=0) if z.ndim else z,
    "fftn": lambda m, z: m.fft.fftn(z, norm="ortho") if z.ndim else z,
    "irfft": lambda m, z: m.fft.irfft(z, 5, axis=-1) + 0j if z.ndim else z,
    "rfft": lambda m, z: m.fft.rfft(z.real, axis=-1) if z.ndim else z,
    "cumsum": lambda m, z: m.cumsum(z) / z.size,
    "product": lambda m, z: z @ m.conj(z.T) / z.size if z.ndim == 2 else z,
    "prod": lambda m, z: m.prod(1 + 0.1 * z / (1 + m.abs(z)), axis=-1) if z.ndim else z,
    "roll": lambda m, z: m.roll(z, 1) + z[..., ::-1] if z.ndim else z,
    "mean": lambda m, z: z - m.mean(z),
}
PARTS: tuple[Callable[[Any, Any], Any], ...] = (
    lambda m, z: m.real(z),
    lambda m, z: m.imag(z),
    lambda m, z: m.abs(z + 2),
    lambda m, z: m.abs(z) ** 2 / (1 + m.abs(z)),
    lambda m, z: m.angle(3 + m.abs(z) + 1j * z.real),
    lambda m, z: m.var(z, axis=-1) if z.ndim else m.real(z),
)
REDUCTIONS = ("sum", "mean", "max", "min", "var", "prod", "std")


def unary(rng: random.Random, arrays: list[Array]) -> Step:
    """One array, element by element or in another form."""
    chosen, n = UNARY[rng.choice(list(UNARY))], rng.randrange(len(arrays))
    return lambda m, made: chosen(m, made[n])


def binary(rng: random.Random, arrays: list[Array]) -> Step | None:
    """Two arrays whose shapes broadcast."""
    chosen = BINARY[rng.choice(list(BINARY))]
    a, b = rng.randrange(len(arrays)), rng.randrange(len(arrays))
    try:
        np.broadcast_shapes(arrays[a].shape, arrays[b].shape)
    except ValueError:
        return None
    return lambda m, made: chosen(m, made[a], made[b])


def reduction(rng: random.Random, arrays: list[Array]) -> Step | None:
    """A reduction over one axis, some, or all."""
    n = rng.randrange(len(arrays))
    rank = arrays[n].ndim
    if not rank or not arrays[n].size:
        return None
    name, keep = rng.choice(REDUCTIONS), rng.random() < 0.4
    axis = rng.choice((None, -1, tuple(rng.sample(range(rank), rng.randint(1, rank)))))
    return lambda m, made: getattr(m, name)(made[n], axis=axis, keepdims=keep)


def index(rng: random.Random, arrays: list[Array]) -> Step | None:
    """Whole numbers, slices with steps, and lists of places."""
    n = rng.randrange(len(arrays))
    key = _key(rng, arrays[n].shape)
    return None if key is None else lambda m, made: made[n][key]


def assignment(rng: random.Random, arrays: list[Array]) -> Step | None:
    """A part of a copy is assigned, or added to; JAX writes it ``at``."""
    n = rng.randrange(len(arrays))
    key = _key(rng, arrays[n].shape)
    if key is None or isinstance(key, np.ndarray):
        return None
    adds, factor = rng.random() < 0.5, rng.uniform(-1, 1)

    def step(m: Any, made: list[Any]) -> Any:
        x = made[n]
        if m is jnp:
            part = x.at[key]
            return part.add(factor * m.sin(x[key])) if adds else part.set(factor * m.sin(x[key]))
        y = np.array(x) if m is np and isinstance(x, np.ndarray) else x + 0.0
        if adds:
            y[key] += factor * np.sin(x[key])
        else:
            y[key] = factor * np.sin(x[key])
        return y

    return step


def _key(rng: random.Random, shape: tuple[int, ...]) -> Any:
    if not shape or 0 in shape:
        return None
    if rng.random() < 0.25:
        return np.array([rng.randrange(-shape[0], shape[0]) for _ in range(rng.randint(1, 4))])
    keys: list[Any] = []
    for size in shape[: rng.randint(1, len(shape))]:
        start, step = rng.randrange(size), rng.choice((1, 1, 2, -1))
        end = None if rng.random() < 0.5 or step < 0 else rng.randint(start, size)
        keys.append(rng.choice((start - size, slice(start, end, step), slice(None, None, step))))
    return tuple(keys)


def product(rng: random.Random, arrays: list[Array]) -> Step | None:
    """``a @ b``, also of vectors, or an einsum of the same."""
    pairs = [
        (a, b)
        for a, x in enumerate(arrays)
        for b, y in enumerate(arrays)
        if x.ndim in (1, 2) and y.ndim in (1, 2) and x.shape[-1] == y.shape[0]
    ]
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    if arrays[a].ndim == arrays[b].ndim == 2 and rng.random() < 0.3:
        return lambda m, made: m.tanh(m.einsum("ij,jk->ki", made[a], made[b]))
    return lambda m, made: m.tanh(made[a] @ made[b])


def loop(rng: random.Random, arrays: list[Array]) -> Step:
    """A Python loop that carries an array."""
    n, turns, rate = rng.randrange(len(arrays)), rng.randint(1, 4), rng.uniform(0.1, 0.9)
    chosen = UNARY[rng.choice(("sin", "tanh", "exp", "sqrt", "arctan", "where"))]

    def step(m: Any, made: list[Any]) -> Any:
        x = made[n]
        for turn in range(turns):
            x = x + rate / (turn + 1) * chosen(m, x)
        return x

    return step


def joined(rng: random.Random, arrays: list[Array]) -> Step:
    """Arrays of one shape stacked, or put behind one another."""
    n = rng.randrange(len(arrays))
    same = [k for k, x in enumerate(arrays) if x.shape == arrays[n].shape]
    chosen = [n, *rng.choices(same, k=rng.randint(1, 2))]
    axis = rng.randint(-1, 0)
    if arrays[n].ndim and rng.random() < 0.5:
        return lambda m, made: m.concatenate([made[k] for k in chosen], axis=axis)
    return lambda m, made: m.stack([made[k] for k in chosen], axis=axis)


def complexes(rng: random.Random, arrays: list[Array]) -> Step:
    """Complex numbers made of two arrays of one shape, functions of them, and a real part."""
    n = rng.randrange(len(arrays))
    other = rng.choice([k for k, x in enumerate(arrays) if x.shape == arrays[n].shape])
    chosen = [COMPLEX[name] for name in rng.choices(list(COMPLEX), k=rng.randint(1, 3))]
    part = rng.choice(PARTS)

    def step(m: Any, made: list[Any]) -> Any:
        z = m.tanh(made[n]) + 1j * m.sin(made[other])
        for function in chosen:
            z = function(m, z)
        return part(m, z)

    return step


KINDS = (
    complexes,
    complexes,
    unary,
    unary,
    unary,
    binary,
    binary,
    binary,
    reduction,
    index,
    assignment,
    product,
    loop,
    joined,
)


class Generated:
    """A function of a tree: its steps, and a loss over all that they make."""

    def __init__(self, rng: random.Random) -> None:
        n, k = rng.randint(1, 5), rng.randint(1, 5)
        values = np.random.default_rng(rng.getrandbits(32))
        self.tree = {
            "a": values.normal(size=(n, k)),
            "b": (values.normal(size=k), [values.normal(size=(k, n))]),
            "c": values.normal(size=()),
        }
        arrays = _leaves(self.tree)
        self.names: list[str] = []
        self.steps: list[Step] = []
        for _ in range(rng.randint(*STEPS)):
            kind = rng.choice(KINDS)
            step = kind(rng, arrays)
            made = None if step is None else np.asarray(step(np, arrays))
            if step is not None and made is not None and 0 < made.size <= MOST and made.ndim < 4:
                self.steps.append(step)
                self.names.append(kind.__name__)
                arrays = [*arrays, made]
        self.weights = [values.normal(size=x.shape) for x in arrays]

    def run(self, m: Any, tree: Any) -> Any:
        """The loss, with the module ``m`` for NumPy."""
        arrays = _leaves(tree)
        for step in self.steps:
            arrays.append(step(m, arrays))
        parts = [m.sum(m.tanh(x) * w) for x, w in zip(arrays, self.weights, strict=True)]
        return sum(parts[1:], parts[0])


def _leaves(tree: Any) -> list[Any]:
    return [tree["a"], tree["b"][0], tree["b"][1][0], tree["c"]]


def case(rng: random.Random, tally: Tally) -> str:
    """One function."""
    f = Generated(rng)
    is_compiled = rng.random() < 0.5
    tally.kinds["compiled"] += is_compiled
    try:
        value, found = (compiled if is_compiled else interpreted)(f)
    except gradc.DiagnosticError as problem:
        tally.kinds["refused"] += 1
        return f"refused: {problem} in {f.names}"
    expected = float(f.run(np, f.tree))
    if not abs(value - expected) <= 1e-11 * max(1.0, abs(expected)):
        return f"value {value!r}, NumPy's {expected!r}: {f.names}"
    if not np.all(np.isfinite(found)):
        return f"gradient {found}: {f.names}"
    said = _against_differences(f, found)
    if said and said != KINK:
        return said
    if jax is not None and (said == KINK or rng.random() < 1 / 6):
        tally.kinds["compared with JAX"] += 1
        wrong = _against_jax(f, found)
        if wrong != NO_NUMBER:
            tally.kinds["right"] += not wrong
            return wrong
    tally.kinds["undecided" if said else "right"] += 1
    return ""


def compiled(f: Generated) -> tuple[float, Array]:
    """Value and gradient as users get them."""
    # Nobody asks for this function again.
    value, slope = gradc.value_and_grad(lambda tree: f.run(np, tree), use_cache=False)(f.tree)
    return float(value), np.concatenate([np.ravel(x) for x in _leaves(slope)])


def interpreted(f: Generated) -> tuple[float, Array]:
    """The same recorded and differentiated, and run by the reference interpreter, which takes a
    tenth of the time of compiling."""

    def loss(a: Any, b: Any, c: Any, d: Any) -> Any:
        return f.run(np, {"a": a, "b": (b, [c]), "c": d})

    leaves = _leaves(f.tree)
    recorded = record_arrays(loss, dict(zip("abcd", leaves, strict=True)), is_loss=True)
    derived = value_and_grad(recorded.function, range(len(leaves)))
    value, *slopes = run(NumpyArrays(), derived, [*leaves, *recorded.captured.values()])
    return float(value), np.concatenate([np.ravel(x) for x in slopes])


def _against_jax(f: Generated, found: Array) -> str:
    slope = jax.jit(jax.grad(lambda tree: f.run(jnp, tree)))(jax.tree.map(jnp.asarray, f.tree))
    theirs = np.concatenate([np.ravel(x) for x in _leaves(slope)])
    if not np.all(np.isfinite(theirs)):
        return NO_NUMBER  # at a root or a quotient of 0, where gradc's may have one
    # JAX has NaN for the slope of std where it is 0, and the like: there differences decide.
    known = np.isfinite(theirs)
    scale = max(1.0, float(np.max(np.abs(theirs[known]), initial=0.0)))
    if np.all(np.abs(theirs - found)[known] <= 1e-9 * scale):
        return ""
    return f"JAX {theirs}, gradc {found}: {f.names}"


def _against_differences(f: Generated, found: Array) -> str:
    """Along random directions, by two steps each; KINK where these disagree."""
    rng = np.random.default_rng(1)
    for _ in range(3):
        directions = [rng.normal(size=np.shape(x)) for x in _leaves(f.tree)]
        one, two = (_difference(f, directions, h) for h in (1e-5, 3e-6))
        exact = float(found @ np.concatenate([np.ravel(v) for v in directions]))
        scale = max(1.0, abs(exact))
        if abs(one - two) > 1e-6 * scale:
            return KINK
        if abs(exact - two) > 1e-5 * scale:
            return f"slope {exact!r}, by differences {two!r}: {f.names}"
    return ""


def _difference(f: Generated, directions: list[Array], step: float) -> float:
    def at(step: float) -> float:
        a, b, c, d = (x + step * v for x, v in zip(_leaves(f.tree), directions, strict=True))
        return float(f.run(np, {"a": a, "b": (b, [c]), "c": d}))

    return (at(step) - at(-step)) / (2 * step)


if __name__ == "__main__":
    sys.exit(command(__doc__, 3_000, partial(soak, "functions", case)))
