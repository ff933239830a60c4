"""A whiteboard as one page that needs nothing else: formulas in MathML, the graph inline, light and
dark, printable.

Non-goals: the verification report (``report_html``), which shares the style.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from gradc.codegen.symbolic.formulas.notation import Equation, to_mathml
from gradc.runtime.render.graph import drawn
from gradc.runtime.render.page import page, table
from gradc.runtime.reports.whiteboard_text import show_value, to_graph

if TYPE_CHECKING:
    from gradc.runtime.reports.whiteboard import BoardRow, Gradient, Whiteboard


def whiteboard_page(board: Whiteboard) -> str:
    """The page as HTML text."""
    given = [(_code(name), _code(show_value(array))) for name, array in board.given.items()]
    inner = [g for g in board.backward if not g.is_asked]
    asked = [g for g in board.backward if g.is_asked]
    parts = [
        f"<h1>{escape(board.model)}</h1>",
        "<h2>Gradients</h2>",
        table(("", "formula", "value"), [_backward(board, g) for g in asked]),
        "<h2>Forward</h2>",
        table(
            ("line", "formula", "value", "local derivatives"), [_forward(r) for r in board.forward]
        ),
        "<h2>Backward</h2>",
        table(("", "formula", "value"), [_backward(board, g) for g in inner]),
    ]
    if board.tangents:
        rows = [
            (_code(t.name), _code(show_value(t.value)), _code(show_value(t.tangent)))
            for t in board.tangents
        ]
        parts += ["<h2>Forward mode</h2>", table(("", "value", "tangent"), rows)]
    parts += ["<h2>Given</h2>", table(("", "value"), given)]
    if board.assumptions:
        parts += ["<h2>Assuming</h2>", _list(board.assumptions)]
    graph = drawn(to_graph(board), board.model)
    parts += ["<h2>Graph</h2>", f'<div class="graph">{graph}</div>']
    return page(f"gradc explain {board.model}", "\n".join(parts))


def _forward(row: BoardRow) -> Sequence[str]:
    place = f"{row.place.line}" if row.place is not None else ""
    source = f'<span class="line">{place}</span> {_code(row.source)}'
    local = "".join(f'<div class="eq">{to_mathml(n)}</div>' for n in row.local)
    return source, to_mathml(row.equation), _code(show_value(row.value)), local


def _backward(board: Whiteboard, row: Gradient) -> Sequence[str]:
    formula, value = to_mathml(row.equation), _code(show_value(row.value))
    if len(row.edges) > 1:
        sent = [(e, e.message, e.sent) for e in (board.edges[n] for n in row.edges)]
        formula += "".join(
            f'<div class="eq soft">from {_code(e.end)}: {to_mathml(m.right)}</div>'
            for e, m, _ in sent
            if isinstance(m, Equation)
        )
        value += "".join(
            f'<div class="eq soft">{_code(show_value(v))}</div>'
            for _, _, v in sent
            if v is not None
        )
    return _code(row.of), formula, value


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"
