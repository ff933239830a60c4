"""A program with a Fourier transform is verified: its kernel computes with roots of unity that no
field knows, which is told from a wrong kernel, and nothing is refuted.
"""

from __future__ import annotations

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.fourier import fourier
from gradc.ir.tensor.core import DType, Role, Slot, TensorType
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.prove.domains.point import seed_of
from gradc.passes.prove.prove import Subject, prove
from gradc.passes.prove.report import Status


def test_what_roots_of_unity_hide_is_settled_by_digits() -> None:
    b = Builder()
    x = b.parameter(TensorType((2, 4, 2), DType.F64), "x")
    y = fourier(b, x, 1)
    loss = b.one("sum", b.one("mul", y, b.one("tanh", y)), axes=(0, 1, 2))
    f = b.function("f", [loss], [Slot("x", Role.PARAM)], [Slot("loss", Role.LOSS)])
    made = run_pipeline(f, Options(lambda f: value_and_grad(f, ("x",)), verify=0))
    verdicts = prove(Subject(("x",), made, made, {}, {}), seed_of(f), 2).verdicts
    others = {
        f"{v.kind} {v.subject}": v.status for v in verdicts if not v.status.value.startswith("PROV")
    }
    assert set(others.values()) == {Status.AGREES}, others
    assert [name for name in others if not name.startswith("kernel")] == []
