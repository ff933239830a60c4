"""Networks as people publish them: value and gradient beside torch, and reports without a false
word.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.passes.prove.report import Status
from tests.support.networks_public import NETWORKS, Arrays

FOLDER = Path(__file__).resolve().parent.parent / "networks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.grad"))


def drawn(name: str) -> tuple[gradc.Model, Arrays, Arrays]:
    """The network in f64, every parameter at random, and its inputs."""
    net = gradc.load(FOLDER / f"{name}.grad", precision="f64")
    rng = np.random.default_rng(len(name))
    params = {n: a + 0.1 * rng.normal(size=a.shape) for n, a in net.init(3).items()}
    return net, params, {n: draw(rng) for n, draw in NETWORKS[name].inputs.items()}


def test_every_program_has_a_twin() -> None:
    assert len(NAMES) >= 30
    assert set(NAMES) == set(NETWORKS)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_those_of_torch(name: str) -> None:
    torch: Any = pytest.importorskip("torch")
    torch.set_num_threads(1)
    net, params, inputs = drawn(name)
    loss, grads = net.value_and_grad()(params, **inputs)
    twins = {n: torch.tensor(a, requires_grad=True) for n, a in params.items()}
    fed = [torch.tensor(a.astype(np.int64) if a.dtype.kind == "i" else a) for a in inputs.values()]
    expected = NETWORKS[name].loss(twins, *fed)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-10)
    for parameter, grad in grads.items():
        twin = twins[parameter].grad.numpy()
        assert np.max(np.abs(grad - twin)) <= 1e-9 * max(1e-6, float(np.max(np.abs(twin))))


# A pullback that its program calls asserted: the implicit function theorem, which no op of the
# primal states.
ASSERTED = {"implicit_equilibrium"}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_right_is_called_wrong(name: str) -> None:
    report = gradc.load(FOLDER / f"{name}.grad").verify(sympy=0)
    doubtful = [v for v in report.verdicts if v.status in (Status.REFUTED, Status.UNDECIDED)]
    assert not doubtful, [(v.kind, v.subject, v.status.value, v.detail) for v in doubtful]
    asserted = any(v.status is Status.ASSERTED for v in report.verdicts)
    assert asserted == (name in ASSERTED)
