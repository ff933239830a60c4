"""The page on memory: every command and every line of Python on it runs and prints what is shown;
pictures exist.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.docs.test_docs_usage import BLOCK, run_console, run_python
from tests.support.command_line import gradc

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "memory.md"


def test_everything_on_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("text/gpt.grad", "digits/mlp.grad"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    kinds = []
    for kind, block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        kinds.append(kind)
        if kind == "console":
            run_console(block)
        else:
            run_python(block, names, PAGE.name)
    assert kinds.count("console") >= 5 and kinds.count("python") >= 2


def test_every_flag_of_plan_is_on_the_page() -> None:
    flags = set(re.findall(r"--[a-z][a-z-]+", gradc("plan", "--help").out))
    general = {"--help", "--color", "--error-format", "--entry", "--no-cache", "--precision"}
    general |= {"--threads"}
    text = PAGE.read_text(encoding="utf-8")
    assert [flag for flag in sorted(flags - general) if flag not in text] == []


def test_links_and_pictures_are_there() -> None:
    """Files that the page names exist; its pictures are SVG for light and dark pages."""
    text = PAGE.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert len(targets) > 10
    for target in targets:
        base = ROOT if target.startswith("tests/") else PAGE.parent
        assert (base / target).exists(), target
    for picture in re.findall(r"!\[[^]]+\]\(([^)]+\.svg)\)", text):
        path = PAGE.parent / picture
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert "prefers-color-scheme:dark" in path.read_text(encoding="utf-8")
