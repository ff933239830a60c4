"""Every diagnostic code with its title, its explanation, and a program that shows it.

``gradc explain CODE`` prints an entry. Each phase keeps its own table: a module named in
``_TABLES`` with a tuple ``CODES``. Tests run every example, compare the rendering with a golden
file, and demand an entry for every code that the sources use."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from gradc.ir.diagnostics.diagnostic import closest

_TABLES = ("gradc.frontend.codes.syntax", "gradc.frontend.codes.check", "gradc.runtime.codes")


@dataclass(frozen=True, slots=True)
class Code:
    """One code. ``example`` is a program that shows it, empty where no program text can.

    ``also`` are codes that the example cannot avoid showing besides.
    """

    code: str
    title: str
    explanation: str
    example: str = ""
    also: tuple[str, ...] = ()


def all_codes() -> dict[str, Code]:
    """Every entry of every table that is there, by code, in the order of the codes."""
    found: dict[str, Code] = {}
    for module in _TABLES:
        if find_spec(module) is None:
            continue
        for entry in import_module(module).CODES:
            if entry.code in found:
                raise ValueError(f"{entry.code} stands in two tables")
            found[entry.code] = entry
    return dict(sorted(found.items()))


def explain(code: str) -> str | None:
    """The text of ``gradc explain CODE``, or None for an unknown code."""
    entry = all_codes().get(code.upper())
    if entry is None:
        return None
    parts = [f"{entry.code}: {entry.title}", entry.explanation.strip()]
    if entry.example:
        indented = "\n".join("    " + line for line in entry.example.strip("\n").split("\n"))
        parts.append("For example:\n\n" + indented)
    return "\n\n".join(parts)


def similar_code(code: str) -> str:
    """The known code most like ``code``, for a hint; empty if none is near."""
    looks_like = str.maketrans("OIL", "011")  # letters that are taken for digits
    return closest(code[:2].upper() + code[2:].upper().translate(looks_like), all_codes())
