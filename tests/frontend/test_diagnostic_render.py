"""How diagnostics look: carets under tabs, wide and hidden characters, long lines, several
places.
"""

from __future__ import annotations

import json

import pytest

from gradc.ir.diagnostics.diagnostic import (
    DiagnosticError,
    Label,
    Report,
    closest,
    did_you_mean,
    error,
    in_text_order,
    warning,
)
from gradc.ir.diagnostics.render import (
    MAX_SHOWN_CHARACTERS,
    ansi,
    display_width,
    escape,
    render,
    to_json,
)
from gradc.ir.diagnostics.source import Source, Sources
from gradc.ir.tensor.core import Span


def sources(*texts: str) -> Sources:
    """Texts named a.grad, b.grad, ..."""
    found = Sources()
    for name, text in zip("abc", texts, strict=False):
        found.add(Source(f"{name}.grad", text))
    return found


def shown(text: str, column: int, end_column: int) -> tuple[str, str]:
    """The source line and the caret line for a place on the first line of ``text``."""
    span = Span("a.grad", 1, column, 1, end_column)
    lines = render(error("GC0101", "m", span), sources(text)).split("\n")
    return lines[3].removeprefix("1 | "), lines[4].removeprefix("  | ")


def test_the_whole_form() -> None:
    span = Span("a.grad", 2, 9, 2, 14)
    found = error(
        "GC0301", "shapes do not multiply", span, label="inner sizes differ",
        labels=[Label(Span("a.grad", 1, 5, 1, 6), "w is declared here"),
                Label(Span("b.grad", 1, 1, 1, 4), "and used here")],
        help="transpose it:\nx @ w.T", notes=["float[8, 16] @ float[12, 4]"],
    )  # fmt: skip
    assert render(found, sources("dim w\n    y = x @ w\n", "dim q")) == (
        "error[GC0301]: shapes do not multiply\n"
        " --> a.grad:2:9\n"
        "  |\n"
        "2 |     y = x @ w\n"
        "  |         ^^^^^ inner sizes differ\n"
        "1 | dim w\n"
        "  |     - w is declared here\n"
        " ::: b.grad:1:1\n"
        "  |\n"
        "1 | dim q\n"
        "  | --- and used here\n"
        "  = help: transpose it:\n"
        "          x @ w.T\n"
        "  = note: float[8, 16] @ float[12, 4]"
    )


@pytest.mark.parametrize(
    ("text", "column", "end", "line", "carets"),
    [
        ("abc = x", 5, 6, "abc = x", "    ^"),
        ("\tabc", 2, 5, "    abc", "    ^^^"),
        ("ab\tc", 4, 5, "ab  c", "    ^"),
        ('"日本" x', 6, 7, '"日本" x', "       ^"),
        ('"日本" x', 2, 4, '"日本" x', " ^^^^"),
        ("e\u0301 x", 4, 5, "e\u0301 x", "  ^"),
        ("a\u202eb", 3, 4, "a\\u{202e}b", "         ^"),
        ("a\x1b[2Jb", 2, 3, "a\\x1b[2Jb", " ^^^^"),
        ("abc", 4, 4, "abc", "   ^"),
        ("abc", 9, 12, "abc", "   ^"),
    ],
)
def test_carets_stand_under_what_they_mean(
    text: str, column: int, end: int, line: str, carets: str
) -> None:
    assert shown(text, column, end) == (line, carets)


def test_a_place_over_several_lines_is_marked_to_the_end_of_its_first() -> None:
    found = error("GC0101", "m", Span("a.grad", 1, 3, 3, 2))
    assert render(found, sources("ab{\nc\n}")).endswith("1 | ab{\n  |   ^")


def test_long_lines_are_cut_around_the_place() -> None:
    text = "x" * 5000 + "!" + "y" * 5000
    line, carets = shown(text, 5001, 5002)
    assert len(line) <= MAX_SHOWN_CHARACTERS + 6
    assert line[carets.index("^")] == "!"
    assert line.startswith("...") and line.endswith("...")
    line, carets = shown(text, 1, 9000)
    assert carets == "^" * MAX_SHOWN_CHARACTERS
    line, carets = shown(text, 10001, 10002)
    assert line[carets.index("^")] == "y"


def test_nothing_reaches_the_terminal_unescaped() -> None:
    found = error("GC0101", "m \x1b[31m", Span("a\x07.grad", 1, 1, 1, 2), label="\u202e", help="\r")
    text = render(found, Sources({"a\x07.grad": Source("a\x07.grad", "\x9b x")}))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert escape("a\ud800\x00") == "a\\u{d800}\\x00"


def test_unknown_sources_and_no_place() -> None:
    assert render(error("GC0001", "gone", None), Sources()) == "error[GC0001]: gone"
    found = error("GC0101", "m", Span("z.grad", 3, 1, 3, 2), label="here")
    assert render(found, Sources()) == "error[GC0101]: m\n --> z.grad:3:1\n  | here"


def test_inlined_code_says_where_it_was_used() -> None:
    span = Span("a.grad", 1, 1, 1, 2, Span("b.grad", 4, 9, 4, 12))
    text = render(error("GC0301", "m", span), sources("abc", ""))
    assert text.endswith("  = used: at b.grad:4:9")


def test_colour_adds_only_escapes() -> None:
    import re

    found = error("GC0301", "m", Span("a.grad", 1, 1, 1, 2), label="l", help="h")
    coloured = render(found, sources("abc"), ansi)
    assert coloured != render(found, sources("abc"))
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render(found, sources("abc"))


def test_json_form_holds_everything() -> None:
    span = Span("a.grad", 1, 2, 1, 4, Span("b.grad", 5, 6, 5, 7))
    found = warning(
        "GC0210", "m", span, label="l", labels=[Label(span, "t")], help="h", notes=["n"]
    )
    (data,) = json.loads(json.dumps(to_json([found])))
    place = {"file": "a.grad", "line": 1, "column": 2, "end_line": 1, "end_column": 4}
    caller = {"file": "b.grad", "line": 5, "column": 6, "end_line": 5, "end_column": 7}
    full = place | {"caller": caller | {"caller": None}}
    assert data == {
        "code": "GC0210", "severity": "warning", "message": "m", "span": full, "label": "l",
        "labels": [{"span": full, "text": "t"}], "help": "h", "notes": ["n"],
    }  # fmt: skip


def test_reports_keep_findings_once_and_raise_them_in_order() -> None:
    report = Report()
    late = error("GC0101", "late", Span("a.grad", 9, 1, 9, 2))
    early = warning("GC0102", "early", Span("a.grad", 2, 1, 2, 2))
    for found in (late, late, early):
        report.add(found)
    assert report.diagnostics == [late, early]
    assert report.has_errors and not report.is_full
    with pytest.raises(DiagnosticError) as caught:
        report.raise_errors()
    assert caught.value.diagnostics == (early, late)
    assert "1 error and 1 warning" in str(caught.value)
    Report(diagnostics=[]).raise_errors()


def test_warnings_alone_do_not_raise() -> None:
    report = Report()
    report.add(warning("GC0102", "w", None))
    report.raise_errors()
    assert not report.has_errors


def test_files_keep_their_first_order() -> None:
    places = [("b", 5), ("a", 1), ("b", 2), ("a", 9)]
    found = [error("GC0101", "m", Span(f, n, 1, n, 2)) for f, n in places]
    order = [(d.span.file, d.span.line) for d in in_text_order(found) if d.span is not None]
    assert order == [("b", 2), ("b", 5), ("a", 1), ("a", 9)]


@pytest.mark.parametrize(
    ("name", "best"),
    [("sofmax", "softmax"), ("Dense", "dense"), ("crossentropy", "cross_entropy"), ("zzz", "")],
)
def test_near_names(name: str, best: str) -> None:
    known = ["relu", "softmax", "dense", "cross_entropy", "log_softmax"]
    assert closest(name, known) == best
    assert did_you_mean(name, known) == (f"did you mean `{best}`?" if best else "")


def test_display_width() -> None:
    assert display_width("abc") == 3
    assert display_width("日本") == 4
    assert display_width("e\u0301") == 1
