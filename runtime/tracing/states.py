"""The state of every public name of NumPy and SciPy that a traced function may meet, from which
docs/functions-table.md is made.

``traced``: it is recorded and differentiated. ``flat``: it is recorded, and its derivative is zero
wherever it has one.
``plain``: it takes no traced array (types, constants, new arrays, files), so NumPy itself answers.
``refused``: a traced array is a diagnostic, with what to write instead.

``python -m gradc.runtime.tracing.states`` writes the page. A test walks NumPy's and SciPy's own
lists: no name is missing.

Non-goals: what an implementation is (its module), options of functions.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import gradc.runtime.tracing.tables  # noqa: F401  (fills the tables)
from gradc.runtime.tracing.distributions import CONTINUOUS, DISCRETE
from gradc.runtime.tracing.foreign import MODULES, RULES
from gradc.runtime.tracing.refused import REFUSED, instead
from gradc.runtime.tracing.trace import FUNCTIONS, UFUNCS, WITH_COMPLEX, Traced

PAGE = Path(__file__).resolve().parents[2] / "docs" / "functions-table.md"


@dataclass(frozen=True, slots=True)
class State:
    """What becomes of one name; ``note`` says what to write instead where it is refused."""

    name: str
    state: str
    note: str = ""


# Recorded, with a derivative that is zero wherever it exists.
FLAT = frozenset(
    [
        "floor",
        "ceil",
        "trunc",
        "rint",
        "fix",
        "round",
        "around",
        "sign",
        "signbit",
        "floor_divide",
        "isnan",
        "isinf",
        "isfinite",
        "isneginf",
        "isposinf",
        "isclose",
        "allclose",
        "array_equal",
        "isreal",
        "iscomplex",
        "isrealobj",
        "iscomplexobj",
        "equal",
        "not_equal",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
        "logical_and",
        "logical_or",
        "logical_not",
        "logical_xor",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "bitwise_not",
        "bitwise_invert",
        "bitwise_left_shift",
        "bitwise_right_shift",
        "left_shift",
        "right_shift",
        "invert",
        "any",
        "all",
        "count_nonzero",
        "argmax",
        "argmin",
        "nanargmax",
        "nanargmin",
        "argsort",
        "argpartition",
        "searchsorted",
        "digitize",
        "heaviside",
        "zeros_like",
        "ones_like",
        "empty_like",
        "ndim",
        "shape",
        "size",
        "linalg.matrix_rank",
        "gammasgn",
    ]
)

# Take no traced array at all.
PLAIN_KINDS = "constants, types, new arrays, printing, files, settings"
PLAIN = frozenset(
    [
        "False_",
        "True_",
        "ScalarType",
        "__array_namespace_info__",
        "__version__",
        "arange",
        "array",
        "asanyarray",
        "asarray",
        "asarray_chkfinite",
        "ascontiguousarray",
        "asfortranarray",
        "bartlett",
        "base_repr",
        "binary_repr",
        "blackman",
        "broadcast",
        "broadcast_shapes",
        "busday_count",
        "busday_offset",
        "busdaycalendar",
        "c_",
        "can_cast",
        "common_type",
        "datetime_as_string",
        "datetime_data",
        "diag_indices",
        "diag_indices_from",
        "dtype",
        "e",
        "empty",
        "errstate",
        "euler_gamma",
        "eye",
        "finfo",
        "format_float_positional",
        "format_float_scientific",
        "from_dlpack",
        "frombuffer",
        "fromfile",
        "fromfunction",
        "fromiter",
        "frompyfunc",
        "fromregex",
        "fromstring",
        "full",
        "genfromtxt",
        "get_include",
        "get_printoptions",
        "getbufsize",
        "geterr",
        "geterrcall",
        "hamming",
        "hanning",
        "identity",
        "iinfo",
        "index_exp",
        "indices",
        "inf",
        "info",
        "is_busday",
        "isdtype",
        "isscalar",
        "issubdtype",
        "iterable",
        "kaiser",
        "little_endian",
        "load",
        "loadtxt",
        "mask_indices",
        "may_share_memory",
        "mgrid",
        "min_scalar_type",
        "mintypecode",
        "nan",
        "ndenumerate",
        "ndindex",
        "nditer",
        "nested_iters",
        "newaxis",
        "ogrid",
        "ones",
        "pi",
        "poly1d",
        "printoptions",
        "promote_types",
        "r_",
        "ravel_multi_index",
        "require",
        "result_type",
        "s_",
        "save",
        "savetxt",
        "savez",
        "savez_compressed",
        "sctypeDict",
        "set_printoptions",
        "setbufsize",
        "seterr",
        "seterrcall",
        "shares_memory",
        "show_config",
        "show_runtime",
        "tri",
        "tril_indices",
        "tril_indices_from",
        "triu_indices",
        "triu_indices_from",
        "typecodes",
        "typename",
        "typing",
        "ufunc",
        "unravel_index",
        "vectorize",
        "zeros",
        "test",
        "flatiter",
        "LinAlgError",
        "fftfreq",
        "rfftfreq",
    ]
)


def _is_plain(name: str, item: Any) -> bool:
    return name in PLAIN or isinstance(item, (ModuleType, type)) or not callable(item)


def _numpy_state(prefix: str, name: str, item: Any) -> State:
    key = prefix + name
    alias = prefix + str(getattr(item, "__name__", name))
    key = alias if callable(item) and alias in FUNCTIONS else key
    is_row = isinstance(item, np.ufunc) and item.__name__ in UFUNCS
    if key in FUNCTIONS or is_row:
        real = item.__name__ if is_row else key
        return State(name, "flat" if real in FLAT or key in FLAT else "traced")
    if key in REFUSED:
        return State(name, "refused", REFUSED[key])
    if _is_plain(name, item):
        return State(name, "plain")
    raise KeyError(f"{key} has no state")


def _numpy_states(module: ModuleType, prefix: str) -> Iterator[State]:
    for name in sorted(set(module.__all__)):
        yield _numpy_state(prefix, name, getattr(module, name))


def _method_states() -> Iterator[State]:
    """ndarray's methods, as ``Traced`` has them."""
    for name in sorted(n for n in dir(np.ndarray) if not n.startswith("_")):
        known = hasattr(Traced, name)
        note = "" if known else "use the function of NumPy's, or a plain array"
        state = ("flat" if name in FLAT else "traced") if known else "refused"
        yield State(name, state, note)


def _scipy_states(module: ModuleType) -> Iterator[State]:
    for name in sorted(set(module.__all__)):
        item = getattr(module, name)
        is_row = isinstance(item, np.ufunc) and item.__name__ in UFUNCS
        if is_row or f"{module.__name__}.{name}" in RULES:
            yield State(name, "flat" if name in FLAT else "traced")
        elif _is_plain(name, item):
            yield State(name, "plain")
        else:
            yield State(name, "refused", instead(module.__name__, name))


def all_states() -> dict[str, list[State]]:
    """The states of all names by module. SciPy's modules are there where SciPy is."""
    found = {
        "numpy": list(_numpy_states(np, "")),
        "numpy.ndarray": list(_method_states()),
        "numpy.linalg": list(_numpy_states(np.linalg, "linalg.")),
        "numpy.fft": list(_numpy_states(np.fft, "fft.")),
    }
    for name in MODULES:
        importlib.import_module(MODULES[name])
        if name in ("scipy.special", "scipy.linalg"):
            found[name] = list(_scipy_states(importlib.import_module(name)))
        elif name != "scipy.stats":
            names = sorted(n for n, rule in RULES.items() if not hasattr(rule, "refuses"))
            own = [n.removeprefix(f"{name}.") for n in names if n.startswith(name)]
            found[f"{name}: what is traced of it"] = [State(n, "traced") for n in own]
    found["scipy.stats: what is traced of it"] = list(_distribution_states())
    return found


def _distribution_states() -> Iterator[State]:
    """Every method of the distributions that has a rule."""
    laws: dict[str, Any] = {**CONTINUOUS, **DISCRETE}
    for name, law in laws.items():
        methods = ["logpdf", "pdf"] if name in CONTINUOUS else ["logpmf", "pmf"]
        if law.cdf is not None or law.sf is not None:
            methods += ["cdf", "sf", "logcdf", "logsf"]
        if getattr(law, "ppf", None) is not None:
            methods += ["ppf", "isf"]
        yield State(f"{name} ({', '.join(methods)})", "traced")
    vectors: dict[str, list[str]] = {}
    for rule in RULES:
        _, _, owner, method, *_ = [*rule.split("."), "", ""]
        is_public = not owner.startswith(("rv_", "_")) and method[:1] != "_"
        if rule.startswith("scipy.stats.") and is_public:
            vectors.setdefault(owner, []).append(method)
    for owner, names in sorted(vectors.items()):
        yield State(f"{owner} ({', '.join(names)})", "traced")


def render() -> str:
    """The page."""
    lines = [
        "# NumPy and SciPy in traced functions",
        "",
        (
            "Written by `python -m gradc.runtime.tracing.states` from the tables of the tracer and "
            "from NumPy's and SciPy's"
        ),
        (
            "own lists of names. *Traced*: recorded and differentiated. *Flat*: recorded, with "
            "derivative zero. *Plain*: takes"
        ),
        "no traced array. *Refused*: a diagnostic says what to write instead.",
    ]
    for module, states in all_states().items():
        counts = {k: [s for s in states if s.state == k] for k in ("traced", "flat", "plain")}
        lines += ["", f"## {module}", ""]
        for kind, rows in counts.items():
            if rows:
                names = ", ".join(f"`{s.name}`" for s in rows)
                lines += [f"**{kind.capitalize()}** ({len(rows)}): {names}", ""]
        refused: dict[str, list[str]] = {}
        for s in states:
            if s.state == "refused":
                refused.setdefault(s.note, []).append(f"`{s.name}`")
        if refused:
            lines += ["| refused | write instead |", "|---|---|"]
            lines += [f"| {', '.join(names)} | {note} |" for note, names in refused.items()]
    lines += ["", "## Complex arrays", "", _with_complex()]
    return "\n".join(lines).rstrip() + "\n"


def _with_complex() -> str:
    """What takes complex arrays, in one paragraph."""
    names = {n for n in WITH_COMPLEX if not n.startswith("ufunc.")}
    listed = ", ".join(f"`{n}`" for n in sorted(names))
    return (
        "NumPy's own ufuncs of complex numbers, but for orders (`maximum`, `sort`), and these "
        f"functions; others refuse them: {listed}"
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
