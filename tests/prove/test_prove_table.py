"""`gradc verify --rules`: every op has a row, all is proved, and docs/verification.md shows the
same table.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import all_ops
from gradc.ir.tensor.core import DType, TensorType
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.prove import rule_verdicts
from gradc.passes.prove.report import Status
from gradc.passes.prove.rule_table import second_verdict
from gradc.passes.prove.rule_verdicts import sampled_verdict
from gradc.passes.prove.rules.rules import instance, is_flat
from gradc.runtime.cli import main
from gradc.runtime.reports.rules import as_markdown, rule_rows

DOCS = Path(__file__).parent.parent.parent / "docs" / "verification.md"


@cache
def rows() -> list[dict[str, Any]]:
    return rule_rows()


def test_every_op_is_proved_in_all_three_ways() -> None:
    assert [row["op"] for row in rows()] == [d.name for d in all_ops()]
    assert [row["op"] for row in rows() if not row["ok"]] == []
    for column in ("reverse", "forward", "second order"):
        found = {row["op"]: row[column] for row in rows()}
        # Roots of unity are no polynomial of a size, and of what ranks exchange each has a part: a
        # proof per size, in the prime field.
        for name in ("fft", "all_to_all", "all_gather"):
            assert found.pop(name) == Status.PROVED_BOUND.value
        assert set(found.values()) == {Status.PROVED_ALL.value}


def test_sympy_agrees_with_every_elementwise_op() -> None:
    asked = {row["op"]: row["sympy"] for row in rows() if row["sympy"]}
    expected = {d.name for d in all_ops() if any(p is not None for p in d.partials or ())}
    assert set(asked) == expected
    assert {n for n, kind in asked.items() if kind == "up to rounded literals"} == {"erf", "gelu"}
    assert sum(kind == "equal" for kind in asked.values()) >= 15


def test_the_docs_show_the_table() -> None:
    text = DOCS.read_text(encoding="utf-8")
    shown = text.split("<!-- rules -->\n")[1].split("<!-- end of rules -->")[0]
    assert shown == as_markdown(rows())


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradc.runtime.commands.verify.rule_rows", rows)  # found once for all
    assert main(["verify", "--rules", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "gradc-rules-1" and data["ok"]
    (row,) = (r for r in data["rules"] if r["op"] == "max_pool")
    assert row["method"] == "index algebra" and "off kinks" in row["assumptions"]
    assert main(["verify"]) == 2


def test_an_op_that_is_not_flat_is_told_from_one_that_is() -> None:
    type_ = TensorType((2,), DType.F64)
    assert is_flat(instance("floor", [type_], {}))
    assert not is_flat(instance("neg", [type_], {}))


def test_a_wrong_second_order_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the pullback of tanh with its sign lost, at every second-order method."""
    from gradc.passes.prove import rule_table

    true = value_and_grad

    def wrong(function: Any, names: Any) -> Any:
        found = true(function, names)
        b = Builder()
        last = found.block.outputs[2]
        negative = b.one("neg", last)
        end = found.block.terminator
        changed = tuple(negative if v is last else v for v in end.operands)
        block = replace(
            found.block,
            ops=(*found.block.body, *b.ops, replace(end, operands=changed)),
        )
        return replace(found, block=block)

    assert second_verdict("tanh").status is Status.PROVED_ALL
    monkeypatch.setattr(rule_table, "value_and_grad", wrong)
    for name in ("tanh", "contract", "reduce_max"):
        assert not second_verdict(name).status.is_proof, name


def test_ops_without_rules_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_verdicts, "is_flat", lambda case: False)
    assert sampled_verdict("floor").status is Status.REFUTED
