"""What ``gradc plan`` says: gaps, refusals, tables and pictures that a person can use."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.chart import Mark, Series, scatter
from gradc.passes.budget import EXPLAINED
from gradc.runtime.reports.memory import Choice
from gradc.runtime.reports.memory_chart import choices_svg, work_ticks
from tests.support.command_line import Done, gradc
from tests.support.memory_subjects import EXAMPLES, ROOT

DIMS = ("B=2", "T=16", "D=32", "N=2", "L=2")
GPT = (ROOT / "examples" / "text" / "gpt.grad", *(flag for dim in DIMS for flag in ("-D", dim)))
Box = tuple[float, float, float, float]
SPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def front() -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads(gradc("plan", *GPT, "--pareto", "--json").out)[
        "choices"
    ]
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, str]:
    """What ``--pareto`` prints, and its picture."""
    file = tmp_path_factory.mktemp("table") / "picture.svg"
    done = gradc("plan", *GPT, "--pareto", "--svg", file)
    assert done.status == 0
    return done, file.read_text()


@pytest.fixture(scope="module")
def refusal() -> Done:
    """A budget of one byte."""
    return refused(1)


def refused(budget: int) -> Done:
    done = gradc("plan", *GPT, "--budget", budget)
    assert done.status == 1 and "error[GC0602]" in done.err
    return done


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_packing_loses_at_most_a_twentieth(path: Path) -> None:
    done = gradc("plan", path, "-D", "B=4") if "dim B" in path.read_text() else gradc("plan", path)
    if done.status:
        assert "worked" in path.parts, done.err
        return
    (gap,) = re.findall(r"lower bound .* \(gap ([0-9.]+)%\)", done.out)
    assert float(gap) <= 5.0


def test_gaps_of_work_are_small_or_explained(
    front: list[dict[str, float]], table: tuple[Done, str]
) -> None:
    """Every budget of the table: a gap of more than 5 % comes with its reason, a smaller one
    without.
    """
    seen = set()
    for choice in (front[1], front[-1]):
        said = gradc("plan", *GPT, "--budget", int(choice["peak_bytes"])).out
        (gap,) = re.findall(r"recomputation: work ([0-9.]+)% above a bound", said)
        assert (EXPLAINED in said) == (float(gap) > 5.0)
        seen.add(EXPLAINED in said)
    assert (EXPLAINED in table[0].err) == any(c["gap"] > 0.05 for c in front)
    assert True in seen, "the most frugal choice is far above the bound"


def test_a_refusal_names_a_budget_that_is_kept(
    front: list[dict[str, float]], refusal: Done
) -> None:
    """The number after `allow` is feasible, one byte less is not; it is the end of the table."""
    smallest = int(re.findall(r"allow (\d+) bytes", refusal.err)[0])
    assert smallest == front[-1]["peak_bytes"]
    kept = gradc("plan", *GPT, "--budget", smallest, "--check")
    assert kept.status == 0 and f"peak {smallest} bytes" in kept.out and "no fault" in kept.out
    again = refused(smallest - 1)
    assert f"allow {smallest} bytes" in again.err


def test_a_refusal_quotes_the_lines_that_bind(refusal: Done) -> None:
    """Groups of tensors with sizes and types, each under its line of the model; all fit the arena
    together.
    """
    smallest = int(re.findall(r"allow (\d+) bytes", refusal.err)[0])
    arena = json.loads(gradc("plan", *GPT, "--budget", smallest, "--json").out)["arena_bytes"]
    quoted = re.findall(r"^ *(\d+) \| (.*)\n +\| +[-^]+ (.*)$", refusal.err, re.MULTILINE)
    lines = GPT[0].read_text().splitlines() if isinstance(GPT[0], Path) else []
    assert 1 <= len(quoted) <= 3
    together = 0.0
    for number, text, about in quoted:
        assert lines[int(number) - 1].rstrip() == text.rstrip()
        found = re.fullmatch(r"(?:(\d+) times )?([0-9.]+) (bytes|KiB|MiB): f32\[[0-9, ]+\]", about)
        assert found, about
        unit = {"bytes": 1, "KiB": 2**10, "MiB": 2**20}[found[3]]
        together += int(found[1] or 1) * float(found[2]) * unit
    assert 0.2 * arena < together <= arena


def test_the_table_is_the_json(front: list[dict[str, float]], table: tuple[Done, str]) -> None:
    title, head, *rows = table[0].out.splitlines()
    assert title.startswith("gpt") and head.split()[0] == "peak"
    cells = [re.split(r"  +", row) for row in rows]
    assert [int(c[1]) for c in cells] == [c["peak_bytes"] for c in front]
    np.testing.assert_allclose([float(c[3]) for c in cells], [c["work"] for c in front], atol=6e-4)
    assert [c[-1].strip() for c in cells] == [c["policy"] for c in front]
    peaks = [c["peak_bytes"] for c in front]
    works = [c["work"] for c in front]
    assert len(front) > 3 and peaks == sorted(peaks, reverse=True) and works == sorted(works)
    assert works[0] == 1.0


# ---- pictures


def texts(svg: str) -> list[tuple[str, Box]]:
    """All texts with the boxes that they fill, roughly: 6 units per letter, anchored as they
    say.
    """
    found = []
    for node in ElementTree.fromstring(svg).iter(f"{SPACE}text"):
        size = {"name": 5.2, "small": 5.4, "title": 8.2}.get(node.get("class", ""), 5.9)
        content = node.text or ""
        wide, x, y = size * len(content), float(node.get("x", 0)), float(node.get("y", 0))
        left = {"m": x - wide / 2, "e": x - wide}.get(node.get("class", ""), x)
        found.append((content, (left, y - 9, left + wide, y + 2)))
    return found


def overlapping(svg: str) -> list[tuple[str, str]]:
    """Pairs of texts that lie over each other."""
    return [
        (one, other)
        for (one, a), (other, b) in combinations(texts(svg), 2)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


def is_readable(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    width, height = map(float, root.get("viewBox", "").split()[2:])
    assert overlapping(svg) == []
    for content, (left, top, right, foot) in texts(svg):
        assert left >= 0 and top >= 0 and right <= width and foot <= height, content
    assert "prefers-color-scheme:dark" in svg and ".page{fill:#0d1117}" in svg


def test_pictures_are_readable(table: tuple[Done, str], tmp_path: Path) -> None:
    """No text over another, none outside, two colour schemes; marks of bytes are round."""
    done = gradc("plan", *GPT, "--svg", tmp_path / "picture.svg")
    assert done.status == 0
    for svg in ((tmp_path / "picture.svg").read_text(), table[1]):
        is_readable(svg)
        marks = [t for t, _ in texts(svg) if re.fullmatch(r"[0-9.]+ (B|KiB|MiB)", t)]
        assert "0 B" in marks and len(marks) >= 4


def test_crowded_fronts_stay_readable() -> None:
    """Forty points, many next to each other; one point alone."""
    rng = np.random.default_rng(7)
    for count in (1, 40):
        peaks = sorted((int(p) for p in rng.integers(10**6, 10**8, count)), reverse=True)
        works = np.sort(1 + rng.random(count) ** 3)
        made = [
            Choice(f"choice {n}", p, p // 2, float(w), 0.0)
            for n, (p, w) in enumerate(zip(peaks, works, strict=True))
        ]
        svg = choices_svg(made, "many: work against memory")
        is_readable(svg)
        assert svg.count("<circle") == count


def test_marks_of_work_are_few_and_reach_the_top() -> None:
    for most in (1.0, 1.004, 1.1, 1.27, 1.999, 2.0, 3.7, 12.0):
        marks = work_ticks(most)
        assert marks[0] == 1.0 and 2 <= len(marks) <= 8
        assert marks[-1] >= most - 1e-9


def test_scatters_place_names_apart() -> None:
    """Points of three systems on a heap: names that find no room are left out, none lies over
    another.
    """
    rng = np.random.default_rng(3)
    series = [
        Series(
            name,
            [
                Mark(float(x), float(y), f"{name} way {n}", "about")
                for n, (x, y) in enumerate(rng.uniform((50, 100), (90, 140), (12, 2)))
            ],
            is_front=name == "gradc",
        )
        for name in ("gradc", "torch", "jax")
    ]
    svg = scatter("Time against memory", "MiB", "step, ms", series)
    is_readable(svg)
    assert svg.count("<circle") == 36 + 3
    assert 3 <= svg.count('class="small"') < 36
