"""The corpus of sick and healthy trainings: whole, and a slice of it trained.

All of it is trained by `python -m tests.support.doctor sickness`.
"""

from pathlib import Path

import pytest

from tests.support.doctor import SICK, WELL, sickness
from tests.support.doctor_cases import FOLDER, cases
from tests.support.doctor_page import section, shown

SLICE = ("unscaled-column", "softmax-twice", "zero-start", "no-eps", "tight-clip")


def test_every_program_is_used_and_every_kind_has_a_reference() -> None:
    sick = {n: c for t in SICK for n, c in cases(t).items()}
    healthy = {n: c for t in WELL for n, c in cases(t).items()}
    used = {c.program for c in (*sick.values(), *healthy.values())}
    used |= {c.repaired.program for c in sick.values()}
    assert used == {path.stem for path in (FOLDER / "programs").glob("*.grad")}
    assert len({c.kind for c in sick.values()}) == len(sick) >= 108
    assert len(healthy) >= 56
    for case in (*sick.values(), *healthy.values()):
        assert case.source.startswith("http") and case.text()
    assert all(c.well and c.cause for c in sick.values())


def test_every_finding_of_the_page_names_trainings_that_show_it() -> None:
    """Their causes are among the kinds of the row, and every kind of the row has one."""
    page = (FOLDER.parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    rows = page.split("| trainings that show it |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    known = {n: c for t in SICK for n, c in cases(t).items()}
    assert len(rows) == 12
    for row in rows:
        kinds, _, names = (cell.strip() for cell in row.strip("| ").split(" | "))
        told = set(kinds.replace("`", "").replace(" ... ", ", ").split(", "))
        shown = set()
        for name in names.split(", "):
            causes = {cause.partition(":")[0] for cause in known[name].cause}
            assert causes & told or all(c.startswith("GC02") for c in causes), (name, causes)
            shown |= causes
        assert told <= shown or kinds.startswith("`GC02"), told - shown


@pytest.mark.parametrize("name", SLICE)
def test_a_sick_training_does_badly_and_its_repair_well(name: str) -> None:
    row = sickness(cases("sick")[name], seeds=(0,))
    assert row["is_right"], row


def test_the_page_of_findings_is_whole(tmp_path: Path) -> None:
    """A section for every finding, in which it is printed first; one of them printed again."""
    text = (FOLDER.parents[1] / "docs" / "findings.md").read_text(encoding="utf-8")
    parts = {one.split("\n", 1)[0]: one for one in text.split("\n## ")[1:]}
    assert list(parts) == list(shown())
    for kind, name in shown().items():
        assert f"`{name}`" in parts[kind] and f"\n1. {kind}:" in parts[kind], kind
    again = "## " + section("uphill", cases("sick")["uphill"], tmp_path).split("## ", 1)[1]
    assert again.split("\n1. ")[1].strip() == parts["uphill"].split("\n1. ")[1].strip()
