"""The table of ops in docs/ir.md: ``python -m gradc.ir.ops.page`` writes it from the registry.

Non-goals: remarks on single ops, which stand beneath the table by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gradc.ir import ops
from gradc.ir.ops.registry import Control, OpDef, all_ops

BEGIN, END = "<!-- ops -->\n", "<!-- end of ops -->\n"
_NAMES = "xyzuvw"


def row(definition: OpDef) -> str:
    """One line: the op on operands, its attributes, what it is."""
    samples = definition.samples
    count = len(samples[0].operands) if samples else 0
    operands = ", ".join(_NAMES[:count]) if samples else "x..."
    names = dict.fromkeys(name for sample in samples for name in sample.attributes)
    attributes = ", ".join(f"`{name}`" for name in names)
    return f"| `{definition.name}({operands})` | {attributes} | {definition.doc} |"


def table() -> str:
    """All ops, the elementwise ones first, as they are defined."""
    assert ops
    found = sorted(all_ops(), key=lambda d: (isinstance(d.loop, Control), not d.is_elementwise))
    rows = "\n".join(row(definition) for definition in found)
    return f"{BEGIN}| op | attributes | what it is |\n|---|---|---|\n{rows}\n{END}"


def written(page: str) -> str:
    """``page`` with the table as it is now."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + table() + after


def main() -> None:
    """Writes the table into the page: docs/ir.md, or the one named."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/ir.md")
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
