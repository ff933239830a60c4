"""How objects look in a notebook: small cards that take on the notebook's own colours, and our
pages in a frame.

Everything is text that came from a program or a user, so all of it is escaped; there is no script
and no link.

Non-goals: pages (``runtime.page``), text forms (each object's ``__repr__``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias

# A heading, the names of the columns, and the rows.
Section: TypeAlias = tuple[str, Sequence[str], Sequence[Sequence[str]]]
# Rows of a section that are shown; the rest is counted.
MOST = 24
_STYLE = (
    ".gradc-card{border:1px solid rgba(128,128,128,.4);border-radius:8px;padding:10px "
    "14px;max-width:860px;"
    "font:13px/1.5 system-ui,sans-serif}"
    ".gradc-card b.t{font-size:15px}.gradc-card .s{opacity:.7}"
    ".gradc-card table{border-collapse:collapse;margin:2px 0 4px;font-size:13px}"
    ".gradc-card th{font-weight:600;opacity:.7}"
    ".gradc-card th,.gradc-card td{text-align:left!important;padding:2px 16px 2px 0;"
    "border-bottom:1px solid rgba(128,128,128,.25);background:none}"
    ".gradc-card pre{margin:4px 0;white-space:pre-wrap;background:none}"
    ".gradc-card summary{cursor:pointer;font-weight:600;margin-top:6px}"
)


def card(title: str, subtitle: str, sections: Iterable[Section], text: str = "") -> str:
    """A title, what it is in a line, and tables; ``text`` ends it as it is."""
    parts = [f'<b class="t">{escape(title)}</b> <span class="s">{escape(subtitle)}</span>']
    parts += [_section(*section) for section in sections if section[2]]
    if text:
        parts.append(f"<pre>{escape(text)}</pre>")
    return f'<div class="gradc-card"><style>{_STYLE}</style>{"".join(parts)}</div>'


def _section(heading: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td><code>{escape(cell)}</code></td>' for cell in row)}</tr>"
        for row in rows[:MOST]
    )
    rest = len(rows) - MOST
    more = f'<div class="s">and {rest} more</div>' if rest > 0 else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
    return f"<details open><summary>{escape(heading)} ({len(rows)})</summary>{table}</details>"


def framed(page: str, height: int = 520) -> str:
    """A whole page inside a notebook, where its style stays its own."""
    style = f"width:100%;height:{height}px;border:1px solid rgba(128,128,128,.4);border-radius:8px"
    return f'<iframe sandbox srcdoc="{escape(page)}" style="{style}"></iframe>'
