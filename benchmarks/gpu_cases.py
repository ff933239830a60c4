"""Prepares ``benchmarks.gpu``: ``python -m benchmarks.gpu_cases FOLDER [--isa sm_90]``.

For each case machine code, a recipe for every array, and digests of what the CPU computes, so
that the machine with the device needs neither the compiler nor the extra ``cuda``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gradc
from benchmarks.cases import CASES
from benchmarks.gpu import Array, digests, made
from gradc.codegen.backend import backend
from gradc.ir.plan.plan import Plan, Port
from gradc.runtime.model.model import Model
from gradc.runtime.native.compile import compile_options, plan_of
from gradc.runtime.native.load import compile_plan

MODELS = ("mlp_tiny", "mlp_small", "rows", "lenet", "attention", "lstm", "gpt")
STEPS = ("mlp_tiny", "lenet", "gpt")
FUNCTIONS = ("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "tanh", "erf", "sqrt")
_MATHS_SIZE, _PRODUCT = 1 << 20, 2048
_SMALL = ("mlp_tiny",)
_STEPS_DONE = 3


@dataclass(frozen=True)
class Subject:
    """A case: a Plan for a target, made from a name; how often it is called; where arrays come
    from.
    """

    name: str
    kind: str
    model: str
    plan: Callable[[str], Plan]
    recipe: Callable[[Port], dict[str, Any]]
    calls: int = 1


def subjects(maths_size: int = _MATHS_SIZE, product: int = _PRODUCT) -> Iterator[Subject]:
    """All cases, in the order in which they are run."""
    for name in FUNCTIONS:
        for precision in ("f32", "f64"):
            text = f"model m(x: float[{maths_size}]) -> float[{maths_size}] {{ return {name}(x) }}"
            net = gradc.loads(text, precision=precision)
            yield Subject(f"{name}_{precision}", "maths", "", _forward(net), _drawn("bits"))
    for name in MODELS:
        net = gradc.load(CASES[name].file)
        yield Subject(f"{name}", "gradient", name, _gradient(net, name), _of_case)
    for name in STEPS:
        net = gradc.load(CASES[name].file)
        calls = _STEPS_DONE
        yield Subject(f"{name}_step", "step", name, _step(net, name), _of_state(net, name), calls)
    n = product
    text = f"model m(a: float[{n}, {n}], b: float[{n}, {n}]) -> float[{n}, {n}] {{ return a @ b }}"
    yield Subject("product", "product", "", _forward(gradc.loads(text)), _drawn("normal"))


def _forward(net: Model) -> Callable[[str], Plan]:
    def plan(target: str) -> Plan:
        function = net.lower({}, training=False).function
        return plan_of(function, lambda f: f, compile_options(target=target, threads=1))

    return plan


def _dims(net: Model, name: str) -> dict[str, int]:
    return net.bind({n: a.shape for n, a in CASES[name].inputs().items()})


def _gradient(net: Model, name: str) -> Callable[[str], Plan]:
    def plan(target: str) -> Plan:
        function = net.lower(_dims(net, name), training=True).function
        options = compile_options(target=target, threads=1)
        return plan_of(function, net.gradient_of("params"), options)

    return plan


def _step(net: Model, name: str) -> Callable[[str], Plan]:
    def plan(target: str) -> Plan:
        options = compile_options(target=target, threads=1)
        program = net.train_step("adam(lr=1e-3)").program(_dims(net, name))
        return plan_of(program.source, program.derive, options, program.gradient)

    return plan


def _drawn(how: str) -> Callable[[Port], dict[str, Any]]:
    return lambda port: {"fill": 0} if port.direction == "out" else {how: 7 + port.tensor}


def _of_case(port: Port) -> dict[str, Any]:
    if port.direction == "out":
        return {"fill": 0}
    return {"of": "inputs" if port.role.value == "input" else "params"}


def _of_state(net: Model, name: str) -> Callable[[Port], dict[str, Any]]:
    state = net.train_step("adam(lr=1e-3)").init(CASES[name].params())
    trained = set(state.trained)

    def recipe(port: Port) -> dict[str, Any]:
        if port.direction == "out" or port.role.value == "input" or port.name in trained:
            return _of_case(port)
        array = state.arrays[port.name]
        assert array.size == 0 or (array == array.flat[0]).all(), port.name
        return {"fill": array.flat[0].item() if array.size else 0}

    return recipe


def prepare(folder: Path, subject: Subject, isa: str) -> dict[str, Any]:
    """One case: its machine code in ``folder``, and what the index says of it."""
    cuda = backend("cuda")
    plan = subject.plan("cuda")
    code = cuda.emit(plan, cuda.target(1, isa)).assemble()
    block = folder / f"{subject.name}.block"
    block.write_bytes(code)
    ports: list[dict[str, Any]] = [
        {
            "name": port.name,
            "shape": list(port.shape),
            "dtype": port.dtype.value,
            "direction": port.direction,
            "from": subject.recipe(port),
        }
        for port in plan.ports
    ]
    case: dict[str, Any] = {
        "name": subject.name,
        "kind": subject.kind,
        "model": subject.model,
        "block": block.name,
        "calls": subject.calls,
        "is_small": subject.name in _SMALL,
        "flops": plan.total([float(k.flops) for k in plan.kernels]),
        "bytes": plan.total([float(k.bytes) for k in plan.kernels]),
        "ports": ports,
    }
    arrays: list[Array] = [made(port, case) for port in ports]
    for port, array in zip(ports, arrays, strict=True):
        port["before"] = digests(array)
    host = compile_plan(subject.plan("cpu"), threads=1, cache=False)
    for _ in range(subject.calls):
        host.call(arrays)
    for port, array in zip(ports, arrays, strict=True):
        port["after"] = digests(array)
    return case


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_cases", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--isa", default="sm_90", help="what the device is (sm_90: H100, H200)")
    parser.add_argument("--only", default="", help="names of cases, separated by commas")
    parser.add_argument("--maths-size", type=int, default=_MATHS_SIZE)
    parser.add_argument("--product", type=int, default=_PRODUCT)
    asked = parser.parse_args(arguments)
    only = {name for name in asked.only.split(",") if name}
    asked.folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for subject in subjects(asked.maths_size, asked.product):
        if only and subject.name not in only:
            continue
        begun = time.perf_counter()
        cases.append(prepare(asked.folder, subject, asked.isa))
        print(f"{subject.name}: {time.perf_counter() - begun:.1f} s", flush=True)
        index = {"isa": asked.isa, "numpy": np.__version__, "cases": cases}
        (asked.folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
