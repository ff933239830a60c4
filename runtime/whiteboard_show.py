"""How a whiteboard looks: as text, and as JSON for programs.

Small arrays are written whole, to four significant digits; large ones by shape, norm and extremes.
Non-goals: what is on it (``whiteboard``), pages (``report_html``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gradc.codegen.symbolic.notation import Equation, to_latex, to_text
from gradc.runtime.arrays import Array
from gradc.runtime.graph import Graph, Node
from gradc.runtime.whiteboard import Gradient, Row, Whiteboard

SMALL = 16
_LABEL = 44
SCHEMA = "gradc-whiteboard-1"


def show_value(array: Array) -> str:
    """An array in one line."""
    array = np.asarray(array)
    if array.size <= SMALL and array.ndim <= 2:
        return _whole(array.tolist())
    shape = ", ".join(map(str, array.shape))
    if array.dtype.kind not in "fiu" or not array.size:
        return f"[{shape}]"
    norm = math.sqrt(float(np.sum(np.square(array.astype(np.float64)))))
    low, high = show_number(array.min()), show_number(array.max())
    return f"[{shape}]  norm {show_number(norm)}, {low} to {high}"


def _whole(item: Any) -> str:
    if isinstance(item, list):
        return f"[{', '.join(map(_whole, item))}]"
    return show_number(item)


def show_number(number: Any) -> str:
    """Four significant digits."""
    if isinstance(number, (bool, int, np.bool_, np.integer)):
        return str(number)
    text = f"{float(number):.4g}"
    return "0" if text == "-0" else text


def to_lines(board: Whiteboard) -> list[str]:
    """The whiteboard as text."""
    lines = [f"{board.model}", "", "given"]
    lines += _columns(([n, show_value(a)] for n, a in board.given.items()), "  ")
    lines += ["", "forward"]
    lines += _sections(board.forward, _forward_cells)
    lines += ["", "backward"]
    inner = [g for g in board.backward if not g.is_asked]
    lines += _sections(inner, _backward_cells)
    lines += ["", "gradients"]
    lines += _columns((_backward_cells(g) for g in board.backward if g.is_asked), "  ")
    if board.tangents:
        lines += ["", "forward mode"]
        rows = (
            [t.name, show_value(t.value), f"d{t.name} = {show_value(t.tangent)}"]
            for t in board.tangents
        )
        lines += _columns(rows, "  ")
    if board.assumptions:
        lines += ["", "assuming", *(f"  {text}" for text in board.assumptions)]
    return [*lines, *(f"note: {n}" for n in board.notes)]


def _right(row: Row | Gradient) -> str:
    shown = row.equation
    return to_text(shown.right) if isinstance(shown, Equation) else to_text(shown)


def _left(row: Row | Gradient) -> str:
    shown = row.equation
    return to_text(shown.left) if isinstance(shown, Equation) else row.name


def _forward_cells(row: Row) -> list[str]:
    formula = f"= {_right(row)}"
    local = "; ".join(to_text(n) for n in row.local)
    line = f"line {row.place.line}" if row.place is not None else ""
    return [_left(row), formula, f"= {show_value(row.value)}", local, f"{line}: {row.source}"]


def _backward_cells(row: Gradient) -> list[str]:
    return [_left(row), f"= {_right(row)}", f"= {show_value(row.value)}"]


def _sections(rows: Sequence[Any], cells: Any) -> list[str]:
    """Rows under the layer instance they belong to."""
    lines: list[str] = []
    start = 0
    while start < len(rows):
        scope, end = rows[start].scope, start
        while end < len(rows) and rows[end].scope == scope:
            end += 1
        if scope:
            lines.append(f"  {scope}")
        lines += _columns((cells(r) for r in rows[start:end]), "    " if scope else "  ")
        start = end
    return lines


def _columns(rows: Iterable[Sequence[str]], margin: str) -> list[str]:
    """Aligned cells; a column's width stops at 44, so that one long cell does not push all others out."""
    table = [list(row) for row in rows]
    if not table:
        return []
    widths = [min(44, max(len(row[i]) for row in table)) for i in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append((margin + "  ".join(cells)).rstrip())
    return lines


def to_graph(board: Whiteboard) -> Graph:
    """The steps as a graph, with values and (in red) the derivative of the loss by them."""
    gradients = {g.of: f"d = {_brief(g.value)}" for g in board.backward}
    roles = {s.name: s.role.value for s in board.function.parameters}
    nodes = [
        Node(f"p:{n}", n, _brief(a), roles.get(n, "input"), gradients.get(n, ""))
        for n, a in board.given.items()
    ]
    made = {name: f"p:{name}" for name in board.given}
    edges: dict[tuple[str, str], None] = {}
    for row in board.forward:
        made[row.name] = key = f"s:{row.name}"
        kind = "result" if row.name == "L" else "op"
        formula = f"{_left(row)} = {_right(row)}"
        label = formula if len(formula) <= _LABEL else f"{row.name} = {row.source}"
        label = label if len(label) <= _LABEL else row.name
        nodes.append(Node(key, label, _brief(row.value), kind, gradients.get(row.name, "")))
        for name in row.reads:
            if name in made:
                edges[made[name], key] = None
    used = {key for edge in edges for key in edge}
    return Graph(tuple(n for n in nodes if n.key in used), tuple(edges))


def _brief(array: Array) -> str:
    text = show_value(array)
    return text if len(text) <= _LABEL else f"[{', '.join(map(str, np.shape(array)))}]"


def to_json(board: Whiteboard) -> dict[str, Any]:
    """The whiteboard as JSON values, numbers in full."""
    return {
        "schema": SCHEMA,
        "model": board.model,
        "given": {name: _array(a) for name, a in board.given.items()},
        "forward": [
            {
                "name": r.name,
                "source": r.source,
                "place": str(r.place) if r.place else "",
                "scope": r.scope,
                "formula": to_text(r.equation),
                "latex": to_latex(r.equation),
                "local": [to_text(n) for n in r.local],
                "value": _array(r.value),
            }
            for r in board.forward
        ],
        "backward": [
            {
                "name": g.name,
                "of": g.of,
                "scope": g.scope,
                "formula": to_text(g.equation),
                "latex": to_latex(g.equation),
                "value": _array(g.value),
                "asked": g.is_asked,
            }
            for g in board.backward
        ],
        "tangents": [
            {"name": t.name, "value": _array(t.value), "tangent": _array(t.tangent)}
            for t in board.tangents
        ],
        "assumptions": list(board.assumptions),
        "notes": list(board.notes),
    }


def _array(array: Array) -> Any:
    """Small arrays whole; large ones by shape, norm and extremes; what is not finite by name."""
    array = np.asarray(array)
    if array.size <= 4 * SMALL:
        return _finite(array.tolist())
    if array.dtype.kind not in "fiu":
        return {"shape": list(array.shape)}
    norm = float(np.linalg.norm(array.astype(np.float64).ravel()))
    extremes = {"min": _finite(float(array.min())), "max": _finite(float(array.max()))}
    return {"shape": list(array.shape), "norm": _finite(norm), **extremes}


def _finite(item: Any) -> Any:
    if isinstance(item, list):
        return [_finite(x) for x in item]
    if isinstance(item, float) and not math.isfinite(item):
        return str(item)
    return item
