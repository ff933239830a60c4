"""README does what it says: its commands exist, its Python runs, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gradc.runtime.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")])


def test_the_commands_named_are_the_commands_there_are() -> None:
    named = set(re.findall(r"`gradc ([a-z]+)", README))
    assert named == {name for name, _ in COMMANDS}


def test_the_marked_blocks_are_there() -> None:
    """`.ci/run` runs exactly these."""
    for mark in ("train", "tests"):
        assert re.search(rf"<!-- ci:{mark} -->\n```\npython3 -m venv .venv && ", README)


def test_the_python_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_program_shown_is_the_example() -> None:
    """But for comments and the parentheses around them, README shows examples/digits/mlp.grad."""
    shown = re.findall(r"```\n(dim .*?)```", README, re.DOTALL)[0]
    real = (ROOT / "examples" / "digits" / "mlp.grad").read_text()
    bare = [re.sub(r"\s*#.*", "", text).split() for text in (shown, real)]
    assert [line for line in bare[0] if line] == [line for line in bare[1] if line]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose)
    missing = [t for t in targets if not (page.parent / t).exists()]
    assert not missing
