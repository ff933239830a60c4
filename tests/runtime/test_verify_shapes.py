"""Dimensions in `gradc verify`: those that others define keep their definitions, free ones are
tried at two sizes.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gradc.passes.prove.report import Status
from gradc.runtime.api import loads
from gradc.runtime.cli import main

DERIVED = """dim B, N = 2, P = 4, D = N * P, K = 2 * B
model m(x: float[B, D], z: float[K]) -> float { param w: float[D] ~ ones
  return sum(tanh(reshape(x * w, [B, N, P]))) + sum(z) }
"""
MEAN = """fn avg(x: float[B, D]) -> float[D] {{ return mean(x, axis = 0)
  pullback(ct) {{ return zeros([B, D]) + ct / {count} }} }}
model m(x: float[B, 4]) -> float {{ param w: float[4] ~ normal(1)
  return sum(avg(x * w)^2) }}
"""


@pytest.mark.parametrize(
    "flags", [[], ["-D", "B=20"], ["-D", "N=3"], ["-D", "B=600", "-D", "P=64"]]
)
def test_derived_dimensions_keep_their_definitions(flags: list[str], tmp_path: Path) -> None:
    path, certificate = tmp_path / "d.grad", str(tmp_path / "c.json")
    path.write_text(DERIVED)
    assert main(["verify", str(path), *flags, "--json", certificate]) == 0
    assert main(["verify", str(path), "--replay", certificate]) == 0


def test_derived_dimensions_follow_what_is_chosen() -> None:
    report = loads(DERIVED).verify(sympy=0)
    assert report.chosen == ("B",)
    assert report.dims["K"] == 2 * report.dims["B"] and report.dims["D"] == 8


@pytest.mark.parametrize("count", [3, 5, 7, 11])
def test_a_size_written_into_a_pullback_is_refuted(count: int) -> None:
    report = loads(MEAN.format(count=count)).verify(sympy=0)
    assert {v.status for v in report.of("pullback")} == {Status.REFUTED}
    assert not report.ok


def test_free_dimensions_are_tried_at_two_sizes_without_a_common_factor() -> None:
    report = loads(MEAN.format(count="B")).verify(sympy=0)
    assert report.ok
    (note,) = report.notes
    first = report.dims["B"]
    second = int(note.split("tried at B=")[1].split()[0].strip(","))
    assert first != second and math.gcd(first, second) == 1 and 4 not in (first, second)
    (row,) = report.of("parameter")
    assert f"also at B={second}" in row.detail


def test_a_size_that_only_other_sizes_show_is_refuted() -> None:
    """The pullback is right where the size is the first one that is tried, and says so nowhere in
    digits.
    """
    text = MEAN.format(count="(B + (B - 1 - 1 - 1))")
    report = loads(text).verify(sympy=0)
    assert report.dims["B"] == 3
    assert {v.status for v in report.of("pullback")} == {Status.REFUTED}
    assert "at B=5" in report.of("pullback")[0].detail


def test_sizes_that_a_program_does_not_take_are_passed_over() -> None:
    text = """model m(x: float[B, 6]) -> float { param w: float[6] ~ ones
      return sum(tanh(reshape(x * w, [2, B // 2, 6]))) }"""
    report = loads(text).verify(sympy=0)
    assert report.ok and report.dims["B"] % 2 == 0
