"""Rules for the distributions of scipy.stats: densities, distribution functions and their inverses,
of the public distributions and of frozen ones.

Each stands in ``distributions`` in the standard form; location, scale, support and arguments out of
range (NaN, as in SciPy) are dealt with here, once for all. Results are f64 as SciPy's are. A
count, the argument of a mass function, has no derivative.

Non-goals: random draws, fits, moments; distributions of the user's own, which are refused by name.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import gradc.runtime.tracing.scipy_multivariate  # noqa: F401  (the distributions of vectors)
from gradc.ir.tensor.core import DType
from gradc.runtime.tracing.creation import array_of, holds_traced
from gradc.runtime.tracing.distributions import CONTINUOUS, DISCRETE, Discrete
from gradc.runtime.tracing.foreign import Words, held, scipy
from gradc.runtime.tracing.shapes import traced
from gradc.runtime.tracing.trace import Trace, Traced, refuse

_TRACED = "logpdf, pdf, cdf, logcdf, sf, logsf, ppf"


def doubles(t: Trace, a: Any) -> Any:
    """A traced array of f64; numbers and arrays that are not traced stay NumPy's."""
    if type(a) in (list, tuple) and holds_traced(a):
        a = array_of(t, a)
    if type(a) is Traced:
        return t.wrap(t.cast(a.value, DType.F64))
    return np.asarray(a, np.float64) if np.ndim(a) else float(a)


class _Called:
    """One call of a method of a distribution: shapes, location and scale, by SciPy's rules."""

    def __init__(self, t: Trace, method: str, owner: Any, args: Any, kwds: Any) -> None:
        self.t, self.words = t, Words(t)
        self.name = f"scipy.stats.{owner.name}"
        self.method = method
        table: dict[str, Any] = {**CONTINUOUS, **DISCRETE}
        public: Any = getattr(sys.modules["scipy.stats"], owner.name or "", None)
        is_public = type(public) is type(owner) and (public.a, public.b) == (owner.a, owner.b)
        if not is_public or owner.name not in table:
            raise self.refused("write its density in NumPy's functions")
        self.law = table[owner.name]
        names = [*self.law.shapes, "loc", *(["scale"] if owner.name in CONTINUOUS else [])]
        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default={"loc": 0.0, "scale": 1.0}.get(name, inspect.Parameter.empty),
            )
            for name in names
        ]
        try:
            bound = inspect.Signature(parameters).bind(*args, **kwds)
        except TypeError as problem:
            raise TypeError(f"{self.name}.{method}: {problem}") from None
        bound.apply_defaults()
        given = {name: doubles(t, item) for name, item in bound.arguments.items()}
        self.loc, self.scale = given["loc"], given.get("scale", 1.0)
        self.shapes = [given[name] for name in self.law.shapes]

    def refused(self, help: str) -> Exception:
        """The refusal of this call."""
        return refuse("GC0560", f"{self.name}.{self.method} cannot be traced", help)

    def rule(self, *names: str) -> tuple[str, Callable[..., Any]]:
        """The first of the law's functions that it has. Raises DiagnosticError GC0560."""
        for name in names:
            found = getattr(self.law, name)
            if found is not None:
                return name, found
        known = [n for n in _TRACED.split(", ") if getattr(self.law, n, None) is not None]
        raise self.refused(f"traced of it: {', '.join(known)}")

    def checked(self, found: Any) -> Any:
        """NaN where the scale is not positive or shapes are out of range."""
        good: Any = self.law.valid(*self.shapes) if self.law.valid else True
        if not (type(self.scale) is float and self.scale > 0):
            good = np.logical_and(good, self.scale > 0)
        return found if good is True else self.where(good, found, np.nan)

    def where(self, mask: Any, a: Any, b: Any) -> Any:
        """``numpy.where`` which gives a traced array whatever is known."""
        if type(mask) is not Traced and np.all(mask) and np.shape(mask) == ():
            return a
        return np.where(traced(self.t, mask), a, b)

    def standard(self, x: Any) -> Any:
        """x in the standard form."""
        y = doubles(self.t, x)
        if type(self.loc) is not float or self.loc:
            y = y - self.loc
        return y / self.scale if type(self.scale) is not float or self.scale != 1 else y

    def ends(self) -> tuple[Any, Any]:
        """The support in the standard form."""
        ends = self.law.support
        low, high = ends(*self.shapes) if callable(ends) else ends
        return low, high

    def inside(self, y: Any, rule: Callable[..., Any], under: float, over: float) -> Any:
        """``rule`` within the support, ``under`` and ``over`` beside it, NaN at NaN."""
        low, high = self.ends()
        below = None if type(low) is float and low == -np.inf else y < low
        above = None if type(high) is float and high == np.inf else y > high
        at = y
        for mask in (below, above):
            at = at if mask is None else self.where(mask, self.law.within(*self.shapes), at)
        found = rule(self.words, at, *self.shapes)
        found = found if below is None else self.where(below, under, found)
        return found if above is None else self.where(above, over, found)


def _log_density(c: _Called, x: Any) -> Any:
    found = c.inside(c.standard(x), c.rule("logpdf")[1], -np.inf, -np.inf)
    scaled = found if type(c.scale) is float and c.scale == 1 else found - np.log(c.scale)
    return c.checked(scaled)


def _mass(c: _Called, k: Any) -> Any:
    y = c.standard(k)
    y = held(y)
    whole = y == np.floor(y)
    found = c.inside(np.floor(y), c.law.logpmf, -np.inf, -np.inf)
    return c.checked(c.where(np.logical_or(whole, np.isnan(y)), found, -np.inf))


# The values beside the support, and how each follows from its complement or its logarithm.
_TAILS = {"cdf": (0.0, 1.0), "sf": (1.0, 0.0), "logcdf": (-np.inf, 0.0), "logsf": (0.0, -np.inf)}
_OTHER = {"cdf": "sf", "sf": "cdf"}


def _tail(c: _Called, x: Any) -> Any:
    base = c.method.removeprefix("log")
    name, rule = c.rule(c.method, base, _OTHER[base])
    y = c.standard(x)
    if isinstance(c.law, Discrete):
        y = held(np.floor(y))

    def value(w: Words, y: Any, *shapes: Any) -> Any:
        found = rule(w, y, *shapes)
        found = 1 - found if name == _OTHER[base] else found
        return np.log(found) if c.method != base and name != c.method else found

    found = c.inside(y, value, *_TAILS[c.method])
    return c.checked(c.where(np.logical_not(np.isnan(y)), found, np.nan))


def _quantile(c: _Called, q: Any) -> Any:
    rule = c.rule("ppf")[1]
    p = doubles(c.t, q)
    p = 1 - p if c.method == "isf" else p
    outside = np.logical_or(p < 0, p > 1)
    found = rule(c.words, np.where(outside, 0.5, p), *c.shapes)
    return c.checked(c.where(np.logical_not(outside), found * c.scale + c.loc, np.nan))


def _method(name: str, parameter: str, run: Callable[[_Called, Any], Any], discrete: bool) -> None:
    """A rule for one method of all distributions of a kind."""
    base = "rv_discrete" if discrete else "rv_continuous"

    def rule(t: Trace, self: Any, args: Any, kwds: Any, **point: Any) -> Any:
        found = run(_Called(t, name, self, args, kwds), point[parameter])
        return np.exp(found) if name in ("pdf", "pmf") else found

    known = inspect.signature(rule).parameters
    point = inspect.Parameter(parameter, inspect.Parameter.KEYWORD_ONLY)
    names = [p for p in known.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rule.__signature__ = inspect.Signature([*names, point])  # type: ignore[attr-defined]
    scipy(f"stats.{base}.{name}")(rule)


for _name in ("logpdf", "pdf"):
    _method(_name, "x", _log_density, False)
for _name in ("logpmf", "pmf"):
    _method(_name, "k", _mass, True)
for _name in _TAILS:
    _method(_name, "x", _tail, False)
    _method(_name, "k", _tail, True)
_method("ppf", "q", _quantile, False)
_method("isf", "q", _quantile, False)
