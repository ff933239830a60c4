"""How a whiteboard looks: as text, and as JSON for programs.

Small arrays are written whole, to four significant digits; large ones by shape, norm and extremes.
Non-goals: what is on it (``whiteboard``), pages (``report_html``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gradc.codegen.symbolic.formulas.notation import Equation, Notation, to_latex, to_text
from gradc.runtime.native.arrays import Array
from gradc.runtime.render.graph import Graph, Node
from gradc.runtime.reports.whiteboard import BoardRow, Edge, Gradient, Whiteboard

SMALL = 16
_LABEL = 44
SCHEMA = "gradc-whiteboard-2"


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
    lines += _sections(inner, lambda g: _backward_cells(board, g))
    lines += ["", "gradients"]
    asked = [g for g in board.backward if g.is_asked]
    lines += _columns((cells for g in asked for cells in _backward_cells(board, g)), "  ")
    lines += ["", f"took {board.passes}"]
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


def _right(shown: Notation) -> str:
    return to_text(shown.right) if isinstance(shown, Equation) else to_text(shown)


def _left(row: BoardRow | Gradient) -> str:
    shown = row.equation
    return to_text(shown.left) if isinstance(shown, Equation) else row.name


def _forward_cells(row: BoardRow) -> list[list[str]]:
    formula = f"= {_right(row.equation)}"
    local = "; ".join(to_text(n) for n in row.local)
    line = f"line {row.place.line}" if row.place is not None else ""
    return [[_left(row), formula, f"= {show_value(row.value)}", local, f"{line}: {row.source}"]]


def _backward_cells(board: Whiteboard, row: Gradient) -> list[list[str]]:
    """A cotangent; where several messages make it, each of them below it, by the step that it comes
    from.
    """
    cells = [[_left(row), f"= {_right(row.equation)}", f"= {show_value(row.value)}"]]
    if len(row.edges) > 1:
        for number in row.edges:
            edge = board.edges[number]
            assert edge.message is not None and edge.sent is not None
            cells.append(
                ["", f"  from {edge.end}: {_right(edge.message)}", f"  {show_value(edge.sent)}"]
            )
    return cells


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
        shown = (line for r in rows[start:end] for line in cells(r))
        lines += _columns(shown, "    " if scope else "  ")
        start = end
    return lines


def _columns(rows: Iterable[Sequence[str]], margin: str) -> list[str]:
    """Aligned cells; a column's width stops at 44, so that one long cell does not push all others
    out.
    """
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
    """The steps as a graph over the board's edges, with values and (in red) the derivative of the
    loss by them.
    """
    gradients = {g.of: f"d = {_brief(g.value)}" for g in board.backward}
    roles = {s.name: s.role.value for s in board.function.parameters}
    nodes = [
        Node(f"p:{n}", n, _brief(a), roles.get(n, "input"), gradients.get(n, ""))
        for n, a in board.given.items()
    ]
    made = {name: f"p:{name}" for name in board.given}
    for row in board.forward:
        made[row.name] = key = f"s:{row.name}"
        kind = "result" if row.name == board.loss else "op"
        formula = to_text(row.equation)
        label = formula if len(formula) <= _LABEL else f"{row.name} = {row.source}"
        label = label if len(label) <= _LABEL else row.name
        nodes.append(Node(key, label, _brief(row.value), kind, gradients.get(row.name, "")))
    ends = ((made.get(e.start), made.get(e.end)) for e in board.edges)
    edges = tuple((a, b) for a, b in ends if a is not None and b is not None)
    used = {key for edge in edges for key in edge}
    return Graph(tuple(n for n in nodes if n.key in used), edges)


def _brief(array: Array) -> str:
    text = show_value(array)
    return text if len(text) <= _LABEL else f"[{', '.join(map(str, np.shape(array)))}]"


def to_json(board: Whiteboard) -> dict[str, Any]:
    """The whiteboard as JSON values, numbers in full; ``docs/whiteboard.md`` says what each field
    is.
    """
    roles = {s.name: s.role.value for s in board.function.parameters}
    types = {
        s.name: str(v.type)
        for s, v in zip(board.function.parameters, board.function.block.parameters, strict=True)
    }
    return {
        "schema": SCHEMA,
        "model": board.model,
        "precision": board.precision,
        "loss": board.loss,
        "given": {name: _array(a) for name, a in board.given.items()},
        "nodes": [
            *({"name": n, "kind": roles.get(n, "input"), "type": types[n]} for n in board.given),
            *({"name": r.name, "kind": "step", "type": r.type} for r in board.forward),
        ],
        "forward": [_row_json(r) for r in board.forward],
        "edges": [_edge_json(e) for e in board.edges],
        "backward": [
            {
                "name": g.name,
                "of": g.of,
                "scope": g.scope,
                **_formula(g.equation),
                "value": _array(g.value),
                "messages": list(g.edges),
                "asked": g.is_asked,
            }
            for g in board.backward
        ],
        "tangents": [
            {"name": t.name, "value": _array(t.value), "tangent": _array(t.tangent)}
            for t in board.tangents
        ],
        "passes": {
            "mode": board.passes.mode,
            "forward": board.passes.forward_passes,
            "reverse": board.passes.reverse_passes,
        },
        "assumptions": list(board.assumptions),
        "notes": list(board.notes),
    }


def _formula(shown: Notation) -> dict[str, str]:
    return {"formula": to_text(shown), "latex": to_latex(shown)}


def _row_json(row: BoardRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "source": row.source,
        "place": str(row.place) if row.place else "",
        "scope": row.scope,
        "type": row.type,
        **_formula(row.equation),
        "value": _array(row.value),
        "reads": list(row.reads),
        "local": [to_text(n) for n in row.local],
        "ops": [{"op": o.name, "operands": list(o.operands), "result": o.result} for o in row.ops],
    }


def _edge_json(edge: Edge) -> dict[str, Any]:
    found: dict[str, Any] = {"id": edge.number, "from": edge.start, "to": edge.end}
    found["slope"] = None
    if edge.slope is not None and edge.slope_value is not None:
        found["slope"] = {**_formula(edge.slope), "value": _array(edge.slope_value)}
    found["message"] = None
    if edge.message is not None and edge.sent is not None:
        found["message"] = {**_formula(edge.message), "value": _array(edge.sent)}
    return found


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
