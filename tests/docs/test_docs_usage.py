"""The pages on usage and training: every command and every line of Python on them runs and prints
what is shown.
"""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import gradc as gradc_api
from gradc.runtime.cli import COMMANDS
from tests.support.command_line import gradc

ROOT = Path(__file__).resolve().parent.parent.parent
# Pages, and how many blocks at least are found there.
PAGES = {"usage.md": 5, "training.md": 5, "functions.md": 2, "performance.md": 2, "scale.md": 3}
BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Where every page starts: the programs and data of examples/digits in the current folder.
START = ("mlp.grad", "cnn.grad", "digits_train.npz", "digits_valid.npz")


def commands_of(block: str) -> list[tuple[str, str]]:
    """Commands and what they print; a command goes on over lines that end in a backslash."""
    found: list[tuple[str, str]] = []
    joined = block.replace("\\\n", " ")
    for line in joined.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            command, shown = found[-1]
            found[-1] = (command, f"{shown}{line}\n")
    return found


def run_console(block: str) -> None:
    """Runs the commands of a block; a status that is not 0 is shown in brackets."""
    checker = doctest.OutputChecker()
    for command, shown in commands_of(block):
        program, *arguments = shlex.split(command, comments=True)
        assert program == "gradc", command
        done = gradc(*arguments, together=True)
        got = done.out + (f"[status {done.status}]\n" if done.status else "")
        assert checker.check_output(shown, got, FLAGS), f"$ {command}\n{got}\nis not\n{shown}"


def run_python(block: str, names: dict[str, Any], page: str) -> None:
    """Runs a block as a doctest in ``names``."""
    test = doctest.DocTestParser().get_doctest(block, names, page, page, 0)
    assert test.examples, f"a block of {page} without >>>"
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    failed, _ = runner.run(test, out=said.append, clear_globs=False)
    names.update(test.globs)
    assert not failed, "".join(said)


# What a page shows that is not one of gradc's own libraries.
NEEDS = {"functions.md": "scipy"}


@pytest.mark.parametrize("page", PAGES)
def test_everything_on_the_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    for name in START:
        shutil.copy(ROOT / "examples" / "digits" / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    blocks = BLOCK.findall(text)
    assert len(blocks) >= PAGES[page]
    for kind, block in blocks:
        if kind == "console":
            run_console(block)
        else:
            run_python(block, names, page)


def test_every_command_and_public_name_is_on_the_page() -> None:
    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    assert [name for name, _ in COMMANDS if f"gradc {name}" not in text] == []
    names = [n for n in gradc_api.__all__ if n not in ("__version__", "Diagnostic")]
    assert [name for name in names if name not in text] == []


def test_every_flag_of_training_is_on_its_page() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    flags = set(re.findall(r"--[a-z][a-z-]+", gradc("train", "--help").out))
    general = {"--help", "--color", "--error-format", "--entry", "--no-cache"}
    assert [flag for flag in sorted(flags - general) if flag not in text] == []


def test_every_optimiser_and_schedule_is_on_the_page() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for kind, file in (("optimizer", "optimizers"), ("schedule", "schedules")):
        library = (ROOT / "frontend" / "stdlib" / f"{file}.grad").read_text(encoding="utf-8")
        declared = re.findall(rf"^{kind} (\w+)\(([^)]*)\)", library, re.MULTILINE)
        assert declared
        for name, arguments in declared:
            assert f"`{name}({arguments})`" in text, name
