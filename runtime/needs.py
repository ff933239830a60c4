"""What gradc cannot run without, and what to say where it is missing.

Invariant: nothing beyond the standard library is imported, as that may be all there is.
Non-goals: libraries that gradc is only compared with (``runtime.bench``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

# Module -> the package that brings it; the dependencies in pyproject.toml.
PACKAGES = {
    "flint": "python-flint",
    "lark": "lark",
    "llvmlite": "llvmlite",
    "numpy": "numpy",
    "rich": "rich",
    "safetensors": "safetensors",
    "sympy": "sympy",
}


def missing(problem: ImportError) -> tuple[str, str] | None:
    """What is wrong and what to do, if ``problem`` is about a library that gradc needs."""
    name = (problem.name or "").partition(".")[0]
    if name not in PACKAGES:
        return None
    absent = [known for known in PACKAGES if not _is_there(known)]
    if isinstance(problem, ModuleNotFoundError) and problem.name == name:
        absent = sorted({name, *absent})
        modules = " and ".join(f"`{known}`" for known in absent)
        is_are = "is" if len(absent) == 1 else "are"
        what = f"gradc needs the Python module {modules}, which {is_are} not installed here"
        if len(absent) > 1:
            what = what.replace("module", "modules")
    else:
        absent = [name]
        reason = str(problem).strip().partition("\n")[0]
        what = f"the Python module `{name}`, which gradc needs, cannot be loaded: {reason}"
    packages = " ".join(PACKAGES[known] for known in absent)
    return what, f"install it with `{sys.executable or 'python'} -m pip install -U {packages}`"


@contextmanager
def told() -> Iterator[None]:
    """Inside, a library that gradc needs and that is missing is told with how to install it.

    Raises:
        ImportError: with that message.
    """
    try:
        yield
    except ImportError as problem:
        found = missing(problem)
        if found is None:
            raise
        raise type(problem)("; ".join(found), name=problem.name) from None


def _is_there(name: str) -> bool:
    try:
        return name in sys.modules or find_spec(name) is not None
    except (ImportError, ValueError):
        return False
