"""The architecture, enforced on the source text: who may import whom, what is banned, how long is
long.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("codegen", "frontend", "ir", "passes", "runtime")
FACE = "gradc"
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60

# Folder -> the folders of gradc that it may import.
MAY_IMPORT = {
    "ir": {"ir"},
    "frontend": {"ir", "frontend"},
    "passes": {"ir", "passes"},
    "codegen": {"ir", "codegen"},
    "runtime": {"ir", "frontend", "passes", "codegen", "runtime"},
    FACE: {"ir", "runtime"},
}
# The version belongs to everyone: cache keys and manifests carry it.
FOR_ALL = {"_version"}

# Third party -> the places (path prefixes) that may import it. NumPy may be imported everywhere.
THIRD_PARTY = {
    "lark": ("frontend/",),
    "llvmlite": ("codegen/llvm/", "codegen/cuda/toolchain/", "runtime/"),
    "numba": ("codegen/cuda/toolchain/",),
    "numba_cuda": ("codegen/cuda/toolchain/",),
    "cuda": ("codegen/cuda/toolchain/",),
    "sympy": ("codegen/symbolic/", "passes/prove"),
    "flint": ("codegen/symbolic/", "passes/prove"),
    "rich": ("runtime/",),
    "safetensors": ("runtime/",),
    "mpi4py": ("runtime/",),
    "jax": ("runtime/bench",),
    "torch": ("runtime/bench",),
    "matplotlib": ("runtime/",),
}
# Those that a plain installation lacks.
OPTIONAL = ("jax", "matplotlib", "mpi4py", "numba_cuda", "torch")
# Imports inside functions are for what would make every start slower. These may be imported late
# anywhere.
LATE = {*THIRD_PARTY, "numpy", "difflib"}
# And these modules of our own, by the files that import them late; each with its reason.
LATE_OWN = {
    "gradc/__main__.py": "the command line is the program",
    "ir/diagnostics/diagnostic.py": "rendering is needed only once something is wrong",
    "frontend/program.py": "the checks of a whole file are for `gradc check`",
    "runtime/console.py": "rendering is needed only once something is wrong",
    "codegen/llvm/backend.py": "a warm start needs no code generation",
    "runtime/native/load.py": "a warm start places nothing",
    "runtime/bench/compare.py": "a peer's library is loaded when the peer is named",
    "runtime/model/model.py": "training, plans, diagnosis, verification and the whiteboard load "
    "on use",
    "runtime/model/compiled.py": "profiles load on use",
    "runtime/model/step.py": "plans, profiles and the search for what overflowed load on use",
    "runtime/model/remedies.py": "what would help is asked only where a budget was refused",
    "runtime/native/compile.py": "a warm start runs no pass and loads none",
    "runtime/reports/verify.py": "reports are made where they are asked for",
    "runtime/commands/": "a subcommand's options are parsed before anything heavy loads",
}

# How many statements there are in all: a new one takes the place of one that is no longer needed.
MOST_LATE = 53

# SymPy comes with these, so whoever needs them loads them on use.
# The page of a whiteboard is made of whiteboards: it is loaded by the one that is to be shown.
LATE_HEAVY = ("gradc.codegen.symbolic", "gradc.runtime.reports.whiteboard_html")

# Files that make functions of text, each with its reason: the text is gradc's own, never a file's.
RUNS_TEXT = {"codegen/cuda/toolchain/numba_texts.py": "Numba compiles functions, not texts"}

Import = tuple[str, int, bool]  # module, line, whether it stands inside a function


def library_files() -> list[Path]:
    """Every Python file of the package, by its real folder (not through the links in gradc/)."""
    found = sorted((ROOT / FACE).glob("*.py"))
    for folder in FOLDERS:
        found += sorted((ROOT / folder).rglob("*.py"))
    return found


def all_files() -> list[Path]:
    """The library, its tests, examples and benchmarks."""
    found = library_files()
    for folder in ("tests", "examples", "benchmarks"):
        found += sorted((ROOT / folder).rglob("*.py"))
    return found


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def imported(path: Path) -> tuple[Import, ...]:
    """``imports`` of a file, read once."""
    return tuple(imports(parse(path)))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST, inside: bool = False) -> Iterator[Import]:
    """Every import of a syntax tree, with whether it runs only when a function is called."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):
            continue  # no statement is in one
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, inside
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno, inside
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from imports(node, inside or is_function)


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement of a syntax tree, with what holds statements."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        left += [n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.expr)]


def layer_faults(name: str, found: Iterable[Import]) -> list[str]:
    """What a file imports against the layering; `name` is its path from the root."""
    layer = name.split("/")[0]
    allowed = MAY_IMPORT[layer] | FOR_ALL
    faults = []
    for module, line, _ in found:
        parts = module.split(".")
        if parts[0] in {*FOLDERS, ""}:
            faults.append(f"{name}:{line}: {module}: import gradc.* by its full name")
        elif parts[0] == "gradc" and len(parts) > 1 and parts[1] not in allowed:
            faults.append(f"{name}:{line}: {layer} may not import {module}")
        elif parts[0] in THIRD_PARTY and not name.startswith(THIRD_PARTY[parts[0]]):
            faults.append(f"{name}:{line}: {parts[0]} may not be imported here")
        elif layer == "ir" and parts[0] not in {*sys.stdlib_module_names, "numpy", "gradc"}:
            faults.append(f"{name}:{line}: ir imports only the standard library and NumPy")
    return faults


def backend_faults(name: str, found: Iterable[Import]) -> list[str]:
    """Imports of one backend's insides from outside ``codegen``: others know the interface."""
    if name.startswith("codegen/"):
        return []
    inside = ("gradc.codegen.llvm", "gradc.codegen.loops_numpy", "gradc.codegen.cuda")
    return [f"{name}:{line}: {m} (use backend)" for m, line, _ in found if m.startswith(inside)]


def late_faults(name: str, found: Iterable[Import]) -> list[str]:
    """Imports inside functions that no entry of LATE or LATE_OWN excuses."""
    excused = name.startswith(tuple(LATE_OWN))
    return [
        f"{name}:{line}: {module} is imported inside a function"
        for module, line, inside in found
        if inside
        and module.split(".")[0] not in LATE
        and not module.startswith(LATE_HEAVY)
        and not (excused and module.split(".")[0] == "gradc")
    ]


def test_layers_import_downwards_only() -> None:
    faults = [f for p in library_files() for f in layer_faults(place(p), imported(p))]
    assert not faults, "\n".join(faults)


def test_backends_are_known_by_their_interface() -> None:
    faults = [f for p in library_files() for f in backend_faults(place(p), imported(p))]
    assert not faults, "\n".join(faults)


def test_imports_inside_functions_are_only_the_heavy_ones() -> None:
    faults = [f for p in library_files() for f in late_faults(place(p), imported(p))]
    assert not faults, "\n".join(faults)


def test_imports_inside_functions_grow_no_more() -> None:
    """Each file that has them has a reason above; no reason is left over."""
    found = [
        place(p) for p in library_files() for m, _, i in imported(p) if i and m.startswith("gradc")
    ]
    assert len(found) <= MOST_LATE
    assert not [name for name in LATE_OWN if not any(f.startswith(name) for f in found)]


@pytest.mark.parametrize(
    ("name", "text", "faults"),
    [
        ("ir/x.py", "from gradc.passes import y", 1),
        ("ir/x.py", "import requests", 1),
        ("ir/x.py", "import numpy as np\nfrom gradc.ir.tensor.core import Op\nimport math", 0),
        ("passes/x.py", "from gradc.frontend.tree import Node", 1),
        ("codegen/x.py", "def f():\n    import gradc.runtime.api", 1),
        ("frontend/x.py", "import lark", 0),
        ("passes/x.py", "import lark", 1),
        ("passes/prove/rules/rules.py", "import sympy", 0),
        ("runtime/x.py", "import ir.core", 1),
        ("runtime/x.py", "from .api import load", 1),
        ("runtime/x.py", "import gradc.passes.place.place, gradc._version", 0),
    ],
)
def test_planted_imports_are_judged(name: str, text: str, faults: int) -> None:
    """The checker itself: what it must refuse and what it must let pass."""
    assert len(layer_faults(name, imports(ast.parse(text)))) == faults


def test_planted_late_imports_are_judged() -> None:
    text = (
        "import json\ndef f():\n    import numpy\n"
        "    import json\n    import gradc.ir.tensor.core\n"
        ""
    )
    assert len(late_faults("passes/x.py", imports(ast.parse(text)))) == 2
    assert len(late_faults("runtime/bench/compare.py", imports(ast.parse(text)))) == 1


def test_files_are_short() -> None:
    long = {
        place(p): n for p in all_files() if (n := len(p.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert not long


def test_functions_are_short_and_files_say_what_they_are_for() -> None:
    long, silent = [], []
    for path in all_files():
        tree = parse(path)
        if ast.get_docstring(tree) is None:
            silent.append(place(path))
        for node in statements(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{place(path)}:{node.lineno}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)
    assert not silent


def banned(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and reason of every construct that the library must not contain."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in {"eval", "exec", "compile"}:
                yield node.lineno, f"{node.func.id}() runs text"
            if node.func.id == "hash":
                yield node.lineno, "hash() of a string differs from run to run"
        elif isinstance(node, ast.Raise):
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(raised, ast.Name) and raised.id == "NotImplementedError":
                yield node.lineno, "NotImplementedError: nothing is left for later"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            for name in names:
                if name is not None and name.split(".")[0] in {
                    "pickle",
                    "marshal",
                    "shelve",
                    "dill",
                }:
                    yield node.lineno, f"{name}: loading such data runs it"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "a bare except hides faults"


def test_library_has_nothing_banned() -> None:
    found = [
        f"{place(p)}:{n}: {why}"
        for p in library_files()
        for n, why in banned(parse(p))
        if why != "compile() runs text" or place(p) not in RUNS_TEXT
    ]
    assert not found, "\n".join(found)


def test_planted_bans_are_found() -> None:
    text = "import pickle\ntry:\n    eval('1')\nexcept:\n    raise NotImplementedError\nhash('a')\n"
    assert sorted(line for line, _ in banned(ast.parse(text))) == [1, 3, 4, 5, 6]


def test_folders_do_not_become_top_level_modules() -> None:
    """Importing gradc through and through leaves no module called `ir`, `frontend`, ... behind."""
    modules = [
        place(p)[:-3].replace("/", ".") for p in library_files() if not p.name.startswith("__")
    ]
    wanted = [m if m.startswith("gradc.") else f"gradc.{m}" for m in modules]
    script = (
        "import importlib, sys\n"
        f"for name in {wanted!r}:\n"
        "    try: importlib.import_module(name)\n"
        "    except ModuleNotFoundError as missing:\n"
        f"        if missing.name not in {OPTIONAL!r}: raise\n"
        f"print(sorted(set({FOLDERS!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
