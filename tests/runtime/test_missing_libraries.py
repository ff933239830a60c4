"""A library that gradc needs and that is not there, or cannot be loaded: one message that says
which, and the command that installs it; in child processes whose import of it fails.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from gradc.runtime.needs import PACKAGES

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = """
model net(x: float[2, 3]) -> float {
    use fc = dense(3, 4)
    return mean(tanh(fc(x)))
}
"""
# Hides modules from the import system, or makes their loading fail.
HIDE = """
import sys
class Hidden:
    def __init__(self, names, reason):
        self.names, self.reason = names, reason
    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            kind = ImportError if self.reason else ModuleNotFoundError
            raise kind(self.reason or f"No module named {name!r}", name=name)
hidden = Hidden(HIDDEN, REASON)
sys.meta_path.insert(0, hidden)
"""
COMMAND = "from gradc.runtime.cli import main\nraise SystemExit(main(ARGUMENTS))\n"


def child(
    hidden: tuple[str, ...], body: str, cwd: Path, reason: str = "", **names: object
) -> subprocess.CompletedProcess[str]:
    head = HIDE.replace("HIDDEN", repr(hidden)).replace("REASON", repr(reason))
    for name, value in names.items():
        body = body.replace(name, repr(value))
    script = head + body
    return subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "net.grad").write_text(PROGRAM)
    np.savez(tmp_path / "data.npz", x=np.ones((2, 3), np.float32))
    return tmp_path


@pytest.mark.parametrize(
    "module, arguments",
    [
        ("lark", ["check", "net.grad"]),
        ("numpy", ["grad", "net.grad", "--data", "data.npz"]),
        ("llvmlite", ["grad", "net.grad", "--data", "data.npz"]),
        ("sympy", ["verify", "net.grad"]),
        ("rich", ["train", "net.grad", "--data", "data.npz", "--out", "run"]),
    ],
)
def test_a_missing_library_is_named(place: Path, module: str, arguments: list[str]) -> None:
    done = child((module,), COMMAND, place, ARGUMENTS=arguments)
    assert done.returncode == 1, done
    assert done.stderr.count("\n") <= 5 and "internal error" not in done.stderr, done.stderr
    assert f"error[GC0582]: gradc needs the Python module `{module}`, which is not" in done.stderr
    assert f"{sys.executable} -m pip install -U {PACKAGES[module]}`" in done.stderr


def test_all_that_is_missing_is_named_at_once(place: Path) -> None:
    done = child(("numpy", "sympy", "lark"), COMMAND, place, ARGUMENTS=["check", "net.grad"])
    assert done.returncode == 1, done
    assert "modules `lark` and `numpy` and `sympy`, which are not installed" in done.stderr
    assert "pip install -U lark numpy sympy" in done.stderr


def test_a_library_that_does_not_load_is_named(place: Path) -> None:
    done = child(("lark",), COMMAND, place, "no symbol", ARGUMENTS=["check", "net.grad"])
    assert done.returncode == 1, done
    assert "`lark`, which gradc needs, cannot be loaded: no symbol" in done.stderr


@pytest.mark.parametrize(
    "module, body",
    [
        ("lark", "gradc.loads('model f(x: float) -> float { return x }')"),
        ("numpy", "gradc.Model"),
        ("llvmlite", "import numpy; gradc.grad(lambda x: x * x)(2.0)"),
    ],
)
def test_the_library_says_it_too(place: Path, module: str, body: str) -> None:
    told = "import gradc\ntry:\n    BODY\nexcept ImportError as problem:\n    print(problem)\n"
    done = child((module,), told.replace("BODY", body), place)
    assert done.returncode == 0, done
    assert f"gradc needs the Python module `{module}`" in done.stdout, done
    assert f"pip install -U {PACKAGES[module]}" in done.stdout


def test_what_is_no_library_of_gradc_is_not_explained(place: Path) -> None:
    body = "from gradc.runtime.needs import missing\nprint(missing(ImportError('x', name='foo')))"
    assert child((), body, place).stdout == "None\n"


def test_the_table_lists_what_the_package_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [line.split(">")[0] for line in project["dependencies"]]
    assert sorted(PACKAGES.values()) == sorted(declared)
