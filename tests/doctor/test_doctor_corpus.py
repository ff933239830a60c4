"""The corpus of sick and healthy trainings: whole, and a slice of it trained.

All of it is trained by `python -m tests.support.doctor sickness`.
"""

import pytest

from tests.support.doctor import sickness
from tests.support.doctor_cases import FOLDER, cases

SLICE = ("unscaled-column", "softmax-twice", "zero-start", "no-eps", "tight-clip")


def test_every_program_is_used_and_every_kind_has_a_reference() -> None:
    sick, healthy = {**cases("sick"), **cases("sick_more")}, cases("healthy")
    used = {c.program for c in (*sick.values(), *healthy.values())}
    used |= {c.repaired.program for c in sick.values()}
    assert used == {path.stem for path in (FOLDER / "programs").glob("*.grad")}
    assert len({c.kind for c in sick.values()}) == len(sick) >= 80
    for case in (*sick.values(), *healthy.values()):
        assert case.source.startswith("http") and case.text()
    assert all(c.well and c.cause for c in sick.values())


@pytest.mark.parametrize("name", SLICE)
def test_a_sick_training_does_badly_and_its_repair_well(name: str) -> None:
    row = sickness(cases("sick")[name], seeds=(0,))
    assert row["is_right"], row
