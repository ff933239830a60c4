"""What one session on a graphics processor answers, in one run of under eight minutes.

    python -m benchmarks.gpu_cases build/gpu           # here: cubins, recipes, the CPU's digests
    python -m benchmarks.gpu run build/gpu --out OUT   # there: NumPy and a driver are enough

Steps, in order, each result written to OUT/results.jsonl at once: what the machine is, all cubins
loaded; the vector mathematics, bits against the CPU's; every program from an arena full of NaN,
launch by launch; the same as one graph a hundred times, equal bits each time; the sanitizer's
tools on small programs; bandwidth of a copy, time of every program; PyTorch's compiled twins, where
PyTorch is. A step that the time no longer allows is left out and says so. Against the driver double
(``tests.support.cuda_machine``) it runs to its end without a device.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import CASES
from gradc.codegen.cuda.runner.clock import measured_limits
from gradc.codegen.cuda.runner.device import Device, device
from gradc.codegen.cuda.runner.loaded import CudaProgram
from gradc.codegen.cuda.toolchain.build import Built

BUDGET = 460.0  # seconds of all steps
REPEATS, TIMED = 100, 50
_SANITIZED = ("memcheck", "racecheck", "initcheck")
_TOOL_SECONDS = 40
_PARTS = 64  # of an array of results, each with a digest of its own
NUMPY = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": np.uint16,
    "i64": np.int64, "i32": np.int32, "u32": np.uint32, "bool": np.bool_,
}  # fmt: skip

Array = np.ndarray[Any, Any]
Case = dict[str, Any]


# ---- arrays and digests -------------------------------------------------------------------------


def made(port: dict[str, Any], case: Case) -> Array:
    """The array of a port before the first call, from its recipe."""
    shape, dtype, recipe = tuple(port["shape"]), np.dtype(NUMPY[port["dtype"]]), port["from"]
    if "fill" in recipe:
        return np.full(shape, recipe["fill"], dtype)
    if "bits" in recipe:  # every bit pattern: NaN, infinities, denormals among them
        rng = np.random.default_rng(recipe["bits"])
        word = np.dtype(f"u{dtype.itemsize}")
        drawn = rng.integers(0, np.iinfo(word).max, shape, word, endpoint=True)
        return drawn.view(dtype)
    if "normal" in recipe:
        return np.random.default_rng(recipe["normal"]).normal(size=shape).astype(dtype)
    model = CASES[case["model"]]
    arrays = model.params() if recipe["of"] == "params" else model.inputs()
    return np.ascontiguousarray(arrays[port["name"]].reshape(shape).astype(dtype))


def digests(array: Array) -> list[str]:
    """Of each part of an array; all NaN are one."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind == "f":
        flat = np.where(np.isnan(flat), np.asarray(np.nan, flat.dtype), flat)
    parts = np.array_split(flat, min(_PARTS, max(1, flat.size)))
    return [hashlib.blake2b(part.tobytes(), digest_size=8).hexdigest() for part in parts]


def arrays_of(case: Case) -> list[Array]:
    """One array per port, as before the first call.

    Raises:
        ValueError: this NumPy draws other numbers than the one that prepared the case.
    """
    arrays = [made(port, case) for port in case["ports"]]
    for port, array in zip(case["ports"], arrays, strict=True):
        if port["direction"] != "out" and digests(array) != port["before"]:
            raise ValueError(f"{port['name']}: this NumPy draws other numbers")
    return arrays


def differing(case: Case, arrays: list[Array]) -> list[str]:
    """The results that are not the CPU's, with how many of their parts differ."""
    found = []
    for port, array in zip(case["ports"], arrays, strict=True):
        if port["direction"] != "in":
            wrong = sum(a != b for a, b in zip(digests(array), port["after"], strict=True))
            if wrong:
                found.append(f"{port['name']}: {wrong} of {len(port['after'])} parts")
    return found


# ---- the session --------------------------------------------------------------------------------


class Session:
    """The steps on one device, and what they found so far."""

    def __init__(self, folder: Path, out: Path, only: tuple[str, ...], budget: float) -> None:
        self.folder, self.out, self.budget = folder, out, budget
        self.started = time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        self.results = out / "results.jsonl"
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.cases: list[Case] = [c for c in index["cases"] if not only or c["name"] in only]
        self.is_whole = not only
        self.device: Device
        self.programs: dict[str, CudaProgram] = {}
        self.faults = 0

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.budget - (time.monotonic() - self.started)

    def write(self, step: str, **facts: Any) -> None:
        """One result, on disk before anything else happens."""
        at = round(time.monotonic() - self.started, 3)
        line = json.dumps({"step": step, "at": at, **facts})
        with self.results.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(line, flush=True)

    def step(self, name: str, seconds: float, run: Callable[[], None]) -> None:
        """Runs one step if there is time for it; what goes wrong is a result."""
        if self.left < seconds:
            self.write(name, skipped=f"{self.left:.0f} s are left")
            return
        try:
            run()
        except Exception as problem:  # noqa: BLE001  (the next steps are worth having)
            self.faults += 1
            self.write(name, failed=f"{type(problem).__name__}: {problem}"[:2000])

    def each(self, step: str, cases: list[Case], run: Callable[[Case], dict[str, Any]]) -> None:
        """Runs a step of every case; a case that fails does not stop the others."""
        for case in cases:
            refused = "no time is left" if self.left < 5 else self.refusal(case)
            if refused:
                self.write(step, case=case["name"], skipped=refused)
                continue
            try:
                facts = run(case)
            except Exception as problem:  # noqa: BLE001
                facts = {"failed": f"{type(problem).__name__}: {problem}"[:2000]}
            self.faults += bool(facts.get("failed") or facts.get("differs"))
            self.write(step, case=case["name"], **facts)

    def refusal(self, case: Case) -> str:
        """Why a case is not run on this machine; nothing where it is."""
        return ""

    def built(self, case: Case) -> Built:
        """The machine code of a case."""
        return Built.unpack((self.folder / case["block"]).read_bytes())

    def run(self) -> int:
        """All steps; the number of faults."""
        self.step("machine", 0, self.machine)
        if not self.programs:
            self.faults = max(1, self.faults)
            self.write("end", faults=self.faults)
            return self.faults
        maths = [c for c in self.cases if c["kind"] == "maths"]
        others = [c for c in self.cases if c["kind"] != "maths"]
        self.step("maths", 5, lambda: self.each("maths", maths, self.launched))
        self.step("launches", 5, lambda: self.each("launches", others, self.launched))
        self.step("graph", 5, lambda: self.each("graph", others, self.repeated))
        if self.is_whole:
            self.step("sanitizer", 10, self.sanitized)
        self.step("bandwidth", 5, self.bandwidth)
        self.step("time", 5, lambda: self.each("time", others, self.timed))
        if self.is_whole:
            self.step("torch", 30, self.peers)
            self.step("jax", 30, self.jax)
        self.write("end", faults=self.faults)
        return self.faults

    # ---- steps

    def machine(self) -> None:
        """Versions, attributes, every cubin loaded."""
        self.device = device(0)
        versions = {"python": platform.python_version(), "numpy": np.__version__}
        facts = {k: float(v) for k, v in self.device.facts.items()}
        self.write("machine", about=self.device.about(), versions=versions, facts=facts)
        for case in self.cases:
            built = self.built(case)
            begun = time.perf_counter()
            self.programs[case["name"]] = CudaProgram(built, self.device)
            seconds = round(time.perf_counter() - begun, 4)
            self.write("load", case=case["name"], bytes=len(built.cubin), seconds=seconds)

    def launched(self, case: Case) -> dict[str, Any]:
        """Every call launch by launch, from an arena full of NaN, against the CPU's digests."""
        program, arrays = self.programs[case["name"]], arrays_of(case)
        arena = program.executable.arena
        for _ in range(case["calls"]):
            self.device.enter()
            self.device.fill(arena.address, 0xFF, arena.nbytes)
            program.plainly(arrays)
        wrong = differing(case, arrays)
        return {"differs": wrong} if wrong else {"same": True}

    def repeated(self, case: Case) -> dict[str, Any]:
        """The same through one graph, again and again: the CPU's bits each time."""
        program, begun = self.programs[case["name"]], time.perf_counter()
        first, times = arrays_of(case), 0
        while times < REPEATS and time.perf_counter() - begun < 8 and self.left > 10:
            arrays = [array.copy() for array in first]
            for _ in range(case["calls"]):
                program.launch(arrays)
            times += 1
            wrong = differing(case, arrays)
            if wrong:
                return {"differs": wrong, "at": times}
        return {"same": True, "times": times}

    def sanitized(self) -> None:
        """NVIDIA's own checkers on the smallest programs, in processes of their own."""
        tool = shutil.which("compute-sanitizer")
        if tool is None:
            self.write("sanitizer", skipped="there is no compute-sanitizer")
            return
        small = ",".join(c["name"] for c in self.cases if c["is_small"])
        for name in _SANITIZED:
            if self.left < _TOOL_SECONDS:
                self.write("sanitizer", tool=name, skipped="no time is left")
                continue
            out = self.out / name
            asked = [tool, "--tool", name, "--error-exitcode", "9", sys.executable, "-m"]
            asked += ["benchmarks.gpu", "run", str(self.folder), "--out", str(out), "--only", small]
            asked += ["--budget", str(_TOOL_SECONDS)]
            try:
                done = subprocess.run(
                    asked, capture_output=True, text=True, check=False, timeout=_TOOL_SECONDS + 10
                )
            except subprocess.TimeoutExpired:
                self.write("sanitizer", tool=name, skipped="it took too long")
                continue
            said = done.stdout.strip().splitlines()[-3:]
            self.faults += done.returncode == 9
            self.write("sanitizer", tool=name, status=done.returncode, said=said)

    def bandwidth(self) -> None:
        """A copy within the device."""
        found = measured_limits(self.device)
        self.write("bandwidth", bytes_per_second=found.memory, spread=found.spread)

    def timed(self, case: Case) -> dict[str, Any]:
        """Seconds of a call as one graph, nothing copied; bytes and flops in a second."""
        program, arrays = self.programs[case["name"]], arrays_of(case)
        times = program.seconds(arrays, TIMED)
        best = min(times)
        nbytes, flops = case["bytes"], case["flops"]
        return {
            "seconds": best,
            "median": sorted(times)[len(times) // 2],
            "bytes_per_second": nbytes / best,
            "flops_per_second": flops / best,
        }

    def peers(self) -> None:
        """PyTorch's compiled twins on the same arrays."""
        try:
            import torch
        except ImportError:
            self.write("torch", skipped="PyTorch is not installed")
            return
        if not torch.cuda.is_available():
            self.write("torch", skipped="PyTorch finds no device")
            return
        for case in self.cases:
            if case["kind"] == "gradient" and self.left > 25:
                self.write("torch", case=case["name"], **_torch_time(torch, case))

    def jax(self) -> None:
        """JAX's twins on the same arrays, in f32 throughout."""
        try:
            import jax
        except ImportError:
            self.write("jax", skipped="JAX is not installed")
            return
        if jax.default_backend() != "gpu":
            self.write("jax", skipped="JAX finds no device")
            return
        for case in self.cases:
            if case["kind"] == "gradient" and self.left > 25:
                self.write("jax", case=case["name"], **_jax_time(jax, case))


def _jax_time(jax: Any, case: Case) -> dict[str, Any]:
    """Seconds of loss and gradient, compiled, the inputs on the device; the clock runs from one
    result to the next.
    """
    from benchmarks.twins_jax import TWINS

    model = CASES[case["model"]]
    try:
        with jax.default_matmul_precision("highest"):
            call = jax.jit(jax.value_and_grad(TWINS[case["model"]]))
            given = [jax.tree.map(jax.numpy.asarray, a) for a in (model.params(), model.inputs())]
            for _ in range(5):
                jax.block_until_ready(call(*given))
            each = []
            for _ in range(50):
                begun = time.perf_counter()
                jax.block_until_ready(call(*given))
                each.append(time.perf_counter() - begun)
    except Exception as problem:  # noqa: BLE001  (what a peer does is its own)
        return {"failed": f"{type(problem).__name__}: {problem}"[:500]}
    return {"seconds": min(each), "median": sorted(each)[len(each) // 2]}


def _torch_time(torch: Any, case: Case) -> dict[str, Any]:
    """Milliseconds of loss and gradient, compiled, the inputs on the device."""
    from benchmarks.twins_torch import TWINS, is_transposed

    torch.backends.cuda.matmul.allow_tf32 = False
    model = CASES[case["model"]]
    params = {
        name: torch.tensor(a.T.copy() if is_transposed(name) else a, device="cuda")
        for name, a in model.params().items()
    }
    inputs = {
        name: torch.tensor(a.astype(np.int64) if a.dtype.kind == "i" else a, device="cuda")
        for name, a in model.inputs().items()
    }
    for tensor in params.values():
        tensor.requires_grad_(True)
    twin = torch.compile(lambda: TWINS[case["model"]](params, inputs))

    def call() -> None:
        torch.autograd.grad(twin(), list(params.values()))

    try:
        for _ in range(5):
            call()
        torch.cuda.synchronize()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(51)]
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        torch.cuda.synchronize()
    except Exception as problem:  # noqa: BLE001  (what a peer does is its own)
        return {"failed": f"{type(problem).__name__}: {problem}"[:500]}
    each = sorted(a.elapsed_time(b) / 1e3 for a, b in pairwise(marks))
    return {"seconds": each[0], "median": each[len(each) // 2]}


def lines_of(out: Path) -> Iterator[dict[str, Any]]:
    """The results of a run so far."""
    for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def main(arguments: list[str] | None = None, session: type[Session] = Session) -> int:
    """Runs, and tells; ``session`` knows the machine."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["run"])
    parser.add_argument("folder", type=Path, help="what benchmarks.gpu_cases has prepared")
    parser.add_argument("--out", type=Path, required=True, help="where results go")
    parser.add_argument("--only", default="", help="names of cases, separated by commas")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of all steps")
    asked = parser.parse_args(arguments)
    only = tuple(name for name in asked.only.split(",") if name)
    return min(1, session(asked.folder, asked.out, only, asked.budget).run())


if __name__ == "__main__":
    sys.exit(main())
