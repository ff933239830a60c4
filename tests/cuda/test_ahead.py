"""Ahead of time: files that others use. A host in C calls a cubin through the driver API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gradc
import gradc.codegen.cuda.backend as cuda_backend
from gradc.codegen.cuda.runner.device import Device
from gradc.codegen.cuda.toolchain import sass
from tests.support import cuda_double
from tests.support.command_line import gradc as gradc_command
from tests.support.cuda_double import Double, doubled
from tests.support.cuda_replay import write_texts

SUPPORT = Path(cuda_double.__file__).parent
PROGRAM = """
    model m(x: float[6, 5], h0: float[5], q: float[16, 2], k: float[560, 2]) -> float {
        param w: float[5, 5] ~ normal(0.3)
        hs = scan row in x carry h = h0 {
            h = tanh(row + h @ w)
            yield h
        }
        kept = iota(16)[:, None] * 35 >= iota(560)[None, :]
        return sum(hs^2) * mean(scaled_attention(q, k, k, kept)^2)
    }
"""


@pytest.fixture
def double() -> Iterator[Double]:
    with doubled() as found:
        yield found


def written(folder: Path, *more: str) -> Path:
    file = folder / "m.grad"
    file.write_text(PROGRAM)
    done = gradc_command("compile", file, "--target", "cuda", "-o", folder, *more)
    assert done.status == 0, done.err
    return folder


def test_a_host_in_c_calls_the_program(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of training, a loop with counters in it, kernels that ask for dynamic memory: the
    weights are the CPU's to the bit.
    """
    monkeypatch.setenv("DOUBLE_PROCESSORS", "2")
    monkeypatch.setattr(cuda_backend, "device", Device)
    more = ("--emit", "cubin,header", "--optimizer", "sgd(lr=0.1)")
    folder = written(tmp_path, *more)
    manifest = json.loads((folder / "m.json").read_text())
    ports = manifest["program"]["signature"]["ports"]
    net = gradc.loads(PROGRAM)
    rng = np.random.default_rng(3)
    shapes = {"x": (6, 5), "h0": (5,), "q": (16, 2), "k": (560, 2)}
    arrays = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    step = net.train_step("sgd(lr=0.1)", threads=1)
    state = step.init(net.init(1))
    given = {**{n: a.copy() for n, a in state.arrays.items()}, **arrays}
    dtypes = {"f32": np.float32, "i32": np.int32, "u32": np.uint32}
    filled = [given.get(p[0], np.zeros(p[2], dtypes[p[3]])) for p in ports]
    (folder / "ports.bin").write_bytes(b"".join(a.tobytes() for a in filled))
    (texts,) = double.programs.values()
    assert sum(text.dynamic_bytes > 0 for text in texts.values()) == 1
    assert (folder / "m.h").read_text().count("cuFuncSetAttribute(") == 1
    write_texts(folder, texts)
    _built_and_run(folder)
    data, at = (folder / "results.bin").read_bytes(), 0
    for _ in range(2):
        loss, state = step(state, **arrays)
    for (name, role, _, _, direction, _), array in zip(ports, filled, strict=True):
        part = data[at : at + array.nbytes]
        at += array.nbytes
        if direction == "inout":
            assert part == state.arrays[name].tobytes(), name
        elif role == "loss":
            assert part == np.asarray(loss).tobytes()


def _built_and_run(folder: Path) -> None:
    path = cuda_double.library()
    assert path is not None
    compiler = shutil.which("cc")
    assert compiler is not None
    program = folder / "host"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{folder}", f"-I{SUPPORT}"]
    linked = [str(path), f"-Wl,-rpath,{path.parent}"]
    asked = [compiler, *flags, str(SUPPORT / "cuda_host.c"), "-o", str(program), *linked]
    subprocess.run(asked, check=True, timeout=60)
    root = SUPPORT.parent.parent
    replay = f"cd {root} && {sys.executable} -m tests.support.cuda_replay {folder}"
    environment = {**os.environ, "DOUBLE_FOLDER": str(folder), "DOUBLE_REPLAY": replay}
    subprocess.run([str(program)], cwd=folder, env=environment, check=True, timeout=120)


def test_texts_are_shown_and_machine_code_with_the_extra(tmp_path: Path) -> None:
    """Without it the texts; with it PTX, cubin and SASS for each architecture."""
    file = tmp_path / "m.grad"
    body = "param w: float[16] ~ normal(1); return sum((x * w)^2)"
    file.write_text(f"model m(x: float[64, 16]) -> float {{ {body} }}")
    shown = ("compile", file, "--target", "cuda")
    text = gradc_command(*shown, "--emit", "cuda")
    assert text.status == 0 and "def " in text.out
    pytest.importorskip("numba_cuda")
    for isa, architecture in (("sm_80", "sm_80"), ("sm_90", "sm_90a")):
        made = gradc_command(*shown, "--isa", isa, "--emit", "ptx,cubin,sass", "-o", tmp_path)
        assert made.status == 0, made.err
        assert f".target {architecture}" in (tmp_path / "m.ptx").read_text()
        assert "EXIT" in (tmp_path / "m.sass").read_text()
        found = sass.statistics((tmp_path / "m.cubin").read_bytes()).values()
        assert found and all(not (s.stack or s.local or s.f64) for s in found)
        facts = json.loads((tmp_path / "m.json").read_text())
        assert facts["target"] == architecture and facts["program"]["texts"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--target", "cuda", "--emit", "object", "-o", "x"), "cuda has no `object`"),
        (("--target", "cuda", "--emit", "llvm"), "cuda has no `llvm`"),
        (("--target", "cpu", "--emit", "ptx"), "cpu has no `ptx`"),
        (("--target", "cpu", "--emit", "cubin", "-o", "x"), "cubin"),
        (("--target", "cuda", "--isa", "sm_10", "--emit", "cuda"), "sm_10"),
    ],
)
def test_kinds_of_other_targets_are_refused(
    asked: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.grad").write_text(PROGRAM)
    done = gradc_command("compile", "m.grad", *asked)
    assert done.status == 1 and said in done.err, done.err
