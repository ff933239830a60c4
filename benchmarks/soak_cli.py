"""Odd command lines: a status, a message, and never a traceback.

    python -m benchmarks.soak_cli --count 2000

Commands with flags of theirs and of others, left out, given twice, with values that are no numbers,
no files, devices, huge, negative, empty, or not of this world. Each runs in this process, in a
folder of its own with a cache of its own.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np

from benchmarks.soak_common import Tally, command, soak
from gradc.runtime.cli import COMMANDS
from tests.support.command_line import gradc

PROGRAM = """
dim B, D = 3, C = 2

model net(x: float[B, D], y: int[B]) -> float {
    use fc = dense(D, C)
    logits = fc(x)
    output logits
    return mean(cross_entropy(logits, y))
}
"""
VALUES = (
    "", "0", "-1", "1", "2", "3", "64", "1e999", "nan", "inf", "1.5", "9" * 30, "a", "é", "\u202e",
    "😀", "-", "--",
    "net.grad", "bad.grad", "data.npz", "ids.npz", "empty.npz", "text.npz", "params.safetensors",
    "nowhere", ".",
    "/dev/null", "/dev/full", "/dev/zero", "pipe", "run", "out", "out/deep/er", "B=2", "B=0",
    "B=-1", "B=", "=2", "D=4",
    "B=99999999999999999999", "Q=1", "fc.w", "x", "y", "loss", "params", "inputs", "fc.w,fc.b",
    "adam(lr=1e-3)",
    "sgd(lr=true)", "adan()", "sgd(", "cosine(peak=1, total=2)", "64MiB", "1B", "5 parsecs",
    "dynamic", "ast", "llvm",
    "loops,plan", "asm", "header", "f64", "bf16", "all", "matrices", "GC0602", "GC9999", "json",
    "avx2", "abacus", "x" * 5000,
    "a\nb", "\x1b[31m", "%s", "{}", "$(id)", "torch", "net", "info", "clear",
)  # fmt: skip
FLAGS = (
    "--data", "--valid", "--params", "--seed", "--out", "-o", "-D", "--entry", "--precision",
    "--budget", "--threads",
    "--no-cache", "--optimizer", "--schedule", "--batch", "--epochs", "--clip-norm", "--clip-value",
    "--accumulate",
    "--loss-scale", "--decay-on", "--resume", "--json", "--wrt", "--emit", "--name", "--isa",
    "--forward", "--train-mode",
    "--html", "--svg", "--tangent", "--color", "--error-format", "--points", "--help", "--version",
    "--nonsense", "-x",
    "--dump-after", "--time-passes", "--hazards", "--strict", "--check", "--write",
)  # fmt: skip
# What a command needs to get anywhere; the rest is drawn.
USUAL = {
    "check": ["net.grad"], "run": ["net.grad", "--data", "data.npz"], "grad": ["net.grad", "--data",
    "data.npz"],
    "train": ["net.grad", "--data", "data.npz", "--out", "run", "--epochs", "1"],
    "compile": ["net.grad", "-D", "B=2", "-o", "out"], "verify": ["net.grad"], "plan": ["net.grad",
    "-D", "B=2"],
    "explain": ["net.grad", "--data", "data.npz"], "diagnose": ["net.grad", "--data", "data.npz"],
    "bisect": ["net.grad", "--data", "data.npz"], "fmt": ["net.grad"], "cache": ["info"],
    "doctor": [], "bench": [],
}  # fmt: skip
# Proofs and timings take seconds each: they come seldom.
SELDOM = ("verify", "bench", "bisect")


@contextmanager
def place() -> Iterator[Path]:
    """A folder to work in, and a cache in it; both gone afterwards."""
    before, cache = Path.cwd(), os.environ.get("GRADC_CACHE")
    made = Path(tempfile.mkdtemp(prefix="gradc-cli-"))
    try:
        os.chdir(made)
        os.environ["GRADC_CACHE"] = str(made / "cache")
        fill(made)
        yield made
    finally:
        os.chdir(before)
        os.environ.pop("GRADC_CACHE")
        if cache is not None:
            os.environ["GRADC_CACHE"] = cache
        shutil.rmtree(made, ignore_errors=True)


def fill(made: Path) -> None:
    """The files that the command lines name."""
    x, y = np.ones((6, 3), np.float32), np.arange(6, dtype=np.int32) % 2
    files = {"net.grad": PROGRAM, "bad.grad": "model net(x: float[3 {", "text.npz": "no archive"}
    for name, text in files.items():
        (made / name).write_text(text)
    np.savez(made / "data.npz", x=x, y=y)
    np.savez(made / "ids.npz", x=x, y=y + 7)
    np.savez(made / "empty.npz", x=x[:0], y=y[:0])
    if not (made / "pipe").exists():
        os.mkfifo(made / "pipe")


@functools.cache
def flags_of(command: str) -> tuple[tuple[str, bool], ...]:
    """The flags of a command, and whether each takes a value, from its own usage."""
    parser = argparse.ArgumentParser(prog="gradc")
    import_module(f"gradc.runtime.commands.{command}").add_arguments(parser)
    found = re.findall(r"\[(--?[\w-]+)( [^\]]+)?\]", " ".join(parser.format_usage().split()))
    return tuple((flag, bool(value)) for flag, value in found)


def line(rng: random.Random) -> list[str]:
    """One command line."""
    names = [name for name, _ in COMMANDS]
    command = rng.choice([*[n for n in names if n not in SELDOM] * 3, *names, "chekc", "", "-"])
    words = list(USUAL.get(command, ()))
    own = flags_of(command) if command in names else ()
    for _ in range(rng.randint(0, 4)):
        kind = rng.choices(range(5), (1, 2, 1, 1, 8))[0]
        at = rng.randrange(len(words) + 1)
        if kind == 0 and words:
            del words[rng.randrange(len(words))]
        elif kind == 1 and words:
            words[rng.randrange(len(words))] = rng.choice(VALUES)
        elif kind == 2:
            words[at:at] = [rng.choice(FLAGS)]
        elif kind == 3 or not own:
            words[at:at] = [rng.choice(FLAGS), rng.choice(VALUES)]
        else:
            flag, takes_value = rng.choice(own)
            words[len(words) :] = [flag, rng.choice(VALUES)] if takes_value else [flag]
    return [command, *words]


def case(rng: random.Random, tally: Tally) -> str:
    """One command line: its status, and what it says."""
    words = line(rng)
    shutil.rmtree("run", ignore_errors=True)
    fill(Path.cwd())
    done = gradc(*words, stdin=rng.choice(("", PROGRAM, "\0" * 9)))
    tally.kinds[f"status {done.status}"] += 1
    if done.status not in (0, 1, 2, 3):
        return f"gradc {words}: status {done.status}: {done.err[-2000:]}"
    if done.status and not done.err and not done.out:
        return f"gradc {words}: status {done.status} and not a word"
    if "Traceback" in done.err or "internal error" in done.err:
        return f"gradc {words}: {done.err[-2000:]}"
    return ""


def lines(count: int, seed: int, seconds: float, state: Path | None = None) -> Tally:
    """``count`` command lines, in a folder of their own."""
    with place():
        return soak("command lines", case, count, seed, seconds, state)


if __name__ == "__main__":
    sys.exit(command(__doc__, 2000, lines))
