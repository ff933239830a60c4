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
    **dict.fromkeys(("place", "put_along_axis", "putmask"), _IN_PLACE),
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

_SPECIAL_NOTES: dict[str, str] = {
    "softplus": "numpy.logaddexp(0, x)",
    "sinc": "numpy.sinc",
    "expm1": "numpy.expm1",
    "boxcox": "(x**a - 1)/a",
    "binom": "exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))",
    "comb": "exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))",
}

_LINEAR_NOTES: dict[str, str] = {
    "logm": "use numpy.linalg.eigh for symmetric matrices",
    "lu": "use numpy.linalg.solve, or qr",
    "lu_factor": "use numpy.linalg.solve",
    "lu_solve": "use numpy.linalg.solve",
    "null_space": "use numpy.linalg.svd",
    "orth": "use numpy.linalg.qr",
    "eig": "eigenvalues are traced for symmetric matrices: numpy.linalg.eigh",
    "eigvals": "eigenvalues are traced for symmetric matrices: numpy.linalg.eigh",
    "khatri_rao": "use numpy.einsum",
}
_ANY_LINEAR = "SciPy converts its arguments; write it in numpy.linalg's functions"
_ANY_STATISTICS = (
    "densities and distribution functions of the distributions in docs/functions-table.md are "
    "traced; write others in NumPy's functions"
)
_ANY_SPECIAL = "it has no row in the table of special functions; write it in those that have"


def instead(module: str, name: str) -> str:
    """What to write instead of a function that is refused; empty if nothing is known of it."""
    if module.startswith("scipy.special"):
        return _SPECIAL_NOTES.get(name, _ANY_SPECIAL)
    if module.startswith("scipy.linalg"):
        return _LINEAR_NOTES.get(name, _ANY_LINEAR)
    if module.startswith("scipy.stats"):
        return _ANY_STATISTICS
    if module.startswith("scipy.fft"):
        return f"use numpy.fft.{name}"
    return REFUSED.get(f"linalg.{name}" if module.startswith("numpy.linalg") else name, "")


def named(key: str, is_numpys: bool) -> tuple[str, str]:
    """The module and the name behind a key of the tables, such as ``linalg.inv``."""
    family, dot, name = key.partition(".")
    if dot and family in ("linalg", "fft"):
        return f"numpy.{family}", name
    return ("numpy" if is_numpys else "scipy.special"), key
