"""What a device has decides about schedules, and never about bits."""

from __future__ import annotations

import pytest

import gradc
import gradc.codegen.cuda.backend as cuda_backend
from gradc.codegen.cuda.printer.plans import PROCESSORS, print_plan, target
from gradc.codegen.cuda.runner.device import Device
from gradc.codegen.cuda.simulate.run import run_program
from gradc.ir.target.target import Processors
from tests.support.cuda_double import doubled
from tests.support.cuda_programs import arrays_of, plan_of
from tests.support.memory_subjects import of_model

# Rows and sums over them, a product with two leaves of k, channels of images.
MODEL = """
model m() -> float {
    param x: float[24, 64] ~ normal(1.0)
    param w: float[64, 260] ~ normal(0.1)
    param image: float[2, 2, 8, 256] ~ normal(1.0)
    h = softmax(x * mean(x, axis=0))
    g = tanh(h @ w) @ transpose(w)
    n = exp(image - mean(image, axis=[0, 2, 3], keepdims=true))
    return mean(g^2) + mean(n^3)
}
"""


def test_bits_do_not_depend_on_the_device() -> None:
    one = of_model("m gradient", gradc.loads(MODEL))
    found, texts = [], []
    for machine in (target("sm_80", Processors(2, 64 << 10, 32768, 1024)), target("sm_100")):
        plan = plan_of(one, machine)
        program = print_plan(plan, machine)
        arrays = arrays_of(plan, one.arrays)
        run_program(program, arrays)
        found.append({p.name: a.tobytes() for p, a in zip(plan.ports, arrays, strict=True)})
        texts.append({text.source.split('"""')[1].split("\n")[0] for text in program.texts})
    assert found[0] == found[1]
    for kind in ("rows", "by tiles of", "an element a thread"):
        few, many = ({says for says in each if kind in says} for each in texts)
        assert few != many, f"no schedule of {kind} asks for the device"


def test_the_device_found_is_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture that is asked for has the processors that it is usually met with."""
    monkeypatch.setenv("DOUBLE_PROCESSORS", "20")
    with doubled():
        monkeypatch.setattr(cuda_backend, "device", Device)
        machine = cuda_backend.BACKEND.target(1)
        assert machine.processors == Processors(20, 228 << 10, 65536, 2048, 227 << 10)
        assert (machine.isa, machine.nodes) == ("sm_90", 20)
        for isa, usual in PROCESSORS.items():
            assert cuda_backend.BACKEND.target(1, isa).processors == usual
        before = cuda_backend.BACKEND.environment(None)
        monkeypatch.setenv("DOUBLE_PROCESSORS", "21")
        assert cuda_backend.BACKEND.environment(None) != before, "another device's code is used"
