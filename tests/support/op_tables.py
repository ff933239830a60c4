"""Counts what is known of ops outside ``ir/ops``: literal tables of op names, tests of one op's
name, and files that name an op.

    python -m tests.support.op_tables            the counts, and every table with its place
    python -m tests.support.op_tables --names    and every comparison of an op's name

A table is a tuple, list, set or dictionary of at least two strings, or a ``match`` of at least two
cases, most of which are names of ops. Tables over *verbs* (the scalar operations of the algebra,
many of which have an op of the same name) stand in the interpreters of the algebra, and are not
meant; nor are the words of the language and NumPy's names, which are what a user may write.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gradc.ir import ops
from gradc.ir.ops.registry import all_ops
from gradc.ir.tensor.algebra import Algebra

assert ops
ROOT = Path(__file__).parents[2]
LAYERS = ("ir", "frontend", "passes", "codegen", "runtime")
# What users write: the words of the language and NumPy's, each beside the op that it makes.
WORDS = (
    "frontend/words/",
    "frontend/elaborate/",
    "frontend/syntax/foreign.py",
    "frontend/format/",
    "frontend/model/",
    "frontend/codes/",
    "runtime/tracing/",
    "runtime/bench/",
)
OPS = frozenset(d.name for d in all_ops())
VERBS = frozenset(n for n in vars(Algebra) if not n.startswith("_"))


@dataclass(frozen=True, slots=True)
class Table:
    """One literal with names of ops."""

    file: str
    line: int
    kind: str
    names: tuple[str, ...]

    @property
    def is_of_verbs(self) -> bool:
        """Whether a backend or a domain could have written it of verbs alone."""
        return all(n in VERBS for n in self.names)


@functools.cache
def sources() -> list[tuple[str, ast.Module]]:
    """Every module outside ``ir/ops`` that is no table of words."""
    found = []
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if not name.startswith(("ir/ops/", *WORDS)):
                found.append((name, ast.parse(path.read_text(encoding="utf-8"))))
    return found


def tables() -> list[Table]:
    """Every table of op names."""
    found = []
    for file, tree in sources():
        inner: set[int] = set()
        for node in ast.walk(tree):
            names = _names(node)
            if id(node) in inner or len(names) < 2:
                continue
            known = tuple(n for n in names if n in OPS)
            if len(known) >= 2 and 2 * len(known) > len(names):
                inner |= {id(n) for n in ast.walk(node) if n is not node}
                line = getattr(node, "lineno", 0)
                found.append(Table(file, line, type(node).__name__, known))
    return found


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Dict):
        parts: list[ast.AST] = [k for k in node.keys if k is not None]
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        parts = list(node.elts)
    elif isinstance(node, ast.Match):
        parts = [v for case in node.cases for v in _patterns(case.pattern)]
    else:
        return []
    return [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)]


def _patterns(pattern: ast.pattern) -> list[ast.AST]:
    return [n.value for n in ast.walk(pattern) if isinstance(n, ast.MatchValue)]


@functools.cache
def comparisons() -> list[tuple[str, int, str]]:
    """Every ``x.name == "op"`` or ``x.name != "op"``: file, line, op."""
    found = []
    for file, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                if any(isinstance(s, ast.Attribute) and s.attr == "name" for s in sides):
                    for side in sides:
                        if isinstance(side, ast.Constant) and side.value in OPS:
                            found.append((file, node.lineno, str(side.value)))
    return found


def naming(op: str) -> list[str]:
    """Files outside ``ir/ops`` and the words that have ``op`` as a string."""
    return [
        file
        for file, tree in sources()
        if any(isinstance(n, ast.Constant) and n.value == op for n in ast.walk(tree))
    ]


def main() -> None:
    found = tables()
    named = comparisons()
    print(f"tables of op names outside ir/ops: {sum(not t.is_of_verbs for t in found)}")
    print(f"tables of names that all are verbs: {sum(t.is_of_verbs for t in found)}")
    print(f"comparisons of an op's name: {len(named)}")
    for op in ("conv2d", "gelu", "softmax", "max_pool", "gather", "reshape", "sum", "dot", "scan"):
        print(f"files that name {op}: {len(naming(op))}  {' '.join(naming(op))}")
    for table in found:
        mark = "verbs" if table.is_of_verbs else "ops  "
        print(f"{mark} {table.file}:{table.line} {table.kind} {' '.join(table.names)}")
    if "--names" in sys.argv:
        for op, count in Counter(n for _, _, n in named).most_common():
            print(f"{count:4} {op}: {' '.join(f'{f}:{line}' for f, line, n in named if n == op)}")


if __name__ == "__main__":
    main()
