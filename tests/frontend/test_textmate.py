"""The editor grammar: made from the tables, and colouring tokens as the compiler reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gradc.frontend.format import textmate
from gradc.frontend.syntax.diagnostics import Report
from gradc.frontend.syntax.lexer import lex
from gradc.frontend.syntax.parse import grammar
from gradc.frontend.syntax.source import from_text

PROGRAMS = sorted((Path(__file__).parent.parent / "programs").glob("*.grad"))
# What the compiler's tokens must be coloured as.
SCOPES = {"COMMENT": "comment", "STRING": "string", "NUMBER": "constant.numeric"}


def scopes(line: str) -> list[str]:
    """The scope of every character, by the first rule that matches leftmost, as editors do."""
    rules = [(re.compile(r["match"]), r) for r in textmate.grammar()["patterns"]]
    found = [""] * len(line)
    position = 0
    while position < len(line):
        matches = [
            (m.start(), i) for i, (p, _) in enumerate(rules) if (m := p.search(line, position))
        ]
        if not matches:
            break
        _, best = min(matches)
        pattern, rule = rules[best]
        match = pattern.search(line, position)
        assert match is not None
        spans = [(match.span(), rule.get("name", ""))]
        spans += [(match.span(int(k)), v["name"]) for k, v in rule.get("captures", {}).items()]
        for (start, stop), name in spans:
            found[start:stop] = [name] * (stop - start)
        position = max(match.end(), position + 1)
    return found


def test_the_file_is_up_to_date() -> None:
    path = Path(textmate.__file__).parent.parent / textmate.FILE
    assert path.read_text(encoding="utf-8") == textmate.text(), (
        "run python -m gradc.frontend.format.textmate"
    )
    assert json.loads(textmate.text())["scopeName"] == "source.gradc"


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.name)
def test_tokens_are_coloured_as_the_compiler_reads_them(path: Path) -> None:
    source = from_text(path.read_text(encoding="utf-8"), path.name)
    lines = [scopes(line) for line in source.lines]
    for token in lex(grammar(), source, Report()).raw:
        if token.type == "NEWLINE":
            continue
        assert token.line is not None and token.column is not None
        start = token.column - 1
        names = set(lines[token.line - 1][start : start + len(token.value)])
        if token.type in SCOPES:
            assert all(n.startswith(SCOPES[token.type]) for n in names), (token, names)
        elif token.value.isidentifier() and token.type == token.value.upper():
            assert all(n.startswith(("keyword", "constant.language")) for n in names), (
                token,
                names,
            )
        elif token.type == "NAME":
            assert not any(n.startswith(("keyword", "comment", "string")) for n in names), token
