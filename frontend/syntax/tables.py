"""The parser's tables, made beforehand: `grammar.json` beside `grammar.lark`.

Building LALR tables takes 80 ms, reading them 5. The file says which grammar and which Lark it was
made from; if either is another, the tables are built from the grammar as if there were no file.
Nothing is executed: the file is JSON, and its bytes are part of the package.

Make it again after a change of the grammar: `python -m gradc.frontend.syntax.tables`. A test says
when that is due.

Non-goals: a cache that is written while programs are compiled.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from lark import Lark, __version__
from lark.grammar import NonTerminal, Rule, RuleOptions, Terminal
from lark.lexer import TerminalDef

FILE: Final = "grammar.json"


def grammar_text() -> str:
    """The grammar as it stands in the package."""
    return files("gradc.frontend").joinpath("grammar.lark").read_text(encoding="utf-8")


def build(text: str) -> Lark:
    """The parser, its tables made from the grammar."""
    return Lark(
        text,
        parser="lalr",
        lexer="basic",
        start="program",
        keep_all_tokens=True,
        maybe_placeholders=True,
    )


def origin(text: str) -> str:
    """What tables belong to: this grammar and this version of Lark."""
    return f"lark {__version__}, grammar {blake2b(text.encode(), digest_size=16).hexdigest()}"


def parser() -> Lark:
    """The parser, from the file if it belongs to this grammar and this Lark."""
    text = grammar_text()
    stored = files("gradc.frontend").joinpath(FILE)
    if stored.is_file():
        found = json.loads(stored.read_text(encoding="utf-8"))
        if found["origin"] == origin(text):
            return _thaw(found)
    return build(text)


def _thaw(found: dict[str, Any]) -> Lark:
    """A parser from what `_freeze` wrote; JSON has made text of the numbers that were keys."""
    tables = found["data"]["parser"]["parser"]
    tables["tokens"] = {int(number): name for number, name in tables["tokens"].items()}
    tables["states"] = {
        int(state): {int(token): tuple(action) for token, action in row.items()}
        for state, row in tables["states"].items()
    }
    memo = _memo(found["memo"])
    from_data: Callable[..., Lark] = Lark._load_from_dict
    return from_data(found["data"], memo)


def _memo(entries: dict[str, Any]) -> dict[int, Any]:
    """What tables refer to by number. Rules, most of it, are made here: Lark looks at every field
    of every one of them for what it might be, which takes longer than all else.
    """
    symbols: dict[tuple[str, str], Terminal | NonTerminal] = {}

    def symbol(entry: dict[str, Any]) -> Terminal | NonTerminal:
        key = (entry["__type__"], entry["name"])
        known = symbols.get(key)
        if known is None:
            is_terminal = key[0] == "Terminal"
            name = entry["name"]
            known = Terminal(name, entry["filter_out"]) if is_terminal else NonTerminal(name)
            symbols[key] = known
        return known

    def made(entry: dict[str, Any]) -> Any:
        if entry["__type__"] != "Rule":
            return entry
        options = {name: value for name, value in entry["options"].items() if name != "__type__"}
        expansion = [symbol(part) for part in entry["expansion"]]
        origin = NonTerminal(entry["origin"]["name"])
        return Rule(origin, expansion, entry["order"], entry["alias"], RuleOptions(**options))

    return {int(number): made(entry) for number, entry in entries.items()}


def _freeze(lark: Lark, text: str) -> str:
    """The tables as JSON, with their origin."""
    data, memo = lark.memo_serialize([TerminalDef, Rule])
    return json.dumps({"origin": origin(text), "data": data, "memo": memo}, separators=(",", ":"))


def main() -> None:
    """Write the file anew, beside the grammar."""
    text = grammar_text()
    path = Path(__file__).resolve().parent.parent / FILE
    path.write_text(_freeze(build(text), text) + "\n", encoding="utf-8")
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
