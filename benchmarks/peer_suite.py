"""Runs HIPS/autograd's test suite on gradc: ``python -m benchmarks.peer_suite PATH [--every N]``.

PATH is an unpacked source distribution of autograd (``pip download autograd --no-binary :all:
--no-deps``); nothing of it is copied. Its modules are replaced by stand-ins: ``autograd.numpy`` is
NumPy itself, ``check_grads`` asks gradc for the gradient of a random weighing of the function and
compares it with central differences of the plain function. Every call of ``check_grads`` is a case:

    right       value and gradient agree
    wrong       they do not
    refused     a diagnostic that names the function and what to write instead
    misleading  anything else: another exception, or a refusal that names neither

Cases with complex arguments or results are counted apart. Tests of autograd's own machinery (boxes,
vector spaces) do not call ``check_grads`` on arrays and are left out.

Non-goals: forward mode and second order, which gradc's own tests cover.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import sys
import time
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import gradc

KINDS = ("right", "wrong", "refused", "misleading")
MODULES = (
    *("test_systematic", "test_numpy", "test_scalar_ops", "test_binary_ops", "test_complex"),
    *("test_linalg", "test_fft", "test_scipy", "test_list", "test_tuple", "test_dict"),
    *("test_jacobian", "test_truediv", "test_wrappers", "test_graphs"),
)


DISTRIBUTIONS = (
    *("norm", "t", "chi2", "beta", "gamma", "poisson", "dirichlet", "multivariate_normal"),
)


class Counts:
    """What became of the cases seen so far."""

    def __init__(self, every: int, seconds: float, only: str = "") -> None:
        self.every, self.only = every, only
        self.until = time.monotonic() + seconds
        self.seen = 0
        self.test = ""
        self.found: dict[str, Counter[str]] = {"real": Counter(), "complex": Counter()}
        self.notes: list[str] = []
        self.left: list[str] = []  # tests that ask for more than check_grads

    def case(self, function: Callable[..., Any], numbers: Any, args: Any, options: Any) -> None:
        """Judges one case."""
        if not self.only:  # otherwise counted where its kind is known
            self.seen += 1
            if self.seen % self.every:
                return
        if time.monotonic() > self.until:
            return
        try:
            plain = function(*args, **options)
        except Exception:  # noqa: BLE001  (the case itself needs something that stand-ins lack)
            return
        leaves = [*_leaves(args), *_leaves(plain)]
        if not leaves or any(np.asarray(x).dtype == object for x in leaves):
            return
        kind = "complex" if any(np.iscomplexobj(x) for x in leaves) else "real"
        if self.only:
            self.seen += kind == self.only
            if kind != self.only or self.seen % self.every:
                return
        verdict, note = judged(function, numbers, args, options, plain)
        self.found[kind][verdict] += 1
        if verdict != "right":
            self.notes.append(f"{kind} {verdict} {self.test}: {note}")


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for item in tree.values():
            yield from _leaves(item)
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _leaves(item)
    elif isinstance(tree, (int, float, complex, np.ndarray, np.generic)):
        yield tree


def _any_leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for item in tree.values():
            yield from _any_leaves(item)
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _any_leaves(item)
    else:
        yield tree


def _moved(tree: Any, step: float, along: Iterator[Any]) -> Any:
    if isinstance(tree, dict):
        return {k: _moved(v, step, along) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_moved(v, step, along) for v in tree)
    return tree + step * next(along)


def judged(
    function: Callable[..., Any], numbers: Any, args: Any, options: Any, plain: Any
) -> tuple[str, str]:
    """The verdict on one case, and why. Eigenvectors and singular vectors have no sign of their
    own: squares of results count as well.
    """
    chosen = (numbers,) if isinstance(numbers, int) else tuple(numbers)
    floats = [float(a) if isinstance(a, int) and n in chosen else a for n, a in enumerate(args)]
    name = getattr(function, "__name__", "function")

    def result(*given: Any) -> Any:
        """Only what is differentiated is an argument; the rest are options, as autograd has it."""
        whole = list(floats)
        for n, item in zip(chosen, given, strict=True):
            whole[n] = item
        return function(*whole, **options)

    try:
        first = compared(result, [floats[n] for n in chosen], plain, lambda x: x)
        is_real = not any(map(np.iscomplexobj, _leaves(args)))
        if "value nan" in first and is_real and any(map(np.iscomplexobj, _leaves(plain))):
            return "refused", f"{name}: NaN where SciPy sees that it must give complex numbers"
        source = inspect.getsource(function) if inspect.isfunction(function) else ""
        if not first or not any(name in source for name in ("eigh", "svd")):
            return ("wrong", f"{name}: {first}") if first else ("right", "")
        second = compared(result, [floats[n] for n in chosen], plain, lambda x: x * x)
        return ("wrong", f"{name}: {second}") if second else ("right", "")
    except gradc.DiagnosticError as refusal:
        text = str(refusal)
        is_clear = "GC0561" not in text or "numpy.where" in text or "write numpy." in text
        is_clear = is_clear or "write x.astype" in text
        verdict = "refused" if is_clear else "misleading"
        return verdict, f"{name}: {text.strip().splitlines()[0]}"
    except Exception as error:  # noqa: BLE001  (whatever it is, it misleads)
        return "misleading", f"{name}: {type(error).__name__}: {str(error)[:120]}"


def compared(
    result: Callable[..., Any],
    args: list[Any],
    plain: Any,
    seen: Callable[[Any], Any],
) -> str:
    """What differs between gradc and central differences; empty if nothing does."""
    rng = np.random.default_rng(0)
    weights = [_direction(rng, x) for x in _any_leaves(plain)]

    def total(*given: Any) -> Any:
        parts = zip(_any_leaves(result(*given)), weights, strict=True)
        return sum(_weighed(w, seen(x)) for x, w in parts)

    value, slopes = gradc.value_and_grad(total, argnums=tuple(range(len(args))))(*args)
    along = [_direction(rng, x) for a in args for x in _leaves(a)]
    ends = []
    for step in (1e-6, -1e-6):
        moves = iter(along)
        given = [_moved(a, step, moves) for a in args]
        ends.append(float(np.real(total(*given))))
    expected, here = (ends[0] - ends[1]) / 2e-6, float(np.real(total(*args)))
    pairs = zip(_leaves(slopes), along, strict=True)
    # A gradient in complex numbers is dL/dx - i dL/dy.
    found = sum(float(np.real(np.sum(np.asarray(g) * d))) for g, d in pairs)
    size = max(abs(expected), abs(found), 1.0)
    is_near = np.isclose(float(np.real(value)), here, 1e-9, 1e-9)
    if abs(found - expected) <= 2e-5 * size and is_near:
        return ""
    return f"slope {found} for {expected}, value {value} for {here}"


def _direction(rng: np.random.Generator, like: Any) -> Any:
    found = rng.standard_normal(np.shape(like))
    return found + 1j * rng.standard_normal(np.shape(like)) if np.iscomplexobj(like) else found


def _weighed(weights: Any, part: Any) -> Any:
    """A real sum of both parts."""
    total = np.sum(np.real(weights) * np.real(part))
    if np.iscomplexobj(weights):
        total = total + np.sum(np.imag(weights) * np.imag(part))
    return total


def _copied(name: str, **others: Any) -> types.ModuleType:
    """A module with some of its names bound to something else."""
    made = types.ModuleType(name)
    vars(made).update({**vars(importlib.import_module(name)), **others})
    return made


# Modules of autograd of which nothing but names is needed.
STAND_INS = (
    "test_util",
    "core",
    "tracer",
    "extend",
    "misc",
    "wrap_util",
    "builtins",
    "util",
    "differential_operators",
)


def install(counts: Counts) -> None:
    """Puts stand-ins for autograd's modules in place."""

    def check_grads(function: Any, argnum: Any = 0, *_: Any, **__: Any) -> Callable[..., None]:
        return lambda *args, **options: counts.case(function, argnum, args, options)

    def combo_check(function: Any, argnum: Any = 0, *_: Any, **__: Any) -> Callable[..., None]:
        def every(*choices: Any, **options: Any) -> None:
            names = list(options)
            for args in product(*choices):
                for values in product(*options.values()):
                    counts.case(function, argnum, args, dict(zip(names, values, strict=True)))

        return every

    def missing(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("a stand-in")

    stats = importlib.import_module("scipy.stats")
    # By default `odeint` has eight digits, of which differences leave two.
    integrate = _copied("scipy.integrate")
    integrate.odeint = functools.partial(integrate.odeint, rtol=1e-12, atol=1e-12)  # type: ignore[attr-defined]
    made = types.ModuleType("autograd")
    for name in ("grad", "value_and_grad", "jacobian", "hessian", "elementwise_grad"):
        setattr(made, name, getattr(gradc, name, missing))
    made.isinstance, made.list, made.tuple, made.dict = isinstance, list, tuple, dict  # type: ignore[attr-defined]
    sys.modules["autograd"] = made
    for path, source in {
        "numpy": np,
        "numpy.random": np.random,
        "numpy.linalg": np.linalg,
        "numpy.fft": np.fft,
        **{
            f"scipy.{n}": importlib.import_module(f"scipy.{n}")
            for n in ("special", "stats", "linalg", "signal")
        },
        "scipy.integrate": integrate,
        **{f"scipy.stats.{n}": getattr(stats, n) for n in DISTRIBUTIONS},
        "scipy": _copied("scipy", integrate=integrate),
    }.items():
        sys.modules[f"autograd.{path}"] = source
        if "." not in path:
            setattr(made, path, source)
    for path in STAND_INS:
        stand_in: Any = types.ModuleType(f"autograd.{path}")
        stand_in.__getattr__ = lambda name: missing
        sys.modules[f"autograd.{path}"] = stand_in
        setattr(made, path, stand_in)
    util: Any = sys.modules["autograd.test_util"]
    util.check_grads, util.combo_check = check_grads, combo_check
    made.__getattr__ = lambda name: missing  # type: ignore[method-assign]


def run(path: Path, every: int, only: str, seconds: float, kind: str = "") -> Counts:
    """All tests of the suite that call ``check_grads``."""
    counts = Counts(every, seconds, kind)
    install(counts)
    sys.path.insert(0, str(path / "tests"))
    for module_name in MODULES:
        if only and only not in module_name:
            continue
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # noqa: BLE001
            print(f"{module_name} is left out: {error}")
            continue
        for name, test in list(vars(module).items()):
            if (
                not name.startswith("test_")
                or not inspect.isfunction(test)
                or inspect.signature(test).parameters
            ):
                continue
            counts.test = f"{module_name}.{name}"
            np.random.seed(0)
            try:
                test()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001  (pytest's failures are no Exceptions)
                counts.left.append(f"{counts.test}: {type(error).__name__}")
    return counts


def main() -> None:
    """Prints the table, and with ``--notes`` what was not right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--every", type=int, default=1, help="judge every N-th case only")
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop judging after that")
    parser.add_argument("--only", default="", help="modules whose name has this in it")
    parser.add_argument("--kind", default="", choices=("", "real", "complex"))
    parser.add_argument("--notes", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with np.errstate(all="ignore"):
        counts = run(given.path, given.every, given.only, given.seconds, given.kind)
    print("| cases | all | " + " | ".join(KINDS) + " |")
    print("|---|---|---|---|---|---|")
    for kind, found in counts.found.items():
        cells = (f"{found[k]} ({100 * found[k] / max(found.total(), 1):.1f} %)" for k in KINDS)
        print(f"| {kind} | {found.total()} | " + " | ".join(cells) + " |")
    if given.notes:
        for note, times in Counter(counts.notes).most_common():
            print(f"{times:4d}  {note}")


if __name__ == "__main__":
    main()
