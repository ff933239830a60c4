"""SciPy's Python functions in traced code: values are SciPy's, gradients those of differences of
SciPy's own functions; and SciPy is left as it was.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradc

scipy = pytest.importorskip("scipy")
from scipy import integrate, linalg, special, stats
from scipy.special import logsumexp

from gradc.runtime.tracing.distributions import CONTINUOUS, DISCRETE
from gradc.runtime.tracing.foreign import RULES, function_at
from tests.support.interpreted import evaluated
from tests.support.scipy_cases import CASES


def check_slopes(name: str, function: Callable[..., Any], given: Any, tolerance: float) -> None:
    """Value and gradient of a random weighing, along random directions."""
    rng = np.random.default_rng(3)
    with np.errstate(all="ignore"):
        plain = np.asarray(function(*given))
    weights = rng.standard_normal(plain.shape)

    def loss(*arrays: Any) -> Any:
        return np.sum(weights * function(*arrays))

    value, *slopes = evaluated(loss, given, is_loss=True)
    assert value == pytest.approx(float(loss(*given)), rel=1e-10, abs=1e-11), name
    along = [rng.standard_normal(np.shape(x)) for x in given]
    ends = [loss(*(x + h * v for x, v in zip(given, along, strict=True))) for h in (1e-6, -1e-6)]
    found = sum(float(np.vdot(g, v)) for g, v in zip(slopes, along, strict=True))
    assert found == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize("name", CASES, ids=lambda n: n.replace(" ", "_"))
def test_rules_mean_what_scipy_means(name: str) -> None:
    function, given = CASES[name]
    check_slopes(name, function, given, 1e-6)


def test_every_rule_is_tried() -> None:
    evaluated(lambda x: special.softmax(x), [np.ones(2)])
    evaluated(lambda x: stats.norm.pdf(x), [np.ones(2)])
    tried = {f"scipy.{name.split(' ')[0]}" for name in CASES}
    methods = {n for n in RULES if n.startswith(("scipy.stats.rv_continuous", "scipy.stats.rv_d"))}
    refusing = {name for name, rule in RULES.items() if hasattr(rule, "refuses")}
    assert set(RULES) - methods - refusing == tried


def method_names(name: str) -> list[str]:
    law: Any = (CONTINUOUS | DISCRETE)[name]
    found = ["logpdf", "pdf"] if name in CONTINUOUS else ["logpmf", "pmf"]
    found += ["cdf", "sf", "logcdf", "logsf"] if law.cdf or law.sf else []
    return found + (["ppf", "isf"] if getattr(law, "ppf", None) else [])


def shapes_of(name: str, rng: Any) -> list[Any]:
    law: Any = (CONTINUOUS | DISCRETE)[name]
    found = [rng.uniform(0.2, 0.8, 4) if n == "p" else rng.uniform(0.8, 3, 4) for n in law.shapes]
    if name == "binom":
        found[0] = np.array([3.0, 4.0, 7.0, 9.0])
    return found


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_distributions(name: str) -> None:
    """Every method at points in, on and beside the support; slopes inside it, in every argument."""
    rng = np.random.default_rng(4)
    law, shapes = getattr(stats, name), shapes_of(name, rng)
    scales = () if name in DISCRETE else (np.array([1.3, 0.7, 1.0, 2.0]),)
    locs = np.zeros(4) if name in DISCRETE else np.array([0.1, -0.2, 0.0, 0.3])
    inside = np.array([1.0, 2.0, 3.0, 1.0])
    if name in CONTINUOUS:
        inside = law.ppf(rng.uniform(0.2, 0.8, 4), *shapes, locs, *scales)
    if name == "bernoulli":
        inside = np.zeros(4)
    beside = np.array([[-9.5], [-1.0], [0.0], [1.0], [2.5], [60.0], [np.nan]])
    for method in method_names(name):
        rule = getattr(law, method)
        is_chance = method in ("ppf", "isf")
        points = np.array([[-0.1], [0.3], [0.5], [0.9], [1.1], [np.nan]]) if is_chance else beside
        bad = [scales[0] * [1, 1, -1, 0]] if scales else []
        for given in ((points, *shapes, locs, *scales), (points, *shapes, locs, *bad)):
            with np.errstate(all="ignore"):
                expected = rule(*given)
            (found,) = evaluated(rule, given)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13, err_msg=method)
        at = rng.uniform(0.2, 0.8, 4) if is_chance else inside
        if name in DISCRETE:  # counts have no derivative
            counts = 2 if name == "binom" else 1
            known = functools.partial(rule, *[at, *shapes][:counts])
            check_slopes(method, known, [at, *shapes][counts:], 2e-6)
        else:
            check_slopes(method, rule, [at, *shapes, locs, *scales], 2e-6)


def test_a_count_has_no_derivative() -> None:
    found = evaluated(lambda k, m: stats.poisson.logpmf(k, m), [2.0, 1.5], is_loss=True)
    assert found[1] == 0.0
    assert found[2] == pytest.approx(2 / 1.5 - 1)


def test_frozen_distributions_and_arguments_by_name() -> None:
    check_slopes("frozen", lambda m, s: stats.norm(m, scale=s).logpdf([0.1, 2.0]), [0.3, 1.2], 1e-6)
    check_slopes("frozen", lambda a: stats.gamma(a, scale=2).cdf(1.5), [1.3], 1e-6)
    check_slopes("by name", lambda s: stats.t.logpdf(0.4, df=3, scale=s), [1.2], 1e-6)
    with pytest.raises(TypeError, match=r"scipy\.stats\.t\.logpdf: missing .* argument: 'df'"):
        evaluated(lambda s: stats.t.logpdf(0.4, scale=s), [1.2])


def test_narrow_types_widen_as_scipys_do() -> None:
    x = np.array([0.3, 1.0], np.float32)
    found = gradc.jit(lambda x: stats.norm.logpdf(x))(x)
    assert found.dtype == stats.norm.logpdf(x).dtype == np.float64
    assert gradc.jit(lambda x: special.softmax(x))(x).dtype == np.float32


# --- what is refused, by name


def test_what_is_refused_names_the_function_and_the_argument() -> None:
    class Own(stats.rv_continuous):  # type: ignore[misc]
        def _pdf(self, x: Any) -> Any:
            return np.exp(-x)

    own, x = Own(name="own"), np.array([0.5, 1.5])
    asked: list[tuple[Callable[[Any], Any], str]] = [
        (lambda x: linalg.eigh(x[:, None] * x, b=np.eye(2)), r"scipy\.linalg\.eigh with b="),
        (lambda x: special.polygamma(x, 1.0), r"scipy\.special\.polygamma .* known whole number"),
        (lambda x: np.sum(own.logpdf(x)), r"scipy\.stats\.own\.logpdf cannot be traced"),
        (lambda x: np.sum(stats.norm.entropy(0, x)), r"scipy\.stats\.norm\.\w+ cannot be traced"),
        (lambda x: np.sum(stats.skewnorm.cdf(x, 2)), r"skewnorm\.cdf.*\n.*traced of it: logpdf"),
        (lambda x: stats.multivariate_normal(x).cdf(x), r"multivariate_normal\.cdf cannot"),
        (
            lambda x: integrate.quad(lambda s: s * x[0], 0, 1)[0],
            r"integrate\.quad .*\n.*fixed_quad",
        ),
        (
            lambda x: integrate.solve_ivp(lambda t, y: -x * y, (0, 1), [1.0, 2.0]).y[0, -1],
            r"integrate\.solve_ivp .*\n.*odeint",
        ),
        (lambda x: np.sum(special.jv(0.5, x)), r"scipy\.special\.jv .*\n.*known whole number"),
        (lambda x: special.logsumexp(x + 1j), r"scipy\.special\.logsumexp of complex arrays"),
    ]
    for function, text in asked:
        with pytest.raises(gradc.DiagnosticError, match=text):
            evaluated(function, [x])


def test_steps_that_are_too_long_give_nan() -> None:
    def last(k: Any, **options: Any) -> Any:
        return integrate.odeint(lambda y, t: -k * y, 1.0, [0.0, 1.0], **options)[-1, 0]

    assert np.isnan(evaluated(last, [20.0])[0])
    found = evaluated(lambda k: last(k, mxstep=200), [20.0])[0]
    assert found == pytest.approx(np.exp(-20), abs=1e-8)


# --- SciPy is left as it was


def codes() -> dict[str, Any]:
    """The code of every function that has a rule."""
    return {name: getattr(function_at(name), "__code__", None) for name in RULES}


def test_functions_have_their_own_code_back() -> None:
    before = codes()
    seen: list[Any] = []

    def loss(x: Any) -> Any:
        seen.append(logsumexp.__code__)
        return logsumexp(x) + np.sum(special.softmax(np.array([1.0, 2.0])))

    def broken(x: Any) -> Any:
        raise KeyError("of the user's")

    evaluated(loss, [np.ones(3)], is_loss=True)
    with pytest.raises(KeyError):
        evaluated(broken, [np.ones(3)])
    assert seen[0] is not logsumexp.__code__
    assert codes() == before
    assert isinstance(special.softmax(np.array([1.0, 2.0])), np.ndarray)


def test_other_threads_have_scipys_own_functions() -> None:
    inside, done = threading.Event(), threading.Event()
    found: list[Any] = []

    def loss(x: Any) -> Any:
        inside.set()
        done.wait(10)
        return logsumexp(x)

    def other() -> None:
        inside.wait(10)
        found.append(logsumexp(np.array([1.0, 2.0])))
        found.append(linalg.cholesky(np.eye(2), lower=True))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    evaluated(loss, [np.ones(3)], is_loss=True)
    thread.join()
    assert type(found[0]) is np.float64
    assert found[0] == logsumexp(np.array([1.0, 2.0]))
    np.testing.assert_array_equal(found[1], np.eye(2))


def test_a_module_that_the_function_itself_loads_has_its_rules() -> None:
    """In a process of its own: SciPy's modules are loaded once."""
    program = """
        import sys, numpy as np
        import gradc.runtime.tracing.tables
        from gradc.runtime.tracing.record import record_arrays
        def loss(x):
            from scipy.special import logsumexp
            return logsumexp(x)
        assert not any(name.startswith("scipy") for name in sys.modules)
        assert str(record_arrays(loss, {"x": np.ones(3)}).types[0]) == "f64[]"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)
