"""The parser's stored tables belong to the grammar beside them and parse as freshly built ones
do.
"""

import json
from pathlib import Path

import pytest
from lark import Lark, Tree

from gradc.frontend.syntax import tables

ROOT = Path(__file__).resolve().parent.parent.parent
STORED = ROOT / "frontend" / tables.FILE


def test_stored_tables_are_fresh() -> None:
    """If this fails after a change of grammar.lark: python -m gradc.frontend.syntax.tables."""
    assert json.loads(STORED.read_text())["origin"] == tables.origin(tables.grammar_text())


def rules_and_actions(lark: Lark) -> dict[str, set[tuple[str, str]]]:
    """For every rule its expansions and options, independent of how states and tokens are
    numbered.
    """
    found: dict[str, set[tuple[str, str]]] = {}
    for rule in lark.rules:
        row = (" ".join(s.name for s in rule.expansion), repr(rule.options))
        found.setdefault(rule.origin.name, set()).add(row)
    return found


def test_stored_tables_hold_the_same_rules_and_terminals() -> None:
    stored, built = tables.parser(), tables.build(tables.grammar_text())
    assert rules_and_actions(stored) == rules_and_actions(built)
    assert {t.name: t.pattern.to_regexp() for t in stored.terminals} == {
        t.name: t.pattern.to_regexp() for t in built.terminals
    }


@pytest.mark.parametrize("path", sorted(ROOT.glob("frontend/stdlib/*.grad")), ids=lambda p: p.stem)
def test_stored_tables_parse_alike(path: Path) -> None:
    from gradc.frontend.syntax.parse import grammar, parse_text

    stored = parse_text(path.read_text())
    grammar.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "FILE", "there is no such file")
        built = parse_text(path.read_text())
    grammar.cache_clear()
    assert stored == built


def test_tables_of_another_grammar_are_not_used() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "grammar_text", lambda: "program: A*\nA: /a/\n")
        tree = tables.parser().parse("aaa")
    assert isinstance(tree, Tree)
    assert len(tree.children) == 3
