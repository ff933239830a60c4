"""The example in C: it trains without Python and prints what Python prints, to the last bit."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CC = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def run(*command: object) -> str:
    """Runs a command that must succeed; returns what it prints."""
    parts = [str(part) for part in command]
    done = subprocess.run(parts, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(CC is None, reason="no C compiler on this machine")
def test_training_in_c_gives_the_losses_of_python(tmp_path: Path) -> None:
    model = ROOT / "examples" / "digits" / "mlp.grad"
    step = ("--optimizer", "momentum(lr=0.1)", "-o", tmp_path)
    run(sys.executable, "-m", "gradc", "compile", model, "-D", "B=64", *step)
    reference = ROOT / "examples" / "c" / "reference.py"
    data, binary = tmp_path / "digits.bin", tmp_path / "train"
    run(sys.executable, reference, "export", data)
    flags = ("-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}")
    source = ROOT / "examples" / "c" / "train.c"
    run(CC, *flags, source, tmp_path / "mlp.o", "-o", binary, "-pthread")
    expected = run(sys.executable, reference, "train", 3)
    losses = [float(found) for found in re.findall(r"loss (\S+)", expected)]
    assert len(losses) == 3 and losses[2] < losses[1] < losses[0] < 2.4
    for threads in (1, 2):
        assert run(binary, data, 3, threads) == expected
