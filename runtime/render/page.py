"""What our pages have in common: one file without links to anywhere, light and dark, printable, no
script.

Non-goals: content.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;
--panel:#f6f8fa;
--good:#116329;--goodbg:#dafbe1;--bad:#a40e26;--badbg:#ffebe9;--warn:#7d4e00;--warnbg:#fff8c5;
--blue:#0550ae;
--bluebg:#ddf4ff}
@media(prefers-color-scheme:dark){:root{--page:#0d1117;--ink:#e6edf3;--soft:#9198a1;--line:#30363d;
--panel:#161b22;--good:#7ee787;--goodbg:#033a16;--bad:#ffa198;--badbg:#5d1113;--warn:#f2cc60;
--warnbg:#3b2f00;
--blue:#79c0ff;--bluebg:#0c2d6b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:28px 28px 64px;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
h1{font-size:26px;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:18px;margin:34px 0 8px;padding-bottom:5px;border-bottom:1px solid var(--line)}
p{margin:6px 0}.soft{color:var(--soft)}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:10px 12px;
overflow-x:auto}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;font-weight:600;color:var(--soft);font-size:12px;padding:5px 12px 5px 0;
border-bottom:1px solid var(--line);white-space:nowrap}
td{padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
tr:last-child td{border-bottom:0}
math{font-size:1.08em}.eq{padding:2px 0}
.line{display:inline-block;min-width:2.2em;color:var(--soft);font-size:12px}
.tag{display:inline-block;border-radius:99px;padding:1px 9px;font-size:12px;font-weight:600;
white-space:nowrap}
.good{color:var(--good);background:var(--goodbg)}.bad{color:var(--bad);background:var(--badbg)}
.warn{color:var(--warn);background:var(--warnbg)}.info{color:var(--blue);background:var(--bluebg)}
.verdict{border-radius:8px;padding:14px 18px;margin:16px 0;font-size:17px;font-weight:600}
.verdict p{font-size:14px;font-weight:400;margin:4px 0 0}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:10px;margin:14px 0}
.fact{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:9px 12px}
.fact b{display:block;font-size:18px;font-variant-numeric:tabular-nums}
.fact span{color:var(--soft);font-size:12px}
details{border:1px solid var(--line);border-radius:8px;padding:7px 14px;margin:8px 0;
background:var(--page)}
summary{cursor:pointer;font-weight:600}
details[open] summary{margin-bottom:6px}
.graph{overflow-x:auto}.graph svg{max-width:100%;height:auto;display:block;margin:auto}
ul{margin:6px 0;padding-left:20px}
td>*,td .soft{overflow-wrap:anywhere}td>math,td .eq math{overflow-wrap:normal}.eq{max-width:100%}
@media(min-width:761px){.found{min-width:18em}}
@media(max-width:760px){body{padding:18px 14px 48px}h1{overflow-wrap:anywhere}
thead{display:none}table,tbody,tr,td{display:block;width:100%}
tr{padding:8px 0;border-bottom:1px solid var(--line)}tr:last-child{border-bottom:0}
td,td.number{border:0;padding:2px 0;text-align:left;overflow-x:auto}td:empty{display:none}
td[data-label]:not([data-label=""])::before{content:attr(data-label);display:block;
color:var(--soft);font-size:12px}
pre{font-size:12px}details{padding:7px 10px}
.facts{grid-template-columns:repeat(2,minmax(0,1fr))}.fact b{font-size:16px;overflow-wrap:anywhere}}
@media print{body{max-width:none;padding:0;font-size:11px}details{border:0;padding:0}
details>*{display:block!important}h2{break-after:avoid}tr{break-inside:avoid}
details::details-content{content-visibility:visible;display:block}}
"""


def page(title: str, body: str) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"</head>\n<body>\n{body}\n</body></html>\n"
    )


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()
) -> str:
    """A table of cells that are markup already; ``numeric`` columns are aligned to the right."""
    mark = [' class="number"' if i in numeric else "" for i in range(len(columns))]
    head = "".join(f"<th{mark[i]}>{escape(c)}</th>" for i, c in enumerate(columns))
    # On narrow screens a row is a card, and each cell says which column it is.
    name = [f' data-label="{escape(c)}"' if n else "" for n, c in enumerate(columns)]
    body = "".join(
        f"<tr>{''.join(f'<td{mark[i]}{name[i]}>{cell}</td>' for i, cell in enumerate(row))}</tr>"
        for row in rows
    )
    return (
        f"<div "
        f'class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
