"""The language page: its programs check, its words and library are those of the compiler, its
limits too.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradc.frontend.elaborate.words import WORDS
from gradc.frontend.format.format import format_text
from gradc.frontend.program import loads
from gradc.frontend.syntax import limits
from gradc.frontend.syntax.errors import KEYWORDS
from gradc.frontend.syntax.parse import parse_text

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```grad\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", PROGRAMS, ids=lambda t: t.strip().split("\n")[0][:30])
def test_every_program_of_the_page_checks(text: str) -> None:
    errors = [d for d in loads(text, "page.grad").check() if d.severity == "error"]
    assert errors == []
    assert parse_text(format_text(text)) == parse_text(text)


def test_every_word_is_on_the_page() -> None:
    shown = set(re.findall(r"\w+", PAGE))
    assert [name for name in WORDS if name not in shown] == []


def test_every_declaration_of_the_library_is_on_the_page() -> None:
    shown = set(re.findall(r"\w+", PAGE))
    for path in sorted((ROOT / "frontend" / "stdlib").glob("*.grad")):
        for declaration in parse_text(path.read_text(encoding="utf-8")).declarations:
            name = getattr(declaration, "name", None)
            assert name is None or name.text in shown, path.name


def test_the_reserved_words_are_those_of_the_grammar() -> None:
    (listed,) = re.findall(r"words are reserved: `([^`]*)`", PAGE)
    assert listed.split() == list(KEYWORDS)
    grammar = (ROOT / "frontend" / "grammar.lark").read_text(encoding="utf-8")
    assert set(re.findall(r'"([a-z]+)"', grammar)) == set(KEYWORDS)


def test_the_limits_are_those_of_the_compiler() -> None:
    paragraph = PAGE.split("## Limits")[1].split("##")[0].replace("\n", " ")
    for value, words in (
        (limits.MAX_TOKENS // 1000, "{} 000 tokens"),
        (limits.MAX_NESTING, "{} open brackets"),
        (limits.MAX_BLOCKS, "{} of them braces"),
        (limits.MAX_IMPORT_DEPTH, "{} levels"),
        (limits.MAX_IMPORTED_FILES, "{} files"),
    ):
        assert words.format(value) in paragraph
