"""What cannot be traced, and what to write instead: data for messages and for
docs/functions-table.md.

Non-goals: names that can be traced (the tables), names that take no traced array (``states``).
"""

from __future__ import annotations

_VALUES = "the shape of the result depends on values; keep the shape: numpy.where(condition, x, 0)"
_SETS = (
    "a set depends on values in a way that has no derivative; compute it before, on plain arrays"
)
_BITS = "the bits of numbers have no derivative; take it out of the traced function"
_COMPLEX = "eigenvalues and roots are traced for symmetric matrices: numpy.linalg.eigh"
_IN_PLACE = (
    "it writes into its argument; build the result: numpy.where, numpy.concatenate or indexing"
)

REFUSED: dict[str, str] = {
    **dict.fromkeys(("nonzero", "argwhere", "flatnonzero", "trim_zeros"), _VALUES),
    **dict.fromkeys(
        (
            *("unique", "unique_all", "unique_counts", "unique_inverse", "unique_values", "isin"),
            *("intersect1d", "setdiff1d", "setxor1d", "union1d"),
        ),
        _SETS,
    ),
    **dict.fromkeys(
        ("frexp", "ldexp", "spacing", "nextafter", "bitwise_count", "packbits", "unpackbits"), _BITS
    ),
    **dict.fromkeys(("gcd", "lcm", "lexsort", "isnat", "isfortran", "bmat"), _SETS),
    **dict.fromkeys(("sort_complex", "roots", "poly", "linalg.eig", "linalg.eigvals"), _COMPLEX),
    **dict.fromkeys(
        ("copyto", "fill_diagonal", "place", "put", "put_along_axis", "putmask"), _IN_PLACE
    ),
    **dict.fromkeys(
        ("histogram", "histogram2d", "histogramdd", "histogram_bin_edges"),
        "counts have no derivative; sum a smooth kernel of x - centre instead",
    ),
    **dict.fromkeys(
        ("nanmedian", "nanpercentile", "nanquantile"),
        "how many numbers remain depends on values; use numpy.median of numpy.nan_to_num(x)",
    ),
    "polydiv": "write the division out; its length depends on leading zeros",
    "polyfit": "use numpy.linalg.lstsq(numpy.vander(x, n), y)",
    "einsum_path": "ask for the path outside of the traced function",
    "array_equiv": "use numpy.array_equal",
    "asmatrix": "use arrays and @",
    "ix_": "use index arrays: a[i[:, None], j]",
    "row_stack": "use numpy.vstack",
    "array2string": "print the shape and type; a traced array has no numbers",
    "array_repr": "print the shape and type; a traced array has no numbers",
    "array_str": "print the shape and type; a traced array has no numbers",
}

DENSITIES: dict[str, str] = {
    "norm": "-0.5*((x - m)/s)**2 - numpy.log(s) - 0.5*numpy.log(2*numpy.pi)",
    "multivariate_normal": "with L = numpy.linalg.cholesky(C): z = numpy.linalg.solve(L, x - m); "
    "-0.5*z @ z - numpy.sum(numpy.log(numpy.diag(L))) - 0.5*len(x)*numpy.log(2*numpy.pi)",
    "t": "gammaln((v + 1)/2) - gammaln(v/2) - 0.5*numpy.log(v*numpy.pi) - (v + "
    "1)/2*numpy.log1p(x**2/v)",
    "gamma": "(a - 1)*numpy.log(x) - x - gammaln(a)",
    "beta": "(a - 1)*numpy.log(x) + (b - 1)*numpy.log1p(-x) - betaln(a, b)",
    "expon": "-x/s - numpy.log(s)",
    "laplace": "-numpy.abs(x - m)/s - numpy.log(2*s)",
    "cauchy": "-numpy.log(numpy.pi) - numpy.log1p(x**2)",
    "logistic": "-x - 2*numpy.logaddexp(0, -x)",
    "lognorm": "-0.5*(numpy.log(x)/s)**2 - numpy.log(s*x) - 0.5*numpy.log(2*numpy.pi)",
    "chi2": "(k/2 - 1)*numpy.log(x) - x/2 - k/2*numpy.log(2) - gammaln(k/2)",
    "poisson": "xlogy(k, mu) - gammaln(k + 1) - mu",
    "bernoulli": "xlogy(k, p) + xlog1py(1 - k, -p)",
    "binom": "xlogy(k, p) + xlog1py(n - k, -p) + gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k "
    "+ 1)",
    "dirichlet": "numpy.sum((a - 1)*numpy.log(x)) + gammaln(numpy.sum(a)) - numpy.sum(gammaln(a))",
    "uniform": "-numpy.log(high - low)",
    "invgamma": "-(a + 1)*numpy.log(x) - 1/x - gammaln(a)",
    "weibull_min": "numpy.log(c) + (c - 1)*numpy.log(x) - x**c",
    "gumbel_r": "-x - numpy.exp(-x)",
    "pareto": "numpy.log(b) - (b + 1)*numpy.log(x)",
}

_SPECIAL_NOTES: dict[str, str] = {
    "logsumexp": "m = numpy.max(x); m + numpy.log(numpy.sum(numpy.exp(x - m)))",
    "softmax": "e = numpy.exp(x - numpy.max(x)); e/numpy.sum(e)",
    "log_softmax": "z = x - numpy.max(x); z - numpy.log(numpy.sum(numpy.exp(z)))",
    "polygamma": "the derivative of scipy.special.psi, by gradc.grad",
    "multigammaln": "a sum of scipy.special.gammaln",
    "softplus": "numpy.logaddexp(0, x)",
    "sinc": "numpy.sinc",
    "round": "numpy.rint",
    "exp10": "10.0**x",
    "expm1": "numpy.expm1",
    "boxcox": "(x**a - 1)/a",
    "huber": "numpy.where(abs(r) <= d, r*r/2, d*(abs(r) - d/2))",
    "pseudo_huber": "d*d*(numpy.sqrt(1 + (r/d)**2) - 1)",
    "erfcinv": "scipy.special.erfinv(1 - x)",
    "binom": "exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))",
    "comb": "exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))",
    "factorial": "scipy.special.gamma(n + 1)",
    "rgamma": "1/scipy.special.gamma(x)",
}

_SAME_NAME = (
    *("cholesky", "det", "eigh", "eigvalsh", "inv", "lstsq", "norm", "pinv", "qr", "solve", "svd"),
    *("svdvals",),
)
_LINEAR_NOTES: dict[str, str] = {
    **{name: f"use numpy.linalg.{name}" for name in _SAME_NAME},
    "solve_triangular": "use numpy.linalg.solve of numpy.tril(a)",
    "cho_solve": "use numpy.linalg.solve",
    "cho_factor": "use numpy.linalg.cholesky",
    "expm": "sum the series, or use numpy.linalg.eigh for symmetric matrices",
    "sqrtm": "use numpy.linalg.eigh for symmetric matrices",
    "logm": "use numpy.linalg.eigh for symmetric matrices",
    "block_diag": "use numpy.block",
    "toeplitz": "index: c[abs(i - j)]",
}
_ANY_LINEAR = "SciPy converts its arguments; write it in numpy.linalg's functions"
_ANY_SPECIAL = "it has no row in the table of special functions; write it in those that have"


def instead(module: str, name: str) -> str:
    """What to write instead of a function that is refused; empty if nothing is known of it."""
    if module.startswith("scipy.special"):
        return _SPECIAL_NOTES.get(name, _ANY_SPECIAL)
    if module.startswith("scipy.linalg"):
        return _LINEAR_NOTES.get(name, _ANY_LINEAR)
    if module.startswith("scipy.stats"):
        return "write the density: " + DENSITIES.get(name, DENSITIES["norm"])
    return REFUSED.get(f"linalg.{name}" if module.startswith("numpy.linalg") else name, "")


def named(key: str, is_numpys: bool) -> tuple[str, str]:
    """The module and the name behind a key of the tables, such as ``linalg.inv``."""
    family, dot, name = key.partition(".")
    if dot and family in ("linalg", "fft"):
        return f"numpy.{family}", name
    return ("numpy" if is_numpys else "scipy.special"), key
