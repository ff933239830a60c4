"""The command line: statuses, streams, JSON, and a diagnostic for everything a user can get
wrong.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc as gradc_api
from gradc.runtime import cli
from gradc.runtime.files.tensors import save_safetensors
from tests.support.api_models import DEEP, MLP, batch, forward, gradients
from tests.support.command_line import gradc
from tests.support.machines import quick_limits

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program, data and parameters, and broken versions of each."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "mlp.grad").write_text(MLP)
    (folder / "deep.grad").write_text(DEEP)
    (folder / "two.grad").write_text(
        "model a(x: float) -> float { return x }\nmodel b(x: float) -> float { return x }\n"
    )
    (folder / "none.grad").write_text("fn twice(x: float) -> float { return 2*x }\n")
    (folder / "bad.grad").write_text("model f(x: float[3]) -> float {\n    return sun(x)\n}\n")
    (folder / "worse.grad").write_text("model f(x: float[3]) -> float { return sum(x\n")
    (folder / "bytes.grad").write_bytes(b"model \xff\xfe")
    (folder / "empty.grad").write_text("")
    (folder / "ugly.grad").write_text("model f(x:float)->float{return   2*x}\n")
    data: dict[str, Any] = batch(0, 8)
    data["x"] = data["x"].astype(np.float32)
    np.savez(folder / "in.npz", **data)
    for name, arrays in _broken(data).items():
        np.savez(folder / f"{name}.npz", allow_pickle=True, **arrays)
    (folder / "text.npz").write_text("x,y\n1,2\n")
    (folder / "cut.npz").write_bytes((folder / "in.npz").read_bytes()[:200])
    net = gradc_api.loads(MLP)
    params = net.init(4)
    save_safetensors(folder / "p.safetensors", params)
    save_safetensors(folder / "few.safetensors", {"fc1.w": params["fc1.w"]})
    save_safetensors(folder / "wide.safetensors", {**params, "fc1.b": np.zeros(9, np.float32)})
    save_safetensors(folder / "ints.safetensors", {**params, "fc1.b": np.zeros(5, np.int32)})
    (folder / "text.safetensors").write_text("not a tensor")
    return folder


def _broken(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    x, y = data["x"], data["y"]
    holed = x.copy()
    holed[3, 2] = np.nan
    return {
        "nameless": {"a": x, "b": y},
        "lacking": {"x": x},
        "extra": {"x": x, "y": y, "z": x},
        "narrow": {"x": x[:, :4], "y": y},
        "uneven": {"x": x, "y": y[:5]},
        "flat": {"x": x.ravel(), "y": y},
        "kinds": {"x": x, "y": y.astype(np.float64)},
        "complex": {"x": x.astype(complex), "y": y},
        "strings": {"x": x.astype(str), "y": y},
        "objects": {"x": x.astype(object), "y": y},
        "holed": {"x": holed, "y": y},
        "nothing": {"x": x[:0], "y": y[:0]},
    }


# ---- the table of commands


def test_every_command_has_its_module_and_every_module_its_command() -> None:
    named = [name for name, _ in cli.COMMANDS]
    assert len(set(named)) == len(named)
    for name in named:
        assert find_spec(f"gradc.runtime.commands.{name}") is not None, name
    modules = {p.stem for p in (ROOT / "runtime" / "commands").glob("*.py")}
    # What a command does in one case may be a module of its own, named after it.
    parts = {m for m in modules if "_" in m and m.partition("_")[0] in named}
    assert modules - parts - {"__init__", "common", "flags"} == set(named)


@pytest.mark.parametrize("name", [name for name, _ in cli.COMMANDS])
def test_every_command_explains_itself(name: str) -> None:
    done = gradc(name, "--help")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("usage: gradc")
    assert f"gradc {name}" in done.out


def test_without_arguments_the_overview_is_shown() -> None:
    done = gradc()
    shown = done.out + done.err
    assert done.status == cli.OK
    assert all(name in shown for name, _ in cli.COMMANDS)
    assert gradc("--version").out == f"gradc {gradc_api.__version__}\n"


# ---- what each command gives


def test_check(work: Path) -> None:
    done = gradc("check", work / "mlp.grad")
    assert (done.status, done.out) == (0, "")
    assert done.err == f"{work / 'mlp.grad'}: ok (mlp)\n"
    found = json.loads(gradc("check", work / "mlp.grad", "--json").out)
    assert found == {"ok": True, "models": ["mlp"], "warnings": []}


def test_a_program_from_stdin() -> None:
    assert gradc("check", "-", stdin=MLP).status == 0
    done = gradc("check", "-", stdin="model f(x: float) -> float { return y }")
    assert done.status == 1
    assert "<stdin>:1:" in done.err
    assert gradc("fmt", "-", stdin="fn f(x:float)->float{return x}").out.startswith(
        "fn f(x: float)"
    )


def test_run_and_grad_agree_with_numpy(work: Path) -> None:
    arrays = dict(np.load(work / "in.npz"))
    params = {n: a.astype(float) for n, a in gradc_api.loads(MLP).init(4).items()}
    loss, logits = forward(params, **arrays)
    given = (work / "mlp.grad", "--data", work / "in.npz", "--params", work / "p.safetensors")
    done = gradc("run", *given, "--json", "--out", work / "out.npz")
    assert (done.status, done.err) == (0, "")
    values = json.loads(done.out)["values"]
    assert values["loss"] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(np.load(work / "out.npz")["logits"], logits, rtol=1e-4, atol=1e-5)
    done = gradc("grad", *given, "--wrt", "fc1.w,x", "--json", "--out", work / "g.npz")
    summary = json.loads(done.out)
    assert list(summary["gradients"]) == ["fc1.w", "x"]
    expected = gradients(params, **arrays)
    found = np.load(work / "g.npz")
    for name in ("fc1.w", "x"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
        norm = np.linalg.norm(expected[name])
        assert summary["gradients"][name] == pytest.approx(norm, rel=1e-5)
    shown = gradc("grad", *given).out
    assert shown.startswith(f"loss {loss:.5g}"[:9])
    assert "fc2.b" in shown


@pytest.mark.parametrize("precision", ["f64", "f16", "bf16"])
def test_run_prints_numbers_in_every_precision(work: Path, precision: str) -> None:
    done = gradc(
        "run", work / "mlp.grad", "--data", work / "in.npz", "--params", work / "p.safetensors",
        "--precision", precision, "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    params = {n: a.astype(float) for n, a in gradc_api.loads(MLP).init(4).items()}
    _, logits = forward(params, **dict(np.load(work / "in.npz")))
    np.testing.assert_allclose(json.loads(done.out)["values"]["logits"], logits, atol=0.05)


def test_plan_in_all_its_forms(work: Path) -> None:
    program = (work / "deep.grad", "-D", "B=32")
    done = gradc("plan", *program)
    assert (done.status, done.err) == (0, "")
    for part in ("peak", "lower bound", "parameters", "inputs", "gradients", "most alive at launch",
                 "thread scratch", "kept for the reverse sweep", "deep.grad:6"):  # fmt: skip
        assert part in done.out, part
    assert "computed again" not in done.out
    found = json.loads(gradc("plan", *program, "--json", "--check").out)
    assert found["faults"] == []
    net = gradc_api.loads(DEEP, dims={"B": 32})
    assert found["peak_bytes"] == net.plan().peak_bytes
    assert found["arena_bytes"] + sum(found["bytes_by_role"].values()) == found["peak_bytes"]
    assert max(found["live"]) == found["live"][found["moment"]["launch"]] == found["lower_bound"]
    assert found["moment"]["line"].startswith(str(work / "deep.grad"))
    aligned = sum(-(-held["bytes"] // 64) * 64 for held in found["at_peak"])
    assert aligned == found["lower_bound"]


def test_a_plan_within_a_budget_says_what_is_computed_again(work: Path) -> None:
    program = (work / "deep.grad", "-D", "B=32")
    curve = json.loads(gradc("plan", *program, "--pareto", "--json").out)["choices"]
    peaks = [c["peak_bytes"] for c in curve]
    works = [c["work"] for c in curve]
    assert len(curve) > 1
    assert peaks == sorted(peaks, reverse=True)
    assert works == sorted(works)
    assert works[0] == 1
    within = gradc("plan", *program, "--budget", peaks[-1], "--check")
    assert within.status == 0
    assert "computed again" in within.out
    assert "to keep the budget" in within.out
    assert "no fault" in within.out
    table = gradc("plan", *program, "--pareto").out.splitlines()
    assert len(table) == len(curve) + 2
    below = gradc("plan", *program, "--budget", peaks[-1] - 1)
    assert below.status == 1
    assert f"allow {peaks[-1]} bytes" in below.err


def test_a_checkpoint_of_the_program_is_the_reason_given(work: Path, tmp_path: Path) -> None:
    program = tmp_path / "marked.grad"
    program.write_text(DEEP.replace("{ h = b(h) }", "{ checkpoint { h = b(h) } }"))
    found = json.loads(gradc("plan", program, "-D", "B=32", "--json").out)
    assert found["recomputed"]
    assert {d["why"] for d in found["recomputed"]} == {"in a checkpoint block"}
    plain = json.loads(gradc("plan", work / "deep.grad", "-D", "B=32", "--json").out)
    assert found["arena_bytes"] < plain["arena_bytes"]
    assert not plain["recomputed"]


def test_pictures_are_complete_and_well_formed(work: Path, tmp_path: Path) -> None:
    from xml.etree import ElementTree

    program = (work / "deep.grad", "-D", "B=32")
    for flags, name in (((), "memory.svg"), (("--pareto",), "curve.svg")):
        done = gradc("plan", *program, *flags, "--svg", tmp_path / name)
        assert done.status == 0
        assert done.err.startswith(f"wrote {tmp_path / name}\n")
        tree = ElementTree.parse(tmp_path / name)
        assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg"
    circles = (tmp_path / "curve.svg").read_text().count("<circle")
    assert circles == len(json.loads(gradc("plan", *program, "--pareto", "--json").out)["choices"])


def test_plans_of_steps_and_forward_programs(work: Path) -> None:
    program = (work / "mlp.grad", "-D", "B=16", "--json")
    step = json.loads(gradc("plan", *program, "--optimizer", "adamw(lr=1e-3)").out)
    assert {"slot", "hyper"} <= set(step["bytes_by_role"])
    assert step["kept"]
    forward_only = json.loads(gradc("plan", *program, "--forward").out)
    assert forward_only["peak_bytes"] < step["peak_bytes"]
    halves = gradc("plan", *program, "--optimizer", "sgd(lr=0.1)", "--accumulate", "2")
    assert halves.status == 0


def test_compile_prints_or_writes_any_stage(work: Path, tmp_path: Path) -> None:
    program = (work / "mlp.grad", "-D", "B=4")
    for kind in ("ast", "ir", "adjoint", "opt", "loops", "plan", "llvm", "dot", "svg"):
        done = gradc("compile", *program, "--emit", kind)
        assert (done.status, done.err) == (0, ""), kind
        assert len(done.out) > 100
    done = gradc("compile", *program, "--emit", "ir,plan", "-o", tmp_path / "deep" / "er")
    assert (done.status, done.out) == (0, "")
    assert {p.suffix for p in (tmp_path / "deep" / "er").iterdir()} == {".txt", ".plan"}


def test_cache_doctor_fmt_explain(
    work: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRADC_CACHE", str(tmp_path / "cache"))
    assert json.loads(gradc("cache", "info", "--json").out)["entries"] == 0
    assert gradc("cache", "clear").out.startswith("removed 0")
    quick_limits(monkeypatch)
    doctor = gradc("doctor", "--json")
    found = json.loads(doctor.out)
    assert (doctor.status, found["gradc"]) == (0, gradc_api.__version__)
    assert "GF/s" in found["limits, 1 thread"]
    assert "measuring" in doctor.err
    assert gradc("doctor").err == ""
    assert "measuring" in gradc("doctor", "--measure").err
    copy = tmp_path / "ugly.grad"
    copy.write_text((work / "ugly.grad").read_text())
    assert gradc("fmt", "--check", copy).status == 1
    assert "+model f(x: float)" in gradc("fmt", "--diff", copy).out
    assert gradc("fmt", copy).status == 0
    assert gradc("fmt", "--check", copy).status == 0
    assert gradc("explain", "gc0602").out.startswith("GC0602: ")


# ---- streams, colour, pipes, our own faults


def test_diagnostics_go_to_stderr_in_both_formats(work: Path) -> None:
    plain = gradc("check", work / "bad.grad")
    assert (plain.status, plain.out) == (1, "")
    assert "error[GC" in plain.err
    assert "did you mean `sin`" in plain.err
    assert "\x1b" not in plain.err
    done = gradc("check", work / "bad.grad", "--error-format", "json")
    (found,) = json.loads(done.err)["diagnostics"]
    assert (done.status, done.out, found["severity"]) == (1, "", "error")


def test_colour_is_for_terminals_unless_asked_for(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\x1b[" in gradc("check", work / "bad.grad", "--color", "always").err
    monkeypatch.setattr("gradc.runtime.console.sys.stderr.isatty", lambda: True, raising=False)
    from gradc.runtime.console import Console

    class Terminal:
        def isatty(self) -> bool:
            return True

    terminal: Any = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Console().colors(terminal)
    assert not Console("never").colors(terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Console().colors(terminal)


def test_a_reader_that_goes_away_is_no_error(work: Path) -> None:
    """`gradc ... | head -1` ends quietly."""
    command = [sys.executable, "-m", "gradc", "compile", str(work / "deep.grad"), "-D", "B=8",
               "--emit", "llvm"]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        job.stdout.read(10)
        job.stdout.close()
        errors = job.stderr.read().decode()
        status = job.wait()
    assert (status, errors) == (0, "")


def test_a_fault_of_ours_is_one_line_and_a_report(
    work: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("gradc.runtime.commands.check.read_program", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = gradc("check", work / "mlp.grad")
    assert (done.status, done.out) == (cli.INTERNAL, "")
    assert done.err.startswith("gradc: internal error: ZeroDivisionError: a bug\n")
    assert "Traceback" not in done.err
    (report,) = tmp_path.glob("gradc-internal-*.txt")
    assert str(report) in done.err
    assert "ZeroDivisionError" in report.read_text()


def test_a_command_that_cannot_be_imported_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"no {name}")

    monkeypatch.setattr(cli, "import_module", missing)
    done = gradc("check", "x.grad")
    assert done.status == cli.INTERNAL
    assert "Traceback" not in done.err


def test_no_memory_is_a_diagnostic(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: object, **__: object) -> None:
        raise MemoryError("no room for an arena of 9 bytes")

    monkeypatch.setattr("gradc.codegen.llvm.host.load._aligned", hungry)
    done = gradc("run", work / "mlp.grad", "--data", work / "in.npz", "--threads", "3")
    assert done.status == 1
    assert "error[GC0604]" in done.err
    assert "arena of 9 bytes" in done.err


def test_interruption_has_its_own_status(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradc.runtime.commands.check.read_program", interrupted)
    done = gradc("check", work / "mlp.grad")
    assert (done.status, done.err) == (130, "gradc: interrupted\n")


# ---- bad input: a diagnostic that names the thing, status 1 or 2, never a traceback

# Arguments with {w} for the folder, the status, and what stderr must say.
RUN = "run {w}/mlp.grad --data {w}/in.npz"
GRAD = "grad {w}/mlp.grad --data {w}/in.npz"
PLAN = "plan {w}/mlp.grad -D B=8"
COMPILE = "compile {w}/mlp.grad -D B=8 --emit ir"
TRAIN = "train {w}/mlp.grad --data {w}/in.npz --out {w}/never"
BAD: tuple[tuple[str, int, str], ...] = (
    # usage
    ("chekc {w}/mlp.grad", 2, "no command `chekc`; did you mean `check`"),
    ("xyzzy", 2, "no command `xyzzy`"),
    ("--frobnicate", 2, "frobnicate"),
    ("check", 2, "FILE"),
    ("check {w}/mlp.grad {w}/two.grad", 2, "unrecognized arguments"),
    ("check {w}/mlp.grad --colour", 2, "--colour"),
    ("check {w}/mlp.grad --color sometimes", 2, "sometimes"),
    ("run {w}/mlp.grad", 2, "--data"),
    ("train {w}/mlp.grad --data {w}/in.npz", 2, "--out"),
    (RUN + " --precision f8", 2, "f8"),
    (RUN + " --threads two", 2, "two"),
    (RUN + " --seed x", 2, "--seed"),
    ("cache", 2, "action"),
    ("cache burn", 2, "burn"),
    ("bench {w}/mlp.grad --seconds soon", 2, "soon"),
    ("fmt", 2, "FILE"),
    ("fmt --check --diff {w}/mlp.grad", 2, "not allowed"),
    # programs
    ("check {w}/absent.grad", 1, "absent.grad"),
    ("check {w}", 1, "cannot read"),
    ("check {w}/bad.grad", 1, "`sun`.*bad.grad:2:"),
    ("check {w}/worse.grad", 1, "worse.grad:"),
    ("check {w}/bytes.grad", 1, "UTF-8"),
    ("run {w}/two.grad --data {w}/in.npz", 1, "several models.*`a`, `b`"),
    ("run {w}/none.grad --data {w}/in.npz", 1, "declares no model"),
    ("run {w}/empty.grad --data {w}/in.npz", 1, "declares no model"),
    (RUN + " --entry mpl", 1, "no model `mpl`.*did you mean `mlp`"),
    ("run {w}/bad.grad --data {w}/in.npz", 1, "`sun`"),
    ("fmt {w}/worse.grad", 1, "worse.grad:"),
    ("fmt {w}/absent.grad", 1, "absent.grad"),
    # dimensions
    (RUN + " -D B", 1, "-D B: not a dimension"),
    (RUN + " -D B=", 1, "-D B=: not a dimension"),
    (RUN + " -D =3", 1, "-D =3"),
    (RUN + " -D B=-1", 1, "-D B=-1"),
    (RUN + " -D B=1.5", 1, "-D B=1.5"),
    (RUN + " -D B=many", 1, "-D B=many"),
    (RUN + " -D B=99999999999999999999", 1, "-D B=9999"),
    (RUN + " -D Q=3", 1, "no dimension `Q`"),
    (RUN + " -D B=9", 1, "`B`"),
    (RUN + " -D H=5 -D C=4 --params {w}/p.safetensors", 1, "GC0555.*fc2"),
    ("plan {w}/mlp.grad", 1, "GC0541.*`B`"),
    ("compile {w}/mlp.grad --emit ir", 1, "GC0541.*`B`"),
    ("plan {w}/mlp.grad -D B=999999999999999", 1, "GC0404.*takes"),
    # budgets and threads
    (PLAN + " --budget 0", 1, "GC0601.*0"),
    (PLAN + " --budget=-1", 1, "GC0601.*-1"),
    (PLAN + " --budget lots", 1, "GC0601.*`lots`"),
    (PLAN + " --budget 5parsecs", 1, "GC0601.*5parsecs"),
    (PLAN + " --budget 1e3", 1, "GC0601.*1e3"),
    (PLAN + " --budget inf", 1, "GC0601.*inf"),
    (PLAN + " --budget 9999999999999TiB", 1, "GC0601"),
    (PLAN + " --budget 64B", 1, "GC0602.*smallest peak"),
    (RUN + " --budget 64B", 1, "GC0602"),
    (RUN + " --budget 900TiB", 1, "GC0603.*more than this machine has"),
    (GRAD + " --budget 0", 1, "GC0601"),
    (TRAIN + " --budget 900TiB", 1, "GC0603"),
    (TRAIN + " --budget 100B", 1, "GC0602"),
    (COMPILE + " --budget 100B", 1, "GC0602"),
    (RUN + " --threads 0", 1, "GC0563.*0"),
    (RUN + " --threads=-4", 1, "GC0563.*-4"),
    (RUN + " --threads 999999", 1, "GC0563.*999999"),
    (PLAN + " --pareto --budget 1MiB", 1, "--pareto.*leave out --budget"),
    (PLAN + " --pareto --check", 1, "--pareto.*leave out --check"),
    (PLAN + " --wrt fc1.q", 1, "fc1.q"),
    (PLAN + " --wrt y", 1, "GC0562.*`y`"),
    (PLAN + " --optimizer sgdd(lr=1)", 1, "sgdd.*sgd"),
    (PLAN + " --optimizer sgd(", 1, "GC"),
    (PLAN + " --optimizer sgd(lr=0.1) --accumulate 3", 1, "GC0808.*3"),
    (PLAN + " --optimizer sgd(lr=0.1) --accumulate none", 1, "--accumulate"),
    (PLAN + " --svg {w}/no/where/plan.svg", 1, "cannot write.*plan.svg"),
    # data
    ("run {w}/mlp.grad --data {w}/absent.npz", 1, "GC0570.*absent.npz"),
    ("run {w}/mlp.grad --data {w}", 1, "GC0570"),
    ("run {w}/mlp.grad --data {w}/text.npz", 1, "GC0570.*text.npz"),
    ("run {w}/mlp.grad --data {w}/cut.npz", 1, "GC0570.*cut.npz"),
    ("run {w}/mlp.grad --data {w}/nameless.npz", 1, "GC0553.*`x`.*GC0554"),
    ("run {w}/mlp.grad --data {w}/lacking.npz --outputs loss", 1, "GC0553.*`y` is missing"),
    ("run {w}/mlp.grad --data {w}/extra.npz", 1, "GC0554.*`z`"),
    ("run {w}/mlp.grad --data {w}/narrow.npz", 1, "`x`.*4"),
    ("run {w}/mlp.grad --data {w}/uneven.npz", 1, "`B`"),
    ("run {w}/mlp.grad --data {w}/flat.npz", 1, "`x`"),
    ("run {w}/mlp.grad --data {w}/kinds.npz", 1, "GC0552.*`y` is float64"),
    ("run {w}/mlp.grad --data {w}/complex.npz", 1, "GC0571.*`x`.*complex"),
    ("run {w}/mlp.grad --data {w}/strings.npz", 1, "GC0571.*`x`"),
    ("run {w}/mlp.grad --data {w}/objects.npz", 1, "GC0571.*`x`.*Python objects"),
    ("grad {w}/mlp.grad --data {w}/lacking.npz", 1, "GC0553"),
    (GRAD + " --wrt fc1.w,fc3.w", 1, "GC0554.*`fc3.w`"),
    (GRAD + " --wrt y", 1, "GC0562.*`y`"),
    (GRAD + " --wrt ,", 1, "GC0554"),
    (GRAD + " --out {w}/no/where/g.npz", 1, "cannot write"),
    (RUN + " --out {w}/no/where/o.npz", 1, "cannot write"),
    # parameters
    (RUN + " --params {w}/absent.safetensors", 1, "GC0570.*absent"),
    (RUN + " --params {w}/text.safetensors", 1, "GC0574.*text.safetensors"),
    (RUN + " --params {w}/in.npz", 1, "GC0553.*`fc1.w`"),
    (RUN + " --params {w}/few.safetensors", 1, "GC0553.*`fc1.b` is missing"),
    (RUN + " --params {w}/wide.safetensors", 1, "GC0555.*`fc1.b`"),
    (RUN + " --params {w}/ints.safetensors", 1, "GC0552.*`fc1.b` is int32"),
    # training
    ("train {w}/mlp.grad --data {w}/holed.npz --out {w}/n1", 1, r"GC0556.*`x`.*\(3, 2\)"),
    ("train {w}/mlp.grad --data {w}/uneven.npz --out {w}/n2", 1, "GC0803|`B`"),
    ("train {w}/mlp.grad --data {w}/nothing.npz --out {w}/n3", 1, "GC0803.*at least one"),
    (TRAIN + " --valid {w}/absent.npz", 1, "absent.npz"),
    (TRAIN + " --valid {w}/holed.npz", 1, "GC0556"),
    (TRAIN + " --valid {w}/narrow.npz", 1, "`x`"),
    (TRAIN + " --batch 0", 1, "--batch must be.*not 0"),
    (TRAIN + " --batch=-8", 1, "--batch"),
    (TRAIN + " --batch many", 1, "--batch.*many"),
    (TRAIN + " --epochs=-1", 1, "--epochs"),
    (TRAIN + " --epochs 1.5", 1, "--epochs"),
    (TRAIN + " --accumulate 0", 1, "--accumulate"),
    (TRAIN + " --accumulate 3", 1, "GC0808"),
    (TRAIN + " --clip-norm 0", 1, "GC0801.*clip_norm"),
    (TRAIN + " --clip-norm nan", 1, "GC0801.*clip_norm"),
    (TRAIN + " --clip-value=-1", 1, "GC0801.*clip_value"),
    (TRAIN + " --loss-scale much", 1, "GC0801.*loss_scale"),
    (TRAIN + " --loss-scale=-2", 1, "GC0801.*loss_scale"),
    (TRAIN + " --loss-scale inf", 1, "GC0801.*loss_scale"),
    (TRAIN + " --optimizer adma(lr=1)", 1, "`adma`.*did you mean `adam`"),
    (TRAIN + " --optimizer sgd(rate=1)", 1, "rate"),
    (TRAIN + " --optimizer sgd(lr='x')", 1, "GC"),
    (TRAIN + " --optimizer __import__('os')", 1, "GC"),
    (TRAIN + " --schedule consine(peak=1,total=2)", 1, "consine"),
    (TRAIN + " --schedule cosine()", 1, "peak|total"),
    (TRAIN + " --decay-on biases", 2, "biases"),
    ("train {w}/mlp.grad --data {w}/in.npz --out {w}/mlp.grad", 1, "mlp.grad"),
    ("train {w}/mlp.grad --data {w}/in.npz --out {w}/nowhere --resume", 1, "GC0805.*no run"),
    ("train {w}/two.grad --entry a --data {w}/in.npz --out {w}/n4", 1, "GC05|GC0802"),
    (TRAIN + " -D B=4", 1, "GC0802.*model mlp.*leave `B` without a value"),
    # compile and the rest
    ("compile {w}/mlp.grad -D B=8", 1, "give -o DIR"),
    ("compile {w}/mlp.grad -D B=8 --emit cake", 1, "--emit cake"),
    (COMPILE + " --isa z80", 1, "z80"),
    (COMPILE + " --dump-after nonsense", 1, "nonsense"),
    ("compile {w}/mlp.grad -D B=8 --name 1x -o {w}/o", 1, "--name 1x"),
    ("compile {w}/mlp.grad -D B=8 -o {w}/mlp.grad", 1, "mlp.grad"),
    ("explain GC9999", 1, "no diagnostic code `GC9999`"),
    ("explain {w}/mlp.grad", 1, "--data"),
    ("bench {w}/mlp.grad -D B=4 --against caffe", 1, "GC0568.*caffe"),
    ("bench {w}/mlp.grad", 1, "GC0541.*`B`"),
)


@pytest.mark.parametrize(("arguments", "status", "message"), BAD, ids=[b[0] for b in BAD])
def test_bad_input_is_a_diagnostic(work: Path, arguments: str, status: int, message: str) -> None:
    done = gradc(*(part.replace("{w}", str(work)) for part in arguments.split(" ")))
    shown = f"{done.out}{done.err}"
    assert done.status == status, shown
    assert "Traceback" not in shown
    assert "internal error" not in shown
    assert re.search(message, done.err, re.DOTALL), shown
    assert done.out == ""
    assert not (work / "never").exists()


def test_there_are_at_least_a_hundred_of_them() -> None:
    assert len({arguments for arguments, _, _ in BAD}) >= 100


def test_what_is_not_finite_is_null_in_json(work: Path) -> None:
    done = gradc("run", work / "mlp.grad", "--data", work / "holed.npz", "--json")
    values = json.loads(done.out)["values"]
    assert values["loss"] is None
    assert values["logits"][3] == [None, None, None]
    assert None not in values["logits"][2]


@pytest.mark.parametrize(
    ("streams", "status", "said"),
    [
        ("<&-", 1, "cannot read standard input"),
        (">&-", 1, "GC0001"),
        ("2>&-", 1, ""),
    ],
)
def test_closed_streams(streams: str, status: int, said: str) -> None:
    """Python has None for a stream whose descriptor the caller closed."""
    file = "-" if streams == "<&-" else "none.grad"
    command = f"{shlex.quote(sys.executable)} -m gradc check {file} {streams}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert said in done.stderr
    assert "internal" not in done.stderr


def test_a_full_disk_behind_standard_output() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "gradc", "explain", "GC0104"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "gradc: cannot write the results: No space left on device\n"


def test_a_batch_of_nothing_is_verified(work: Path) -> None:
    """The maximum over classes of no samples at all, in a prime field."""
    assert gradc("verify", work / "mlp.grad", "-D", "B=0").status == 0
