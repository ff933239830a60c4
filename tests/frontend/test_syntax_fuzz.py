"""A thousand programs that are almost right: a diagnostic each, in bounded time, and nothing else.
``python -m tests.support.fuzz_programs --count 100000`` tries as many as are asked for.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gradc.frontend.program import loads
from gradc.frontend.syntax.diagnostics import DiagnosticError
from tests.support.fuzz_programs import examine, minimised, mutant, mutate_tree, seeds

COUNT = 1000
BATCH = 100
CORPUS = sorted((Path(__file__).parent.parent / "corpus").glob("*.grad"))


@pytest.mark.parametrize("start", range(0, COUNT, BATCH))
def test_mutants_get_diagnostics_and_nothing_else(start: int) -> None:
    for seed in range(start, start + BATCH):
        data = mutant(seed)
        reason = examine(data)
        assert not reason, f"seed {seed}: {reason}\n{minimised(data).decode(errors='replace')}"


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.name)
def test_what_once_failed_stays_mended(path: Path) -> None:
    assert examine(path.read_bytes()) == ""


def test_the_oracle_sees_the_seeds_as_good() -> None:
    for text in seeds():
        assert examine(text.encode()) == ""


def test_most_mutants_of_trees_get_past_the_parser() -> None:
    """Otherwise the fuzz would say nothing of the checks behind it."""
    found: dict[str, int] = {"syntax": 0, "checks": 0, "accepted": 0}
    for seed in range(2, 302, 3):
        text = mutant(seed, [mutate_tree] * 3).decode()
        try:
            loads(text).check()
            found["accepted"] += 1
        except DiagnosticError as problem:
            late = any(d.code >= "GC0200" for d in problem.diagnostics)
            found["checks" if late else "syntax"] += 1
    assert found["checks"] >= 40, found
    assert found["accepted"] >= 5, found
