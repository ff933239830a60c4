"""The computational graph of a function, as DOT text and as a self-contained SVG.

Nodes are parameters, ops and results; constants and the broadcasts of constants are left out, since
they say nothing a formula would. Above ``MAX_NODES`` the ops of one layer instance (scope) become
one node.

The layout is the usual layered one (Sugiyama et al. 1981): rank by longest path, a few sweeps of
barycentres to untangle edges, then even spacing. Non-goals: interactivity, optimal crossings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from gradc.ir.ops.registry import lookup
from gradc.ir.ops.traits import Moves
from gradc.ir.tensor.core import Function, Op, Role, Value

MAX_NODES = 160
_SWEEPS = 8
_NOTE = 13.0
_ROW, _GAP, _CHAR, _HEIGHT, _MARGIN = 64.0, 22.0, 7.2, 34.0, 24.0


@dataclass(frozen=True, slots=True)
class Node:
    """One box. ``kind`` is param, state, input, op, layer or result; ``note`` is a third line, such
    as a gradient.
    """

    key: str
    label: str
    detail: str
    kind: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in order of execution, and edges from producer to consumer without repeats."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]


def graph_of(function: Function) -> Graph:
    """The graph of ``function``; layers are collapsed if there are too many ops."""
    shown = [op for op in function.block.body if not _is_silent(op)]
    graph = _build(function, shown, collapse=False)
    return graph if len(graph.nodes) <= MAX_NODES else _build(function, shown, collapse=True)


def _is_silent(op: Op) -> bool:
    """Constants and what only stretches scalars."""
    definition = lookup(op.name)
    is_repeated = definition.traits.moves is Moves.REPEATS
    return definition.is_source or (is_repeated and op.operands[0].type.rank == 0)


def _build(function: Function, shown: Sequence[Op], collapse: bool) -> Graph:
    nodes: dict[str, Node] = {}
    made: dict[Value, str] = {}
    edges: dict[tuple[str, str], None] = {}
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        key = f"p:{slot.name}"
        made[value] = key
        nodes[key] = Node(key, slot.name, str(value.type), slot.role.value)
    through = _silent_sources(function)
    for number, op in enumerate(shown):
        is_layer = collapse and bool(op.scope)
        key = f"l:{_outermost(op.scope)}" if is_layer else f"o:{number}"
        label = _outermost(op.scope) if is_layer else _label(op)
        kind = "layer" if is_layer else "op"
        nodes[key] = Node(key, label, str(op.results[0].type), kind)
        for value in op.operands:
            source = made.get(through.get(value, value))
            if source is not None and source != key:
                edges[source, key] = None
        made.update(dict.fromkeys(op.results, key))
    for slot, value in zip(function.results, function.block.outputs, strict=True):
        key = f"r:{slot.role.value}:{slot.name}"
        nodes[key] = Node(key, _result_label(slot.name, slot.role), str(value.type), "result")
        source = made.get(through.get(value, value))
        if source is not None:
            edges[source, key] = None
    # A layer that is used twice stands where it is first: what comes back to it is not drawn.
    order = {key: number for number, key in enumerate(nodes)}
    forward = [(a, b) for a, b in edges if order[a] < order[b]]
    used = {key for edge in forward for key in edge}
    return Graph(tuple(n for n in nodes.values() if n.key in used), tuple(forward))


def _outermost(scope: str) -> str:
    """The layer of the model that ``scope`` lies in: `blocks.3` of `blocks.3.attn.proj`."""
    name, *rest = scope.split(".")
    return f"{name}.{rest[0]}" if rest and rest[0].isdigit() else name


def _silent_sources(function: Function) -> dict[Value, Value]:
    """What a silent op that has an operand passes on."""
    return {
        op.results[0]: op.operands[0]
        for op in function.block.body
        if _is_silent(op) and op.operands
    }


def _label(op: Op) -> str:
    axes = op.attributes.get("axes", op.attributes.get("axis"))
    return op.name if axes is None else f"{op.name} {axes}".replace(",)", ")")


def _result_label(name: str, role: Role) -> str:
    return f"d loss / d {name}" if role is Role.COTANGENT else name


# --- DOT

_SHAPES = {"op": "box", "layer": "box3d", "result": "doublecircle"}


def graph_dot(function: Function) -> str:
    """The graph in Graphviz's language."""
    graph = graph_of(function)
    names = {node.key: f"n{i}" for i, node in enumerate(graph.nodes)}
    lines = [f'digraph "{function.name}" {{', "  rankdir=TB; node [fontname=Helvetica];"]
    for node in graph.nodes:
        shape = _SHAPES.get(node.kind, "ellipse")
        label = f"{node.label}\\n{node.detail}".replace('"', '\\"')
        lines.append(f'  {names[node.key]} [shape={shape}, label="{label}"];')
    lines += [f"  {names[a]} -> {names[b]};" for a, b in graph.edges]
    return "\n".join([*lines, "}"]) + "\n"


# --- SVG


@dataclass(frozen=True, slots=True)
class Box:
    """A placed node: centre and width."""

    node: Node | None
    x: float
    y: float
    width: float


def graph_svg(function: Function, title: str) -> str:
    """The graph of ``function`` as SVG text; follows the viewer's light or dark scheme."""
    return drawn(graph_of(function), title)


def drawn(graph: Graph, title: str) -> str:
    """A graph as SVG text."""
    boxes, bends = layout(graph)
    width = max((b.x + b.width / 2 for b in boxes.values()), default=100.0) + _MARGIN
    bottom = (b.y + _height(b.node) / 2 for b in boxes.values())
    height = max(bottom, default=60.0) + _MARGIN
    parts = [
        _OPENING.format(width=width, height=height),
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        '<rect class="page" width="100%" height="100%"/>',
        _ARROW,
    ]
    parts += [_edge(boxes[a], bends[a, b], boxes[b]) for a, b in graph.edges]
    parts += [_box(boxes[node.key], node) for node in graph.nodes]
    return "\n".join([*parts, "</svg>"]) + "\n"


_OPENING = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
    'width="{width:.0f}" height="{height:.0f}" role="img">'
)
_STYLE = (
    ".page{fill:#fff}text{font:12px Helvetica,Arial,sans-serif;fill:#1b1f24;text-anchor:middle}"
    ".d{font-size:10px;fill:#57606a}.g{font-size:10px;fill:#a40e26}path{fill:none;"
    "stroke:#8c959f;stroke-width:1.2}"
    "rect{stroke:#57606a;stroke-width:1}.op{fill:#f6f8fa}.layer{fill:#ddf4ff}"
    ".param,.state{fill:#fff8c5}.input,.seed,.hyper,.slot{fill:#dafbe1}.result{fill:#ffebe9}"
    "@media(prefers-color-scheme:dark){.page{fill:#0d1117}text{fill:#e6edf3}.d{fill:#9198a1}"
    ".g{fill:#ffa198}"
    ".op{fill:#21262d}.layer{fill:#0c2d6b}.param,.state{fill:#4b3a00}"
    ".input,.seed,.hyper,.slot{fill:#033a16}.result{fill:#5d1113}}"
)
_ARROW = (
    '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" '
    'orient="auto"><path d="M0 0L8 4L0 8z" style="fill:#8c959f;stroke:none"/></marker></defs>'
)


def _edge(start: Box, bends: Sequence[Box], end: Box) -> str:
    """A smooth line through the places kept free for it."""
    points = [(start.x, start.y + _height(start.node) / 2), *((b.x, b.y) for b in bends)]
    points.append((end.x, end.y - _height(end.node) / 2))
    text = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        text += f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
    return f'<path d="{text}" marker-end="url(#a)"/>'


def _box(box: Box, node: Node) -> str:
    height = _height(node)
    left, top = box.x - box.width / 2, box.y - height / 2
    corner = 3 if node.kind in ("op", "layer") else 14
    lines = [("", node.label), (' class="d"', node.detail), (' class="g"', node.note)]
    texts = (
        f'<text{mark} x="{box.x:.1f}" y="{top + 15 + 13 * i:.1f}">{escape(text)}</text>'
        for i, (mark, text) in enumerate(lines)
        if text
    )
    return (
        f'<rect class="{node.kind}" x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" '
        f'height="{height:.0f}" rx="{corner}"/>{"".join(texts)}'
    )


def _height(node: Node | None) -> float:
    return _HEIGHT if node is None or not node.note else _HEIGHT + _NOTE


def layout(
    graph: Graph,
) -> tuple[dict[str, Box], dict[tuple[str, str], tuple[Box, ...]]]:
    """Places for nodes, and for each edge the places it passes on the ranks between its ends."""
    ranks = _ranks(graph)
    rows: list[list[str]] = [[] for _ in range(1 + max(ranks.values(), default=0))]
    for node in graph.nodes:
        rows[ranks[node.key]].append(node.key)
    bends: dict[tuple[str, str], list[str]] = {}
    links: list[tuple[str, str]] = []
    for a, b in graph.edges:
        chain = [f"{a}\0{b}\0{r}" for r in range(ranks[a] + 1, ranks[b])]
        for key, rank in zip(chain, range(ranks[a] + 1, ranks[b]), strict=True):
            rows[rank].append(key)
        bends[a, b] = chain
        links += zip([a, *chain], [*chain, b], strict=True)
    _untangle(rows, links)
    nodes = {node.key: node for node in graph.nodes}
    places = _places(rows, nodes, links)
    return places, {edge: tuple(places[k] for k in chain) for edge, chain in bends.items()}


def _ranks(graph: Graph) -> dict[str, int]:
    """Longest path from the sources; sources sit just above their first consumer."""
    ranks = {node.key: 0 for node in graph.nodes}
    for _ in graph.nodes:
        is_settled = True
        for a, b in graph.edges:
            if ranks[b] < ranks[a] + 1:
                ranks[b] = ranks[a] + 1
                is_settled = False
        if is_settled:
            break
    fed = {b for _, b in graph.edges}
    for node in graph.nodes:
        consumers = [ranks[b] for a, b in graph.edges if a == node.key]
        if node.key not in fed and consumers:
            ranks[node.key] = min(consumers) - 1
    return ranks


def _neighbours(links: Iterable[tuple[str, str]]) -> tuple[dict[str, list[str]], ...]:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for a, b in links:
        above.setdefault(b, []).append(a)
        below.setdefault(a, []).append(b)
    return above, below


def _untangle(rows: list[list[str]], links: Sequence[tuple[str, str]]) -> None:
    """Orders each row by the mean position of its neighbours, downwards and upwards in turn."""
    above, below = _neighbours(links)
    for sweep in range(_SWEEPS):
        order = range(1, len(rows)) if sweep % 2 == 0 else range(len(rows) - 2, -1, -1)
        near = above if sweep % 2 == 0 else below
        for r in order:
            fixed = rows[r - 1] if sweep % 2 == 0 else rows[r + 1]
            position = {key: i for i, key in enumerate(fixed)}
            own = {key: i for i, key in enumerate(rows[r])}
            rows[r].sort(key=lambda k: _mean([position[n] for n in near.get(k, ())], own[k]))


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _places(
    rows: Sequence[Sequence[str]], nodes: Mapping[str, Node], links: Sequence[tuple[str, str]]
) -> dict[str, Box]:
    """Rows packed without overlap, each node drawn towards the mean of its neighbours."""
    widths = {key: _width(nodes.get(key)) for row in rows for key in row}
    x: dict[str, float] = {}
    for row in rows:
        at = _MARGIN
        for key in row:
            x[key] = at + widths[key] / 2
            at += widths[key] + _GAP
    above, below = _neighbours(links)
    for _ in range(_SWEEPS):
        for row in (*rows, *reversed(rows)):
            wanted = [
                _mean([x[n] for n in (*above.get(k, ()), *below.get(k, ()))], x[k]) for k in row
            ]
            _spread(row, wanted, widths, x)
    left = min((x[k] - widths[k] / 2 for k in x), default=0.0)
    step = _ROW + (_NOTE if any(node.note for node in nodes.values()) else 0.0)
    return {
        key: Box(
            nodes.get(key), x[key] - left + _MARGIN, _MARGIN + _HEIGHT / 2 + r * step, widths[key]
        )
        for r, row in enumerate(rows)
        for key in row
    }


def _width(node: Node | None) -> float:
    if node is None:
        return 6.0
    return max(len(node.label) * _CHAR, len(node.detail) * 6.2, len(node.note) * 6.2) + 18


def _spread(
    row: Sequence[str], wanted: Sequence[float], widths: Mapping[str, float], x: dict[str, float]
) -> None:
    """Moves a row's nodes as near to ``wanted`` as the gaps allow: once from each side, then the
    mean.
    """
    forward: list[float] = []
    for i, key in enumerate(row):
        least = wanted[i]
        if i:
            least = max(least, forward[-1] + (widths[row[i - 1]] + widths[key]) / 2 + _GAP)
        forward.append(least)
    backward = list(wanted)
    for i in range(len(row) - 1, -1, -1):
        if i < len(row) - 1:
            most = backward[i + 1] - (widths[row[i + 1]] + widths[row[i]]) / 2 - _GAP
            backward[i] = min(backward[i], most)
    for i, key in enumerate(row):
        x[key] = (forward[i] + backward[i]) / 2
