"""Diagnostics of files and syntax: a golden rendering for every code, and what each slip is
called.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradc.frontend.codes.codes import Code, all_codes, explain, similar_code
from gradc.frontend.syntax.diagnostics import Diagnostic, DiagnosticError
from gradc.frontend.syntax.parse import parse_text
from gradc.ir.diagnostics.render import render_all
from gradc.runtime.cli import main
from tests.support.golden_files import check_golden

FRONTEND = Path(__file__).parent.parent.parent / "frontend"
SYNTAX_CODES = [c for c in all_codes().values() if c.code < "GC0200"]
WITH_EXAMPLE = [c for c in SYNTAX_CODES if c.example]
# These need a file or an amount of text; tests/frontend/test_syntax_limits.py shows them.
WITHOUT_EXAMPLE = {
    "GC0001", "GC0002", "GC0003", "GC0006", "GC0010", "GC0011", "GC0012", "GC0013",
}  # fmt: skip


def findings(text: str) -> tuple[Diagnostic, ...]:
    """What is wrong with ``text``."""
    with pytest.raises(DiagnosticError) as caught:
        parse_text(text, "example.grad")
    return caught.value.diagnostics


def body(statements: str) -> str:
    """A function whose body is ``statements``."""
    return f"fn f(x: float[3]) -> float {{\n{statements}\nreturn x\n}}\n"


@pytest.mark.parametrize("entry", WITH_EXAMPLE, ids=lambda e: e.code)
def test_the_example_of_every_code_shows_it(entry: Code, request: pytest.FixtureRequest) -> None:
    with pytest.raises(DiagnosticError) as caught:
        parse_text(entry.example, "example.grad")
    found = caught.value.diagnostics
    assert {entry.code} <= {d.code for d in found} <= {entry.code, *entry.also}
    text = render_all(found, caught.value.sources) + "\n"
    check_golden(f"diagnostics/{entry.code}.txt", text, request.config)


def test_every_code_without_an_example_is_a_matter_of_files() -> None:
    assert {c.code for c in SYNTAX_CODES if not c.example} == WITHOUT_EXAMPLE


def test_every_code_in_the_sources_is_explained() -> None:
    used: dict[str, str] = {}
    for folder in ("frontend", "ir", "passes", "codegen", "runtime"):
        for path in sorted((FRONTEND.parent / folder).rglob("*.py")):
            if "codes" not in path.parts and "codes" not in path.name:
                text = path.read_text(encoding="utf-8")
                used |= {code: path.name for code in re.findall(r'"(GC\d{4})"', text)}
    missing = {code: name for code, name in used.items() if code not in all_codes()}
    assert not missing


def test_every_syntax_code_in_the_table_is_used() -> None:
    text = "".join(
        path.read_text(encoding="utf-8")
        for path in sorted(FRONTEND.rglob("*.py"))
        if "codes" not in path.parts
    )
    assert [c.code for c in SYNTAX_CODES if f'"{c.code}"' not in text] == []


def test_explanations_read_well() -> None:
    for code in SYNTAX_CODES:
        text = explain(code.code)
        assert text is not None
        assert text.startswith(f"{code.code}: {code.title}\n\n")
        assert len(code.explanation) > 60
        assert all(len(line) <= 104 for line in code.explanation.split("\n"))
    assert explain("gc0103") == explain("GC0103")
    assert explain("GC9999") is None
    assert similar_code("GC01o3") == "GC0103"


def test_the_command_explains_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "gc0104"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("GC0104: a bracket is never closed\n")
    assert "    error[GC0104]: `(` is never closed\n" in out
    assert main(["explain", "GC01o4"]) == 1
    assert "did you mean `GC01" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        # Python habits
        ("def f(x):\n    return x\n", "GC0112", "`def`"),
        ("class Net { }", "GC0112", "`class`"),
        ("import numpy as np", "GC0112", "in quotes"),
        ("from numpy import exp", "GC0112", "`from`"),
        (body("y = [g(i) for i in x]"), "GC0112", "comprehensions"),
        (body("y = lambda a: a"), "GC0112", "anonymous"),
        (body("y = x if x else 0"), "GC0112", "`if`"),
        (body("while true { }"), "GC0112", "`while`"),
        (body("if a { y = 1 }\nelif b { y = 2 }"), "GC0112", "`elif`"),
        (body("let y = 3"), "GC0112", "`let`"),
        (body("print(x)"), "GC0111", "not used"),
        (body("self.w = 3"), "GC0110", "`self`"),
        (body("y = f(x, axis = None)"), "GC0120", "None"),
        (body("y = f(x, keepdims = True)"), "GC0120", "`True`"),
        (body("y = 'a'"), "GC0106", "double quotes"),
        (body("if x > 0:\n y = 1"), "GC0113", "braces"),
        (body("for b in blocks:\n y = 1"), "GC0113", "braces"),
        (body("h: float = 3"), "GC0112", "no declared type"),
        (body("if x == 1 then { y = 2 }"), "GC0112", "`then`"),
        ("layer l(I) { apply(self, x: float) { return x } }", "GC0112", "`self`"),
        # operators
        (body("y = x ** 2"), "GC0103", "`**`"),
        (body("y = x && x"), "GC0103", "`&&`"),
        (body("y = !x"), "GC0103", "`!`"),
        (body("y = a <> b"), "GC0103", "`<>`"),
        (body("y := 3"), "GC0103", "`:=`"),
        (body("y += 3"), "GC0122", "`+=`"),
        (body("y **= 3"), "GC0122", "`**=`"),
        (body("if x = 3 { y = 1 }"), "GC0109", "compares"),
        (body("y = x = 3"), "GC0109", "one `=`"),
        (body("y = a == b == c"), "GC0114", "chain"),
        ("layer l(I) {\nparam w: float = zeros\napply(x: float) { return x }\n}", "GC0109", "`~`"),
        # something missing
        (body("y = 2 x"), "GC0108", "between `2` and `x`"),
        (body("y = f(x y)"), "GC0108", "`,` is missing before `y`"),
        (body("y = [1 2]"), "GC0108", "`,` is missing before `2`"),
        ("dim B C", "GC0108", "`,` is missing before `C`"),
        ("fn f(x float) -> float { return x }", "GC0108", "`:` is missing before `float`"),
        ("fn f(x: float) float { return x }", "GC0108", "`->` is missing before `float`"),
        ("model m(x: float) -> float { use fc dense(3)\nreturn x }", "GC0108", "`=` is missing"),
        (body("for b blocks { y = 1 }"), "GC0108", "`in` is missing"),
        (body("y = 1 return y"), "GC0108", "new statement"),
        (body("y ="), "GC0107", "after `=`"),
        (body("y = x *"), "GC0107", "after `*`"),
        (body("y = (x *)"), "GC0107", "after `*`"),
        (body("y = f(, x)"), "GC0107", "after `(`"),
        ("fn f(x: float) -> float { return }", "GC0107", "after `return`"),
        ("fn f(x: float) -> float", "GC0113", "block"),
        ("fn f(x: float) -> { return x }", "GC0107", "a type is missing after `->`"),
        ("fn f(x:) -> float { return x }", "GC0107", "a type is missing after `:`"),
        (body("y = 1 z = 2"), "GC0108", "`z` starts a new statement"),
        (body("use f = g(1) use h = g(2)"), "GC0108", "`use` starts a new statement"),
        (body("if x"), "GC0113", "`if`"),
        (body("else { }"), "GC0101", "`else` without"),
        # brackets
        (body("y = f(x"), "GC0104", "`(` is never closed"),
        (body("y = f(x[0)"), "GC0104", "`[` is never closed"),
        ("fn f(x: float[3) -> float { return x }", "GC0104", "`[` is never closed"),
        ("fn f(x: float -> float { return x }", "GC0104", "`(` is never closed"),
        ("fn f(x: float) -> float { return x", "GC0104", "`{` is never closed"),
        ("fn f(x: float) -> float { return x\nfn g(x: float) -> float { return x }", "GC0104",
        "`{`"),
        (body("y = x)"), "GC0105", "`)` closes nothing"),
        ("}", "GC0105", "`}` closes nothing"),
        # names and places
        (body("in = 3"), "GC0102", "`in`"),
        (body("y = f(scan = 3)"), "GC0102", "`scan`"),
        ("dim for = 3", "GC0102", "`for`"),
        ("fn use(x: float) -> float { return x }", "GC0102", "`use`"),
        (body("y = 3, f(x) = 4"), "GC0109", "one `=`"),
        (body("f(x) = 4"), "GC0110", "only a name"),
        (body("(a, b) = x"), "GC0110", "brackets"),
        (body("x[0] = 4"), "GC0110", "immutable"),
        (body("yield x"), "GC0116", "`yield`"),
        (body("output x"), "GC0116", "`output`"),
        (body("param w: float ~ zeros"), "GC0116", "`param`"),
        (body("state m = 3"), "GC0116", "`state`"),
        (body("for b in x { return b }"), "GC0116", "`return`"),
        ("layer l(I) { y = 3; apply(x: float) { return x } }", "GC0116", "neither"),
        ("layer l(I) { return 3; apply(x: float) { return x } }", "GC0116", "`return`"),
        ("layer l(I) { apply(x: float) { return x }; forward(x: float) { return x } }", "GC0117",
         "no method `forward`"),
        ("layer l(I) { if a { apply(x: float) { return x } } }", "GC0117", "outside"),
        ("layer l(I) { apply(x: float) { return x }; apply(x: float) { return x } }", "GC0117",
         "one `apply`"),
        ("schedule s(a) { param w: float; at(t) { return a } }", "GC0116", "nothing but `at`"),
        ("model m(x: float) { pullback(ct) { return ct } }", "GC0116", "`pullback`"),
        ("fn f(x: float) { return x; pullback(c) { return c }; pullback(c) { return c } }",
         "GC0116", "one pullback"),
        ("x = 3", "GC0101", "top level"),
        ("return 3", "GC0101", "top level"),
        ("optimiser sgd(lr) { update(p, g, t) { return p } }", "GC0112", "`optimiser`"),
        (body("y = 1 + scan a in x { yield a }"), "GC0101", "`scan`"),
        (body("y = f(a = 1, 2)"), "GC0115", "without a name"),
        (body("y = f(a = 1, a = 2)"), "GC0115", "twice"),
        # characters and numbers
        (body("y = x × 2"), "GC0004", "`×`"),
        (body("y = “a”"), "GC0004", "`“`"),
        (body("y = x;\u00a0z = x"), "GC0004", "no-break"),
        (body("y = α"), "GC0004", "`α`"),
        (body("y = x # \u202e"), "GC0005", "U+202E"),
        (body("y = \u200bx"), "GC0005", "U+200B"),
        (body("y = x\x00"), "GC0005", "U+0000"),
        (body("y = \"\x1b[2J\""), "GC0005", "U+001B"),
        (body("y = 0x10"), "GC0009", "`0x10`"),
        (body("y = 1__0"), "GC0009", "`1__0`"),
        (body("y = 1e"), "GC0009", "`1e`"),
        (body("y = 1.5f"), "GC0009", "`1.5f`"),
        (body("y = 9223372036854775808"), "GC0008", "largest integer"),
        (body("y = 1e400"), "GC0008", "larger than"),
        (body("y = 1e-400"), "GC0008", "become zero"),
    ],
)  # fmt: skip
def test_slips_are_called_by_name(text: str, code: str, words: str) -> None:
    found = findings(text)
    matching = [d for d in found if d.code == code and words in d.message]
    assert matching, [(d.code, d.message) for d in found]
    assert matching[0] is found[0], [(d.code, d.message) for d in found]


def test_a_slip_does_not_drag_others_along() -> None:
    for text in (
        body("y = x ** 2"), body("y = f(x y)"), body("y = 2 x"), body("y = x +"), body("y = f(x"),
        body("if x = 3 { y = 1 }"), body("y += 3"), body("x[0] = 3"), body("y = 1e400"),
        "fn f(x: float -> float { return x }", "fn f(x float) -> float { return x }",
        "layer l(I) { param w float[I] ~ zeros\napply(x: float) { return x } }",
    ):  # fmt: skip
        assert len(findings(text)) == 1, text


def test_a_block_without_braces_is_one_error() -> None:
    (found,) = findings("model m(x: float) -> float:\n    y = x\n    return y\n\ndim B\n")
    assert found.code == "GC0113"
    found, other = findings(body("if a:\n    y = 1\n    z = 2\nx[0] = 1"))
    assert (found.code, other.code) == ("GC0113", "GC0110")


def test_the_unclosed_brace_is_found_by_indentation() -> None:
    text = (
        "fn f(x: float) -> float {\n    if a {\n        y = x\n    return y\n}\n"
        "fn g(x: float) { return x }"
    )
    (found,) = findings(text)
    assert found.code == "GC0104"
    assert found.span is not None
    assert (found.span.line, found.span.column) == (2, 10)
    assert found.labels[0].span.line == 5


def test_an_unclosed_brace_does_not_hide_what_is_inside() -> None:
    codes = [
        d.code
        for d in findings("fn f(x: float) -> float {\n    y = 2 x\n    z = x +\n    return y\n")
    ]
    assert codes == ["GC0104", "GC0108", "GC0107"]


def test_several_errors_are_found_in_one_run_in_the_order_of_the_text() -> None:
    text = (
        "dim B C\n" + body("y = x +") + "model m(x: float) -> float {\n    y = 2 x\n"
        "    if y { z = * }\n    return x ** 2\n}\nlayer l { }\n"
    )
    found = findings(text)
    assert [d.code for d in found] == ["GC0108", "GC0107", "GC0108", "GC0107", "GC0103",
                                       "GC0117"]  # fmt: skip
    lines = [d.span.line for d in found if d.span is not None]
    assert lines == sorted(lines)


def test_no_more_than_twenty_are_shown_and_the_rest_is_counted() -> None:
    found = findings(body("\n".join(["exp(x)"] * 50)))
    assert len(found) == 50
    with pytest.raises(DiagnosticError) as caught:
        parse_text(body("\n".join(["exp(x)"] * 50)))
    text = render_all(found, caught.value.sources)
    assert text.count("GC0111") == 20
    assert text.endswith("... and 30 more\n\n50 errors")
