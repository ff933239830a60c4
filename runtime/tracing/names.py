"""How NumPy's and SciPy's functions are called in the tables: ``sum``, ``linalg.inv``,
``fft.rfft``.
"""

from __future__ import annotations

from collections.abc import Callable


def key_of(function: Callable[..., object]) -> str:
    """The name of a function in the tables: under its module where that is not numpy itself."""
    module, name = getattr(function, "__module__", "") or "", getattr(function, "__name__", "")
    for part in ("linalg", "fft"):
        if module.startswith(f"numpy.{part}"):
            return f"{part}.{name}"
    return name
