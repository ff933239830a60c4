"""`gradc bench`: the peers compute the same loss and gradients, and what cannot be compared is
said.
"""

import json
from pathlib import Path

import pytest

from gradc.runtime.cli import main

ROOT = Path(__file__).resolve().parent.parent.parent
MODELS = ROOT / "benchmarks" / "models"
DIGITS = ROOT / "examples" / "digits"
FAST = ["--seconds", "0", "--threads", "1", "--json"]


@pytest.mark.parametrize("peer", ["torch", "jax"])
@pytest.mark.parametrize(
    ("path", "dims"),
    [
        (DIGITS / "rows_gru.grad", ["-D", "B=3"]),
        (MODELS / "lenet.grad", ["-D", "B=2"]),
        (MODELS / "gpt.grad", ["-D", "B=1", "-D", "T=6", "-D", "D=16", "-D", "N=2", "-D", "L=2"]),
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
def test_peers_agree(
    peer: str, path: Path, dims: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(peer)
    assert main(["bench", str(path), "--against", peer, *dims, *FAST]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["contender"] for row in rows] == ["gradc", peer]
    assert 0 < rows[1]["error"] < 1e-5
    assert all(0 < row["best"] <= row["milliseconds"] <= row["worst"] for row in rows)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_alone(precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = [str(DIGITS / "mlp.grad"), "-D", "B=4", "--precision", precision]
    assert main(["bench", *model, "--seconds", "0"]) == 0
    assert "ms per step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([str(DIGITS / "mlp.grad"), "-D", "B=4", "--against", "numpy"], "GC0568", "numpy"),
        ([str(DIGITS / "cnn.grad"), "-D", "B=4", "--against", "torch"], "GC0568", "random"),
        ([str(DIGITS / "mlp.grad")], "GC0541", "B"),
    ],
)
def test_what_cannot_be_compared_is_said(
    arguments: list[str], code: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments, "--seconds", "0"]) == 1
    text = capsys.readouterr().err
    assert code in text
    assert said in text
