"""The rooms of each folder, from the ground up: a room imports only rooms before it, so there are
no circles.

docs/architecture.md shows the same rooms; one test here holds it to this list.
"""

import ast
import re
from pathlib import Path

import pytest

from tests.test_layers import ROOT, imports, library_files, parse, place

# Folder -> its rooms, lowest first: a package, or a module (.py) that stands beside the packages.
ROOMS = {
    "ir": ("tensor", "diagnostics", "target", "loop", "plan", "special", "ops", "domains"),
    "frontend": (
        "syntax",
        "codes",
        "elaborate",
        "words",
        "model",
        "format",
        "project.py",
        "keep.py",
        "program.py",
    ),
    "passes": (
        "rewrite.py",
        "simplify",
        "differentiate",
        "hoist",
        "lower",
        "fuse",
        "recompute",
        "training",
        "place",
        "inspect",
        "pipeline.py",
        "budget.py",
        "hazards",
        "prove",
    ),
    "passes/prove": (
        "domains",
        "report.py",
        "rules",
        "index",
        "rule_verdicts.py",
        "rule_table.py",
        "programs",
        "prove.py",
    ),
    "codegen": (
        "exchange.py",
        "measured.py",
        "estimated.py",
        "texts.py",
        "backend.py",
        "maths",
        "llvm",
        "loops_numpy",
        "cuda",
        "symbolic",
        "special_fit.py",
    ),
    "codegen/cuda": (
        "verbs.py",
        "functions.py",
        "program.py",
        "grammar.py",
        "simulate",
        "printer",
        "toolchain",
        "lockstep.py",
        "estimate.py",
        "header.py",
        "runner",
        "backend.py",
    ),
    "codegen/cuda/runner": (
        "driver.py",
        "device.py",
        "dlpack.py",
        "arrays.py",
        "executable.py",
        "placed.py",
        "loaded.py",
        "clock.py",
    ),
    "codegen/cuda/toolchain": (
        "needs.py",
        "instructions.py",
        "numba_verbs.py",
        "assemble.py",
        "numba_texts.py",
        "sass.py",
        "build.py",
    ),
    "codegen/llvm": (
        "text.py",
        "cpuinfo.py",
        "amx.py",
        "isa.py",
        "bodies.py",
        "static.py",
        "pool.py",
        "clock.py",
        "maths",
        "gemm",
        "nest",
        "abreast.py",
        "parting.py",
        "driver.py",
        "host",
        "backend.py",
    ),
    "codegen/symbolic": ("formulas", "sympy"),
    "runtime": (
        "codes.py",
        "needs.py",
        "console.py",
        "native",
        "ranks",
        "files",
        "render",
        "model",
        "reports",
        "training",
        "doctor",
        "tracing",
        "bench",
        "api.py",
        "cli.py",
        "commands",
    ),
}
# Imports that run only when a method is called, against the order: a Model's methods are the way to
# every report.
FACES = ("runtime/model/", "runtime/cli.py", "runtime/console.py")


def room_of(parts: tuple[str, ...]) -> tuple[str, str] | None:
    """The innermost listed folder and room that a path (without suffix) lies in; None for the
    folders' own files.
    """
    for depth in range(len(parts) - 1, 0, -1):
        folder = "/".join(parts[:depth])
        if folder in ROOMS:
            rooms = ROOMS[folder]
            name = parts[depth]
            return (folder, name if name in rooms else f"{name}.py")
    return None


def path_of(module: str) -> tuple[str, ...]:
    return tuple(module.split(".")[1:])


def upward(name: str, tree: ast.Module) -> list[str]:
    """Imports of a file from rooms that stand above its own in the same folder."""
    own = tuple(name.removesuffix(".py").split("/"))
    faults = []
    for module, line, inside in imports(tree):
        if not module.startswith("gradc.") or (inside and name.startswith(FACES)):
            continue
        for depth in range(1, len(own)):
            folder, theirs = "/".join(own[:depth]), path_of(module)
            if folder not in ROOMS or theirs[:depth] != own[:depth] or len(theirs) <= depth:
                continue
            order = [r.removesuffix(".py") for r in ROOMS[folder]]
            if order.index(theirs[depth]) > order.index(own[depth]):
                faults.append(f"{name}:{line}: {folder}: {own[depth]} imports {theirs[depth]}")
    return faults


def typing_only(tree: ast.Module) -> ast.Module:
    """The tree without what only a type checker reads: it makes no circle when the program runs."""
    body = [
        n
        for n in tree.body
        if not (isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING"))
    ]
    return ast.Module(body, [])


def test_rooms_import_downwards_only() -> None:
    files = [p for p in library_files() if p.name != "__init__.py" and place(p)[0] != "g"]
    faults = [f for p in files for f in upward(place(p), typing_only(parse(p)))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("folder", ROOMS)
def test_every_room_is_listed(folder: str) -> None:
    found = {
        p.name
        for p in (ROOT / folder).iterdir()
        if (p / "__init__.py").is_file() or (p.suffix == ".py" and p.name != "__init__.py")
    }
    assert found - {"stdlib"} == set(ROOMS[folder])


def test_the_page_shows_the_rooms_in_their_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder in ("ir", "frontend", "passes", "runtime"):
        table = page.split(f"| `{folder}/` |")[1].split("\n\n")[0]
        for room in ROOMS[folder]:
            if (ROOT / folder / room).is_dir():
                assert f"`{room}`" in table or f"`{room}/`" in table, (folder, room)


def test_the_picture_names_rooms_that_there_are() -> None:
    picture = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    shown = set(re.findall(r"\b(?:ir|frontend|passes|codegen|runtime)(?:/\w+)+", picture))
    assert len(shown) >= 6
    assert not [place for place in shown if not (ROOT / place).is_dir()]
    rooms = {room for folder in ROOMS for room in ROOMS[folder]}
    for steps in re.findall(r">((?:simplify|differentiate|fuse|hoist|cse)[\w, ]*)<", picture):
        names = {name.strip() for name in steps.split(",") if name.strip()}
        assert names <= rooms | {p.stem for p in (ROOT / "passes").rglob("*.py")}, steps


def test_planted_imports_are_judged() -> None:
    low = ast.parse("from gradc.passes.pipeline import run")
    assert upward("passes/simplify/cse.py", low)
    assert not upward("passes/prove/prove.py", low)
    deep = ast.parse("import gradc.passes.prove.programs.kernels")
    assert upward("passes/prove/rules/refute.py", deep)


def test_only_known_files_are_faces() -> None:
    assert [f for f in FACES if not Path(ROOT / f).exists()] == []
