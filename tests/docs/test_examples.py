"""Every example does what it says: its programs check, and the digits reach the accuracy
promised.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import gradc

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(EXAMPLES.rglob("*.grad")) + sorted((ROOT / "benchmarks").rglob("*.grad"))
DIGITS = EXAMPLES / "digits"


def gradc_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "gradc", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_program_checks_without_a_warning(path: Path) -> None:
    done = gradc("check", path)
    assert (done.status, done.out) == (0, "")
    assert done.err.startswith(f"{path}: ok (")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_program_formats_and_still_checks(path: Path, tmp_path: Path) -> None:
    """`fmt` loses nothing: formatting the formatted program changes nothing more."""
    copy = tmp_path / path.name
    copy.write_text(path.read_text())
    assert gradc("fmt", copy).status == 0
    once = copy.read_text()
    assert gradc("check", copy).status == 0
    assert gradc("fmt", copy).status == 0
    assert copy.read_text() == once


def test_digits_are_the_published_ones() -> None:
    """Shapes, range, classes; the held-out fifth of every digit; nothing in both parts."""
    parts = {}
    for name, count in (("train", 1438), ("valid", 359)):
        with np.load(DIGITS / f"digits_{name}.npz", allow_pickle=False) as data:
            assert sorted(data.files) == ["x", "y"]
            x, y = data["x"], data["y"]
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((count, 64), np.float32, (count,), np.int32)
        np.testing.assert_array_equal(x * 16, np.round(x * 16))
        assert (x.min(), x.max()) == (0.0, 1.0)
        parts[name] = (x, np.bincount(y, minlength=10))
    shares = parts["valid"][1] / (parts["valid"][1] + parts["train"][1])
    np.testing.assert_allclose(shares, 0.2, atol=0.005)
    seen = {row.tobytes() for row in parts["train"][0]}
    assert not [row for row in parts["valid"][0] if row.tobytes() in seen]


@pytest.mark.parametrize(
    ("program", "flags", "accuracy"),
    [
        ("mlp.grad", "-D H=256 --optimizer adamw(lr=3e-3) --epochs 20", 0.97),
        (
            "cnn.grad",
            "--epochs 30 --schedule warmup_cosine(peak=3e-3,warmup=50,total=690)",
            0.985,
        ),
        ("rows_gru.grad", "--optimizer adamw(lr=1e-2) --epochs 12", 0.95),
    ],
)
def test_digits_reach_their_accuracy(
    program: str, flags: str, accuracy: float, tmp_path: Path
) -> None:
    """The commands of README and examples/digits/README.md, to the same end."""
    done = gradc_process(
        "train", DIGITS / program, "--data", DIGITS / "digits_train.npz",
        "--valid", DIGITS / "digits_valid.npz", *flags.split(), "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["valid_accuracy"] >= accuracy


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder with a part of the text data, and the loss of guessing by how frequent characters
    are.
    """
    folder = tmp_path_factory.mktemp("text")
    script = [sys.executable, str(EXAMPLES / "text" / "make_data.py"), str(folder)]
    told = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert "order-3 count model: 2." in told
    for name, rows in (("train", 2000), ("valid", 200)):
        with np.load(folder / f"text_{name}.npz", allow_pickle=False) as data:
            some = {key: data[key][:rows] for key in data.files}
        np.savez(folder / f"{name}.npz", tokens=some["tokens"], targets=some["targets"])
    counts = np.bincount(some["targets"].ravel(), minlength=96)
    shares = counts[counts > 0] / counts.sum()
    return folder, -float(shares @ np.log(shares))


@pytest.mark.parametrize(
    ("program", "dims"), [("lstm.grad", ["H=64"]), ("gpt.grad", ["D=32", "N=2", "L=1"])]
)
def test_characters_beat_letter_frequencies(
    program: str, dims: list[str], text: tuple[Path, float], tmp_path: Path
) -> None:
    """At small size: one pass over 2 000 rows learns more than how frequent characters are."""
    folder, frequencies = text
    flags = [flag for dim in dims for flag in ("-D", dim)]
    done = gradc_process(
        "train", EXAMPLES / "text" / program, "--data", folder / "train.npz",
        "--valid", folder / "valid.npz", *flags, "--optimizer", "adamw(lr=1e-2)",
        "--clip-norm", "1", "--batch", "16", "--epochs", "1", "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["valid_loss"] < 0.9 * frequencies


def test_the_autoencoder_beats_the_best_linear_code(tmp_path: Path) -> None:
    """Eight numbers per digit, held out: less than half of the epochs of the README already beat
    eight components.
    """
    parts = {}
    for name in ("train", "valid"):
        with np.load(DIGITS / f"digits_{name}.npz", allow_pickle=False) as data:
            parts[name] = data["x"].astype(np.float64)
        np.savez(tmp_path / f"{name}.npz", x=parts[name].astype(np.float32))
    middle = parts["train"].mean(0)
    axes = np.linalg.svd(parts["train"] - middle, full_matrices=False)[2][:8]
    held_out = parts["valid"] - middle
    linear = float(((held_out - held_out @ axes.T @ axes) ** 2).mean())
    assert abs(linear - 0.0243) < 5e-5
    done = gradc_process(
        "train", DIGITS / "autoencoder.grad", "--data", tmp_path / "train.npz", "--valid",
        tmp_path / "valid.npz", "--optimizer", "adamw(lr=3e-3)", "--epochs", "25",
        "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["valid_loss"] < 0.85 * linear


def test_the_oscillator_is_found_from_its_equation() -> None:
    """A derivative of third order in training: the network ends within 2 % of the exact
    solution.
    """
    script = [sys.executable, str(EXAMPLES / "physics" / "oscillator.py"), "--steps", "4000"]
    told = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert 0 < float(told.split()[-1]) < 0.02, told
