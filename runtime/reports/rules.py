"""``gradc verify --rules``: what is known of the derivative rules of every op, as rows for a table
or JSON.

Non-goals: proofs (``passes.prove_rule_table``), SymPy's opinion (``codegen.symbolic.rule_check``),
formulas (``codegen.symbolic.rule_formulas``): they are put side by side here.
"""

from __future__ import annotations

from typing import Any

from gradc.passes.prove.rule_table import table

SCHEMA = "gradc-rules-1"
COLUMNS = ("op", "reverse", "forward", "second order", "by", "SymPy", "assuming", "formula")


def rule_rows() -> list[dict[str, Any]]:
    """One row per op, in order of definition."""
    from gradc.codegen.symbolic.formulas.notation import to_text
    from gradc.codegen.symbolic.formulas.rules import rule_formulas
    from gradc.codegen.symbolic.sympy.rules import sympy_opinion

    rows = []
    for row in table():
        opinion = sympy_opinion(row.name)
        formulas = [to_text(f) for f in rule_formulas(row.name)]
        rows.append(
            {
                "op": row.name,
                "reverse": row.reverse.status.value,
                "forward": row.forward.status.value,
                "second order": row.second.status.value,
                "method": row.reverse.method,
                "detail": row.reverse.detail,
                "second method": row.second.method,
                "sympy": "" if opinion is None else opinion.kind,
                "assumptions": list(row.assumptions),
                "formulas": formulas,
                "ok": row.ok and (opinion is None or opinion.ok),
            }
        )
    return rows


def cells(row: dict[str, Any], most: int = 60) -> tuple[str, ...]:
    """The row as text; formulas longer than ``most`` are left to ``--json``."""
    formula = "; ".join(row["formulas"])
    return (
        row["op"],
        row["reverse"],
        row["forward"],
        row["second order"],
        row["method"],
        row["sympy"],
        "; ".join(row["assumptions"]),
        formula if len(formula) <= most else "(long: --json)",
    )


def as_json(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All rows, with a schema."""
    return {"schema": SCHEMA, "ok": all(r["ok"] for r in rows), "rules": rows}


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The table of docs/verification.md: ops with a rule, one line each, and the names of those
    without.
    """
    lines = [
        "| op | rule, forward rule, second order | by | SymPy | assuming |",
        "|---|---|---|---|---|",
    ]
    flat = [r["op"] for r in rows if r["method"] == "locally constant"]
    for r in rows:
        if r["method"] == "locally constant":
            continue
        statuses = list(dict.fromkeys((r["reverse"], r["forward"], r["second order"])))
        cells_ = (f"`{r['op']}`", ", ".join(statuses), r["method"], r["sympy"])
        lines.append(f"| {' | '.join(cells_)} | {'; '.join(r['assumptions'])} |")
    names = ", ".join(f"`{name}`" for name in flat)
    return "\n".join(lines) + f"\n\nLocally constant, so without a rule: {names}.\n"
