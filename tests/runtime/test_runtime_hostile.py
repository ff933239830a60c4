"""Files, folders and systems that are not as they should be: a diagnostic each, no traceback, no
waiting, nothing lost.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc as gradc_api
from gradc.codegen.llvm.host.symbols import inner_name, problem
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.tensor.bf16 import from_bf16
from gradc.runtime import console
from gradc.runtime.files.data import load_npz, load_safetensors, save_npz
from gradc.runtime.files.tensors import save_safetensors
from gradc.runtime.native.cache import ObjectCache
from gradc.runtime.training import checkpoint
from tests.support.command_line import gradc

PROGRAM = """
dim B, D = 3

model net(x: float[B, D]) -> float {
    param w: float[D] ~ normal(1.0)
    return mean((x @ w)^2)
}
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "net.grad").write_text(PROGRAM)
    np.savez(tmp_path / "data.npz", x=np.ones((20, 3), np.float32))
    return tmp_path


def train(work: Path, *extra: str, epochs: int = 2) -> Any:
    flags = ["--data", str(work / "data.npz"), "--batch", "4", "--epochs", str(epochs)]
    return gradc("train", str(work / "net.grad"), *flags, "--out", str(work / "run"), *extra)


# ---- weights


def tensors(path: Path, **entries: tuple[str, list[int], bytes]) -> Path:
    header, body = {}, b""
    for name, (kind, shape, data) in entries.items():
        place = [len(body), len(body) + len(data)]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": place}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def test_bf16_weights_are_read_as_f32(work: Path) -> None:
    bits = np.array([0x3F80, 0x4049, 0xFF80, 0x0001], "<u2")
    found, _ = load_safetensors(tensors(work / "w.st", w=("BF16", [2, 2], bits.tobytes())))
    assert found["w"].dtype == np.float32
    assert np.array_equal(found["w"], from_bf16(bits).reshape(2, 2))
    assert found["w"].ravel()[:3].tolist() == [1.0, 3.140625, -np.inf]
    tensors(work / "p.st", w=("BF16", [3], bits[:3].tobytes()))
    done = gradc("run", str(work / "net.grad"), "--data", str(work / "data.npz"), "--params",
                 str(work / "p.st"))  # fmt: skip
    assert (done.status, "loss" in done.out) == (0, True), done.err


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F4"])
def test_weights_of_types_that_programs_do_not_have_are_refused(work: Path, kind: str) -> None:
    path = tensors(work / "w.st", w=(kind, [4], bytes(2 if kind == "F4" else 4)))
    with pytest.raises(DiagnosticError, match=r"GC0574"):
        load_safetensors(path)


def test_names_with_nul_and_the_names_of_helpers_are_names(work: Path) -> None:
    wanted = {"a\0b": np.ones(2), "\0": np.zeros(1), "__order__": np.full(3, 7.0)}
    save_safetensors(work / "w.st", wanted, {"__order__": "x"})
    found, metadata = load_safetensors(work / "w.st")
    assert metadata == {"__order__": "x"}
    assert {n: a.tolist() for n, a in found.items()} == {n: a.tolist() for n, a in wanted.items()}


# ---- data

HEADER = "{'descr': '<f4', 'fortran_order': %s, 'shape': %s, }"
SHAPES = ("(-1, -1)", f"(0, {10**23})", f"({'1, ' * 70})", "(True, 24)", "(" * 60 + ")" * 60,
          "[2, 3]", "(2.0, 3)", "('a',)", "(1, -2, 3)", f"({2**63},)", f"({2**40}, {2**40})",
          "(0, -1)", "(None,)", "((2, 3),)", "{}", "(3,")  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
@pytest.mark.parametrize("order", ["False", "True", "3"])
def test_hostile_shapes_in_an_npz_are_a_diagnostic(work: Path, shape: str, order: str) -> None:
    text = (HEADER % (order, shape)).encode() + b"\n"
    with zipfile.ZipFile(work / "bad.npz", "w") as made:
        made.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
    with pytest.raises(DiagnosticError, match=r"GC0570.*`x`"):
        load_npz(work / "bad.npz")


def test_shapes_are_compared_before_anything_is_unpacked(work: Path) -> None:
    """A small file whose array is large and of a shape that the model does not take: no byte of it
    is unpacked.
    """
    rows = 1 << 23
    text = (HEADER % ("False", f"({rows}, 8)")).encode() + b"\n"
    path = work / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made,
        made.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
        for _ in range(64):
            member.write(bytes(1 << 22))
    assert path.stat().st_size < 1 << 21
    program = (
        "import resource, sys\n"
        "from gradc.runtime.cli import main\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "status = main(sys.argv[1:])\n"
        "print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = ["grad", str(work / "net.grad"), "--data", str(path)]
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, check=True
    )
    status, kilobytes = map(int, done.stdout.split())
    assert status == 1 and "D" in done.stderr and "GC05" in done.stderr
    # The commands' own modules take some; the array would take 256 MiB.
    assert kilobytes < 200 << 10


@pytest.mark.parametrize("stream", ["/dev/zero", "pipe", "/dev/stdin", "folder"])
def test_streams_are_not_read_without_end(work: Path, stream: str) -> None:
    path = work / "odd"
    if stream == "pipe":
        os.mkfifo(path)
    elif stream == "folder":
        path.mkdir()
    else:
        path = Path(stream)
    started = time.perf_counter()
    for load in (load_npz, load_safetensors):
        if load is load_safetensors and stream == "/dev/zero":
            continue  # a gigabyte is read before it is refused: see below
        with pytest.raises(DiagnosticError, match=r"GC057[024]"):
            load(path)
    assert time.perf_counter() - started < 5


def test_a_device_without_end_is_given_up(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradc.runtime.files.data.MAX_STREAM_BYTES", 1 << 20)
    with pytest.raises(DiagnosticError, match=r"GC0572.*more than 1048576 bytes"):
        load_safetensors(Path("/dev/zero"))


def test_a_program_on_standard_input_ends_somewhere() -> None:
    with open("/dev/zero", "rb") as endless:
        command = [sys.executable, "-m", "gradc", "check", "-"]
        done = subprocess.run(
            command, stdin=endless, capture_output=True, text=True, timeout=30, check=False
        )
    assert (done.returncode, "GC0002" in done.stderr) == (1, True), done.stderr


# ---- the operating system

needs_rights = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


def refusing(function: Callable[..., Any], path: Path, number: int) -> Callable[..., Any]:
    """``function`` as a system would behave that refuses everything below ``path``."""

    def refuse(target: Any, *args: Any, **more: Any) -> Any:
        if isinstance(target, (str, bytes, os.PathLike)) and Path(
            os.fsdecode(target)
        ).is_relative_to(path):
            raise OSError(number, os.strerror(number), str(target))
        return function(target, *args, **more)

    return refuse


REASONS = (errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EIO)
CALLS = ("open", "mkdir", "listdir", "scandir", "replace", "unlink")


@pytest.mark.parametrize(
    ("number", "what"),
    [(REASONS[(2 * k + n) % 4], what) for n, what in enumerate(CALLS) for k in (0, 1)],
)
def test_whatever_the_system_refuses_is_a_diagnostic(
    work: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    """In the folder of a run, at each system call for two reasons in turn, for a new run and for
    one that goes on.
    """
    if what != "mkdir":
        assert train(work, epochs=1).status == 0
    monkeypatch.setattr(os, what, refusing(getattr(os, what), work / "run", number))
    done = train(work, *([] if what == "mkdir" else ["--resume"]))
    assert done.status in (0, 1), done.err
    assert "internal error" not in done.err and "Traceback" not in done.err
    assert done.status == 0 or "GC05" in done.err


def test_a_working_folder_that_is_gone(work: Path) -> None:
    """Relative paths lead nowhere then; absolute ones work."""
    script = "import os, sys, shutil\nos.chdir(sys.argv[1])\nshutil.rmtree(sys.argv[1])\n"
    script += "from gradc.runtime.cli import main\nsys.exit(main(sys.argv[2:]))\n"
    root = Path(__file__).resolve().parent.parent.parent
    data = ["--data", str(work / "data.npz")]
    for number, (arguments, status) in enumerate(
        (
            (["check", "net.grad"], 1),
            (["check", "-"], 0),
            (["run", str(work / "net.grad"), *data], 0),
            (["train", str(work / "net.grad"), *data, "--out", "run"], 1),
            (["compile", str(work / "net.grad"), "-D", "B=2", "-o", "out"], 1),
        )
    ):
        gone = work / f"gone{number}"
        gone.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", script, str(gone), *arguments],
            input=PROGRAM, capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip
        assert done.returncode == status, (arguments, done.stderr)
        assert "Traceback" not in done.stderr and "internal" not in done.stderr


def test_an_internal_error_is_said_where_no_report_can_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    console.Console().internal_error(ValueError("boom"))
    assert "No space left on device" in capsys.readouterr().err


# ---- damaged folders of runs

DAMAGE: dict[str, tuple[str, str]] = {
    "run.json": ("[]", "GC0805"),
    "run.json ": ("5", "GC0805"),
    "run.json  ": ("[" * 100_000, "GC0805"),
    "run.json   ": ("", "GC0805"),
    "metrics.jsonl": ("5\n[]\n\n{}\nnull\n" + '{"step": "a"}\n{"step": 1, "epoch_done": []}\n',
    "GC0812"),
    "metrics.jsonl ": ("[" * 100_000 + "\n\xff\n", "GC0812"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_of_a_run(work: Path, name: str) -> None:
    assert train(work).status == 0
    text, code = DAMAGE[name]
    path = work / "run" / name.strip()
    kept = path.read_text()
    path.write_text(text + kept if "metrics" in name else text, encoding="latin-1")
    done = train(work, "--resume", epochs=3)
    assert code in done.err and "internal" not in done.err, done.err
    if "metrics" in name:
        assert done.status == 0
        assert path.read_text().startswith(kept)
    else:
        assert done.status == 1


def test_missing_metrics_are_begun_anew(work: Path) -> None:
    assert train(work).status == 0
    (work / "run" / "metrics.jsonl").unlink()
    assert train(work, "--resume", epochs=3).status == 0


STATES: tuple[Any, ...] = ({}, [], 5, {"epoch": "a"}, None, {"epoch": 1, "position": 0, "step": 9})


@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
def test_a_checkpoint_with_the_state_of_something_else(work: Path, state: Any) -> None:
    assert train(work, epochs=1).status == 0
    found, _ = checkpoint.load_newest(work / "run")
    checkpoint.save(work / "run", replace(found, step=found.step + 1, state=state))
    done = train(work, "--resume")
    assert (done.status, "GC0805" in done.err) == (1, True), done.err


@pytest.mark.parametrize("left", ["nothing", "metrics", "checkpoint", "run.json"])
@pytest.mark.parametrize("how", ["begin", "resume"])
def test_a_run_killed_before_it_had_begun(work: Path, left: str, how: str) -> None:
    """What a kill can leave before the first checkpoint is whole: the run can be started again."""
    assert train(work).status == 0
    whole = {p.name: p.read_bytes() for p in (work / "run").iterdir()}
    first = work / "first"
    assert gradc("train", str(work / "net.grad"), "--data", str(work / "data.npz"), "--batch", "4",
                 "--epochs", "0", "--out", str(first)).status == 0  # fmt: skip
    shutil.rmtree(work / "run")
    (work / "run").mkdir()
    if left != "nothing":
        (work / "run" / "metrics.jsonl").write_text("")
        (work / "run" / ".metrics.jsonl.abcdefgh.tmp").write_text("half")
    if left == "checkpoint":
        name = "step-000000000000.safetensors"
        shutil.copy(first / name, work / "run" / name)
    if left == "run.json":
        (work / "run" / "run.json").write_bytes(whole["run.json"])
    if how == "resume":
        done = train(work, "--resume")
        assert done.status == (0 if left == "run.json" else 1), done.err
        assert done.status == 0 or "leave --resume out" in done.err
    if how == "begin" or left != "run.json":
        assert train(work).status == 0
    assert {p.name: p.read_bytes() for p in (work / "run").iterdir()} == whole


# ---- the cache, and what is left over


def test_a_pipe_in_the_place_of_an_entry_is_not_waited_for(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "cache")
    assert cache.put("ab12", {}, b"code")
    (tmp_path / "cache" / "ab12.gco").unlink()
    os.mkfifo(tmp_path / "cache" / "ab12.gco", 0o600)
    started = time.perf_counter()
    with pytest.warns(RuntimeWarning, match="not a regular file"):
        assert cache.get("ab12") is None
    assert time.perf_counter() - started < 1
    assert cache.put("ab12", {}, b"code") and cache.get("ab12") is not None


def test_warnings_of_the_cache_quote_no_line_of_gradc(work: Path) -> None:
    folder = work / "cache"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    command = [sys.executable, "-m", "gradc", "run", "net.grad", "--data", "data.npz"]
    environment = {**os.environ, "GRADC_CACHE": str(folder), "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=work, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        f"warning: gradc cache: {folder} can be written by others; compiled code is not kept"
    ]


def test_leftovers_of_killed_writers_are_swept_once_they_are_old(tmp_path: Path) -> None:
    assert ObjectCache(tmp_path / "cache").put("ab12", {}, b"code")
    target = tmp_path / "a[1].npz"
    left = [tmp_path / "cache" / ".new-abcdefgh", tmp_path / ".a[1].npz.abcdefgh.tmp"]
    others = [tmp_path / ".b.npz.abcdefgh.tmp", tmp_path / ".a1.npz.abcdefgh.tmp"]
    for age, is_kept in ((0, True), (7200, False)):
        for path in (*left, *others):
            path.write_bytes(b"half")
            os.utime(path, (time.time() - age,) * 2)
        # The first entry that a process puts looks through the directory.
        assert ObjectCache(tmp_path / "cache").put("cd34", {}, b"code")
        save_npz(target, {"x": np.ones(2)})
        assert [path.exists() for path in left] == [is_kept, is_kept]
        assert all(path.exists() for path in others)


# ---- names in C

NAMES = ("int", "register", "class", "bool", "constexpr", "malloc", "exp", "read", "index", "main",
         "errno", "Py_IncRef", "gradc_parallel", "gradc_pool_stop", "_Bool", "__init", "linux",
         "int8", "memcpy")  # fmt: skip
SYMBOLS = ("malloc", "exp", "Py_IncRef", "gradc_parallel", "__init")


@pytest.mark.parametrize("name", NAMES)
def test_models_called_like_c(work: Path, name: str) -> None:
    """Python calls them whatever they are called; C is spared a header that no compiler takes."""
    text = PROGRAM.replace("model net", f"model {name}")
    net = gradc_api.loads(text)
    params, x = net.init(0), np.ones((2, 3), np.float32)
    loss, grads = net.value_and_grad()(params, x=x)
    if name in SYMBOLS:  # those that a linker might take for something else
        assert loss == net.forward()(params, x=x)["loss"]
    assert np.allclose(grads["w"], 2 * params["w"].sum(), rtol=1e-6)
    assert problem(name) and inner_name(name).startswith("entry_")
    (work / "odd.grad").write_text(text)
    done = gradc("compile", str(work / "odd.grad"), "-D", "B=2", "-o", str(work / "out"))
    assert (done.status, "GC0581" in done.err) == (1, True), done.err
    assert not (work / "out").exists() or not list((work / "out").iterdir())
    done = gradc("compile", str(work / "odd.grad"), "-D", "B=2", "--emit", "llvm")
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize("name", ["net", "mlp", "integer", "exponent", "new_model", "gpt2", "i"])
def test_other_names_stay_as_they_are_and_their_headers_compile(work: Path, name: str) -> None:
    assert problem(name) == "" and inner_name(name) == name
    (work / "odd.grad").write_text(PROGRAM.replace("model net", f"model {name}"))
    kinds = "object,header"
    flags = ["-D", "B=2", "-o", str(work / "out"), "--emit", kinds]
    assert gradc("compile", str(work / "odd.grad"), *flags).status == 0
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is not None:
        header = work / "out" / f"{name}.h"
        for language in ("c", "c++") if shutil.which("g++") else ("c",):
            command = [compiler, "-Wall", "-Werror", "-fsyntax-only", "-x", language, str(header)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
