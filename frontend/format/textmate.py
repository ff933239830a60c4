"""A TextMate grammar for editors, made from the keyword and word tables so that it cannot drift.

`python -m gradc.frontend.format.textmate` writes `gradc.tmLanguage.json` beside this file; a test
says when that is due. Editors that read TextMate grammars (VS Code, Sublime Text, GitHub's
Linguist) colour `.grad` files by it.

Non-goals: parsing. A grammar of this kind knows words and brackets, not structure.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import gradc.frontend.model.draws  # noqa: F401  (fills the table of words, its own included)
from gradc.frontend.elaborate.library import names as library_names
from gradc.frontend.elaborate.shapes import DTYPES
from gradc.frontend.elaborate.words import WORDS
from gradc.frontend.syntax.errors import KEYWORDS

FILE: Final = "gradc.tmLanguage.json"
_DECLARATIONS: Final = ("model", "layer", "fn", "optimizer", "schedule", "initializer")
_MEMBERS: Final = ("dim", "param", "state", "use", "output", "import")
_LOGIC: Final = ("and", "or", "not", "in")
_CONSTANTS: Final = ("true", "false", "pi", "inf", "nan", "training")


def grammar() -> dict[str, Any]:
    """The grammar as JSON data."""
    control = [w for w in KEYWORDS if w not in (*_DECLARATIONS, *_MEMBERS, *_LOGIC, *_CONSTANTS)]
    words = sorted({*WORDS, *(name for kind in ("fn", "layer") for name in library_names(kind))})
    patterns = [
        _rule("comment.line.number-sign", "#.*$"),
        _rule("string.quoted.double", '"[^"\\n]*"'),
        _rule("constant.numeric", r"\b[0-9](?:[0-9_]*\.?[0-9]*)(?:[eE][+-]?[0-9]+)?\b|\.[0-9]+"),
        {
            "match": rf"\b({'|'.join(_DECLARATIONS)})\s+([A-Za-z_]\w*)",
            "captures": {
                "1": {"name": "keyword.declaration.gradc"},
                "2": {"name": "entity.name.function.gradc"},
            },
        },
        _words("keyword.declaration", (*_DECLARATIONS, *_MEMBERS)),
        _words("keyword.control", control),
        _rule("keyword.control", r"\basserted\b(?=\s*\{)"),
        _words("keyword.operator.logical", _LOGIC),
        _words("constant.language", _CONSTANTS),
        _words("storage.type", ("float", "int", *DTYPES)),
        _rule("support.function", rf"\b(?:{'|'.join(words)})\b(?=\s*\()"),
        _rule("keyword.operator", r"->|\.\.\.|//|[-+*/%@^~]|[<>=!]=|[<>=]"),
    ]
    return {
        "name": "gradc",
        "scopeName": "source.gradc",
        "fileTypes": ["grad"],
        "patterns": patterns,
    }


def _rule(scope: str, pattern: str) -> dict[str, Any]:
    return {"name": f"{scope}.gradc", "match": pattern}


def _words(scope: str, words: tuple[str, ...] | list[str]) -> dict[str, Any]:
    return _rule(scope, rf"\b(?:{'|'.join(dict.fromkeys(words))})\b")


def text() -> str:
    """The file as it should be."""
    return json.dumps(grammar(), indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write the file anew."""
    path = Path(__file__).resolve().parent.parent / FILE
    path.write_text(text(), encoding="utf-8")
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
