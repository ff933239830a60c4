"""Hostile and broken input: limits, encodings, imports. A diagnostic each, in bounded time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from gradc.frontend.format.format import format_text
from gradc.frontend.project import load_program, load_text
from gradc.frontend.syntax import limits
from gradc.frontend.syntax.diagnostics import Diagnostic, DiagnosticError, Report
from gradc.frontend.syntax.parse import parse_text
from gradc.frontend.syntax.source import decode, from_text, read
from gradc.frontend.syntax.unparse import unparse
from gradc.ir.diagnostics.render import render_all


def refused(run: Callable[[], object]) -> tuple[Diagnostic, ...]:
    """The diagnostics that ``run`` raises."""
    with pytest.raises(DiagnosticError) as caught:
        run()
    assert render_all(caught.value.diagnostics, caught.value.sources).isprintable() is False
    return caught.value.diagnostics


def returning(expression: str) -> str:
    """A program around an expression."""
    return f"fn f(x: float) -> float {{ return {expression} }}"


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("tokens", "x " * (limits.MAX_TOKENS + 1), "GC0006"),
        ("comments", "#\n" * (limits.MAX_TOKENS + 1), "GC0006"),
        ("parentheses", returning("(" * 10_000 + "x" + ")" * 10_000), "GC0007"),
        ("calls", returning("f(" * 201 + "x" + ")" * 201), "GC0007"),
        ("brackets that never close", "[" * 20_000, "GC0007"),
        ("closers", ")" * 20_000, "GC0105"),
        (
            "blocks",
            returning("x").replace("return", "if a { " * 65 + "y = x" + " }" * 65),
            "GC0007",
        ),
        ("signs", returning("-" * 5_000 + "x"), "GC0007"),
        ("negations", returning("not " * 5_000 + "x"), "GC0007"),
        ("powers", returning("x ^ " * 5_000 + "x"), "GC0007"),
        ("indices", returning("x" + "[0]" * 5_000), "GC0007"),
        ("attributes", returning("x" + ".T" * 5_000), "GC0007"),
        ("else if", returning("x").replace("return x", "if a { } else " * 1_000 + "{ }"), "GC0007"),
        ("long name", "dim " + "x" * 1_000_000, "GC0014"),
        ("long number", returning("1" * 1_000_000), "GC0008"),
        ("large exponent", returning("1e999999999999999999"), "GC0008"),
        ("small exponent", returning("1e-999999999999999999"), "GC0008"),
        ("nul", "\x00" * 20_000, "GC0005"),
        ("errors", returning("x").replace("return", "y = \n" * 10_000), "GC0107"),
        ("wrong characters", "$" * 20_000, "GC0004"),
        ("one line", "dim " + "B, " * 20_000 + "= 3", "GC0101"),
    ],
    ids=lambda v: v if len(v) < 30 else "",
)
def test_limits(name: str, text: str, code: str) -> None:
    start = time.perf_counter()
    found = refused(lambda: parse_text(text))
    assert found[0].code == code, name
    assert time.perf_counter() - start < 10


def test_deep_but_allowed_programs_are_handled_everywhere() -> None:
    texts = [
        returning("f(" * 190 + "x" + ")" * 190),
        returning("f(a_rather_long_name, " * 190 + "x" + ")" * 190),
        returning("[" * 190 + "x" + "]" * 190),
        returning("x ^ " * 180 + "x"),
        returning("-" * 300 + "x"),
        returning("(1 + " * 90 + "x" + ")" * 90),
        "fn f(x: float) -> float { " + "if a {\n" * 60 + "y = x" + "\n}" * 60 + "\nreturn y }",
    ]
    for text in texts:
        tree = parse_text(text)
        again = parse_text(format_text(text))
        assert unparse(again) == unparse(tree)


def test_long_flat_programs_are_no_problem() -> None:
    tree = parse_text(returning(" + ".join(["x"] * 8_000)))
    assert len(unparse(tree)) > 32_000
    many = "fn f(x: float) -> float {\n" + "x = x + 1\n" * 2_000 + "return x\n}"
    assert format_text(many).count("\n") == 2_003


# --- encodings


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"dim B\ndim \xff\n", (2, 5)),
        (b"\xef\xbb\xbfdim \xc3\xa4\xc3(", (1, 6)),
        (b"# \xed\xa0\x80\n", (1, 3)),
        (b"a\r\nb\r\n\x80", (3, 1)),
        (b"\xc0\xaf", (1, 1)),
    ],
)
def test_bytes_that_are_not_utf8_are_placed(data: bytes, place: tuple[int, int]) -> None:
    (found,) = refused(lambda: decode(data, "bad.grad"))
    assert found.code == "GC0003"
    assert found.span is not None
    assert (found.span.line, found.span.column) == place


def test_utf16_is_named() -> None:
    (found,) = refused(lambda: decode("dim B".encode("utf-16"), "bad.grad"))
    assert found.code == "GC0003"
    assert "UTF-16" in found.message


def test_lone_surrogates_in_a_string_are_refused() -> None:
    (found,) = refused(lambda: from_text("dim B # \ud800"))
    assert found.code == "GC0003"
    (found,) = refused(lambda: from_text("dim B # \udcff"))
    assert found.code == "GC0003"
    assert "0xff" in found.message
    assert found.span is not None
    assert found.span.column == 9


def test_too_large_a_file(tmp_path: Path) -> None:
    path = tmp_path / "large.grad"
    path.write_bytes(b"#" * (limits.MAX_FILE_BYTES + 1))
    (found,) = refused(lambda: read(path))
    assert found.code == "GC0002"
    path.write_bytes(b"#" * limits.MAX_FILE_BYTES)
    assert len(read(path).text) == limits.MAX_FILE_BYTES


def test_unreadable_files(tmp_path: Path) -> None:
    for path in (tmp_path / "none.grad", tmp_path, tmp_path / "a\x00b.grad"):
        (found,) = refused(partial(read, path))
        assert found.code == "GC0001"


# --- imports


def write(root: Path, **texts: str) -> None:
    """Files ``NAME.grad`` below ``root``; ``__`` in a name is a folder."""
    for name, text in texts.items():
        path = root / (name.replace("__", "/") + ".grad")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def imports(root: Path, name: str = "main.grad") -> list[str]:
    """The files of a program by name, in the order they were loaded."""
    programs = load_program(root / name, Report())
    return [str(Path(p.span.file).relative_to(root)) for p in programs]


def test_imports_come_before_what_needs_them_and_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        main='import "a.grad"\nimport "sub/b.grad"\ndim B',
        a='import "common.grad"\ndim A',
        sub__b='import "../common.grad"\nimport "c.grad"\ndim X',
        sub__c="dim C",
        common="dim D",
    )
    expected = ["common.grad", "a.grad", "sub/c.grad", "sub/b.grad", "main.grad"]
    assert imports(tmp_path) == expected


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../outside.grad", "GC0011"),
        ("sub/../../outside.grad", "GC0011"),
        ("/etc/passwd.grad", "GC0011"),
        ("C:/x.grad", "GC0011"),
        ("sub\\\\x.grad", "GC0011"),
        ("link.grad", "GC0011"),
        ("folder/outside.grad", "GC0011"),
        ("none.grad", "GC0010"),
        ("main.txt", "GC0010"),
        ("", "GC0010"),
        ("loop.grad", "GC0010"),
        ("x" * 5000 + ".grad", "GC0010"),
    ],
)
def test_imports_stay_in_the_project(tmp_path: Path, path: str, code: str) -> None:
    project = tmp_path / "project"
    write(tmp_path, outside="dim B", project__main=f'import "{path}"', project__sub__x="dim B")
    (project / "link.grad").symlink_to(tmp_path / "outside.grad")
    (project / "folder").symlink_to(tmp_path)
    (project / "loop.grad").symlink_to(project / "loop.grad")
    (found,) = refused(lambda: load_program(project / "main.grad", Report()))
    assert found.code == code
    assert found.span is not None
    assert found.span.line == 1


def test_circles_are_shown(tmp_path: Path) -> None:
    write(tmp_path, main='import "a.grad"', a='import "b.grad"', b='import "a.grad"')
    (found,) = refused(lambda: load_program(tmp_path / "main.grad", Report()))
    assert found.code == "GC0012"
    assert "a.grad" in found.notes[0]
    write(tmp_path, main='import "main.grad"')
    (found,) = refused(lambda: load_program(tmp_path / "main.grad", Report()))
    assert found.message == "a file imports itself"


def test_depth_and_number_of_imports(tmp_path: Path) -> None:
    chain = {f"f{i}": f'import "f{i + 1}.grad"' for i in range(limits.MAX_IMPORT_DEPTH + 1)}
    write(tmp_path, **chain, **{f"f{limits.MAX_IMPORT_DEPTH + 1}": "dim B"})
    (found,) = refused(lambda: load_program(tmp_path / "f0.grad", Report()))
    assert found.code == "GC0013"
    assert len(imports(tmp_path, "f1.grad")) == limits.MAX_IMPORT_DEPTH + 1
    count = limits.MAX_IMPORTED_FILES
    write(tmp_path, main="".join(f'import "n{i}.grad"\n' for i in range(count)))
    write(tmp_path, **{f"n{i}": "dim B" for i in range(count)})
    assert refused(lambda: load_program(tmp_path / "main.grad", Report()))[0].code == "GC0013"


def test_errors_of_several_files_are_quoted_from_the_right_one(tmp_path: Path) -> None:
    write(tmp_path, main='import "a.grad"\nimport "nothere.grad"', a="dim B C", nowhere="dim B")
    with pytest.raises(DiagnosticError) as caught:
        load_program(tmp_path / "main.grad", Report())
    text = render_all(caught.value.diagnostics, caught.value.sources)
    assert "a.grad:1:7" in text
    assert "dim B C" in text


def test_a_misspelt_import_is_corrected(tmp_path: Path) -> None:
    write(tmp_path, main='import "layer.grad"', layers="dim B")
    (found,) = refused(lambda: load_program(tmp_path / "main.grad", Report()))
    assert found.help == "did you mean `layers.grad`?"


def test_text_without_a_directory_cannot_import(tmp_path: Path) -> None:
    (found,) = refused(lambda: load_text('import "a.grad"', Report()))
    assert found.code == "GC0010"
    write(tmp_path, a="dim B")
    assert len(load_text('import "a.grad"', Report(), directory=tmp_path)) == 2


def test_an_imported_file_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, main='import "a.grad"', a="dim B")
    (tmp_path / "a.grad").write_bytes(b"dim \xff")
    (found,) = refused(lambda: load_program(tmp_path / "main.grad", Report()))
    assert found.code == "GC0003"
    if os.geteuid() != 0:
        (tmp_path / "a.grad").chmod(0)
        (found,) = refused(lambda: load_program(tmp_path / "main.grad", Report()))
        assert found.code == "GC0001"
