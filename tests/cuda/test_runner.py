"""The runner against the driver double, whose launches the simulator runs: the CPU's bits, states
that stay on the device, arrays that are not copied, errors that are said.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc
import gradc.codegen.cuda.backend as cuda_backend
from gradc.codegen.backend import backend, device_shape
from gradc.codegen.cuda.runner import driver as drivers
from gradc.codegen.cuda.runner.arrays import DeviceArray, view
from gradc.codegen.cuda.runner.device import Device, device
from gradc.codegen.cuda.runner.loaded import CudaProgram
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.loop.kernel import Buffer, Exchange, Kernel
from gradc.ir.plan.plan import Argument, Launch, Plan, Port, Tensor
from gradc.ir.tensor.core import DType, Role
from gradc.runtime.native.cache import ObjectCache
from gradc.runtime.native.load import compile_plan, load_native
from tests.support.command_line import gradc as gradc_command
from tests.support.cuda_double import Double, doubled
from tests.support.golden_files import check_golden

PROGRAM = """
    dim B = 5, D = 13
    model m(x: float[B, D], y: float[B]) -> float {
        param w: float[D, 7] ~ normal(0.5)
        param v: float[7] ~ normal(0.5)
        h = tanh(x @ w)
        return mean((h @ v - y)^2)
    }
"""
LOOP = """
    model m(x: float[6, 5], h0: float[5]) -> float {
        param w: float[5, 5] ~ normal(0.3)
        hs = scan row in x carry h = h0 {
            h = tanh(row + h @ w)
            yield h
        }
        return sum(hs^2)
    }
"""


@pytest.fixture
def double() -> Iterator[Double]:
    with doubled() as found:
        yield found


def inputs(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(5, 13)), rng.normal(size=5)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


def same(one: Any, other: Any) -> bool:
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_loss_and_gradients_have_the_bits_of_the_cpu(double: Double) -> None:
    net = gradc.loads(PROGRAM)
    params = net.init(1)
    loss, grads = net.value_and_grad(threads=1)(params, **inputs())
    f = net.value_and_grad(target="cuda", use_cache=False)
    for _ in range(2):  # the first call checks and converts, later ones do not
        double.reset()
        other, others = f(params, **inputs())
        assert same(loss, other) and all(same(grads[n], others[n]) for n in grads)
        assert double.count("graph_launches") == 1
    assert not [call for call in double.log if "Alloc" in call or "Capture" in call]


def test_device_memory_of_a_call_is_what_the_plan_says(double: Double) -> None:
    net = gradc.loads(PROGRAM)
    asked = net.value_and_grad(target="cuda", use_cache=False)
    before = double.count("taken")
    asked(net.init(1), **inputs())
    plan = net.plan(target="cuda")
    assert double.count("taken") - before == plan.plan.peak_bytes


def test_a_state_stays_on_the_device(double: Double) -> None:
    """After the first steps a step copies its batch there and its loss back, and launches once."""
    net, states = gradc.loads(PROGRAM), {}
    for target in ("cpu", "cuda"):
        step = net.train_step("adamw(lr=1e-2)", target=target, use_cache=False, threads=1)
        state = step.init(net.init(2))
        losses = []
        for n in range(6):
            double.reset()
            loss, state = step(state, **inputs(n))
            log = double.log
            losses.append(np.asarray(loss).tobytes())
        states[target] = (losses, {k: np.asarray(a) for k, a in state.arrays.items()})
        if target == "cuda":
            assert log.count("cuMemcpyHtoDAsync") == 2
            # The loss, and whether the step was refused.
            assert log.count("cuMemcpyDtoHAsync") == 2 and double.count("graph_launches") == 1
            assert all(isinstance(a, DeviceArray) for a in state.arrays.values())
            assert state.step == 6
    (losses, arrays), (others, found) = states.values()
    assert losses == others
    assert all(same(arrays[n], found[n]) for n in arrays)


def test_a_queue_of_batches_is_the_same_as_steps(double: Double) -> None:
    net = gradc.loads(PROGRAM)
    batches = [inputs(n) for n in range(5)]
    stacked = {name: np.stack([b[name] for b in batches]) for name in batches[0]}
    step = net.train_step("sgd(lr=0.1)", target="cuda", use_cache=False)
    one, other = step.init(net.init(2)), step.init(net.init(2))
    expected = [step(one, **b)[0] for b in batches]
    double.reset()
    losses, other = step.many(5, other, **stacked)
    assert same(losses, np.asarray(expected))
    assert all(same(one.arrays[n], other.arrays[n]) for n in one.arrays)
    assert double.log.count("cuMemHostAlloc") == 2
    assert double.count("graph_launches") == 5 and double.log.count("cuMemcpyHtoDAsync") == 13


def test_a_queue_stops_at_a_step_that_is_refused(double: Double) -> None:
    """As on the CPU: the steps before it are done, and none after it."""
    net = gradc.loads(PROGRAM)
    batches = [inputs(n) for n in range(4)]
    batches[2]["y"][1] = np.nan
    stacked = {name: np.stack([b[name] for b in batches]) for name in batches[0]}
    found = {}
    for target in ("cpu", "cuda"):
        step = net.train_step("sgd(lr=0.1)", target=target, use_cache=False, threads=1)
        state = step.init(net.init(2))
        with pytest.raises(DiagnosticError, match="GC0806"):
            step.many(4, state, **stacked)
        found[target] = {name: np.asarray(a).tobytes() for name, a in state.arrays.items()}
    assert found["cpu"] == found["cuda"]


def test_a_refused_step_changes_nothing(double: Double) -> None:
    """A state on the device is what it was; the next good batch goes on from there."""
    net, states = gradc.loads(PROGRAM), {}
    bad = inputs(7)
    bad["x"][0, 0] = np.inf
    for target in ("cpu", "cuda"):
        step = net.train_step("adam(lr=1e-2)", target=target, use_cache=False, threads=1)
        state = step.init(net.init(2))
        for batch in (inputs(0), inputs(1), bad, inputs(2)):
            if batch is bad:
                with pytest.raises(DiagnosticError, match="GC0806"):
                    step(state, **batch)
            else:
                step(state, **batch)
        states[target] = {name: np.asarray(a).tobytes() for name, a in state.arrays.items()}
    assert states["cpu"] == states["cuda"]


def test_loops_run_with_their_counters(double: Double) -> None:
    net = gradc.loads(LOOP)
    rng = np.random.default_rng(3)
    given = {"x": rng.normal(size=(6, 5)), "h0": rng.normal(size=5)}
    arrays = {name: a.astype(np.float32) for name, a in given.items()}
    loss, grads = net.value_and_grad(threads=1)(net.init(1), **arrays)
    other, others = net.value_and_grad(target="cuda", use_cache=False)(net.init(1), **arrays)
    assert same(loss, other) and same(grads["w"], others["w"])


class Foreign:
    """An array of another library: it says where it lies, and nothing else."""

    def __init__(self, array: DeviceArray, **more: Any) -> None:
        self.shape, self.kept = array.shape, array
        self.interface = {**array.__cuda_array_interface__, **more}

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface


class OnlyDlpack:
    """An array that gives a capsule, and nothing else."""

    def __init__(self, array: DeviceArray) -> None:
        self.shape, self._array = array.shape, array

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __dlpack__(self, **more: Any) -> object:
        return self._array.__dlpack__(**more)


@pytest.mark.parametrize("kind", [DeviceArray.copy, lambda a: a, Foreign, OnlyDlpack])
def test_arrays_on_the_device_are_used_where_they_are(double: Double, kind: Any) -> None:
    net, here = gradc.loads(PROGRAM), device(0)
    params = net.init(1)
    loss, grads = net.value_and_grad(threads=1)(params, **inputs())
    f = net.value_and_grad(target="cuda", use_cache=False)
    moved = {name: kind(DeviceArray.of(here, a)) for name, a in inputs().items()}
    assert same(f(params, **moved)[0], loss)
    double.reset()
    found, others = f(params, **moved)
    assert same(found, loss) and all(same(others[n], grads[n]) for n in grads)
    is_host = kind is DeviceArray.copy
    assert all(isinstance(a, np.ndarray if is_host else DeviceArray) for a in others.values())
    uploads = double.log.count("cuMemcpyHtoDAsync")
    assert uploads == len(params) + (2 if is_host else 0)


class Shifted(Foreign):
    """The array within a longer one, so that it begins four bytes too late for wide accesses."""

    def __init__(self, array: DeviceArray) -> None:
        numbers = array.numpy().reshape(-1)
        self.end = numbers[:1].copy()
        room = DeviceArray.of(array.device, np.concatenate([self.end, numbers, self.end]))
        super().__init__(array, data=(room.address + 4, False))
        self.room = room


def test_arrays_that_begin_between_wide_accesses_are_copied(double: Double) -> None:
    """Read and updated as any others; what lies beside them stays."""
    net, here, states = gradc.loads(PROGRAM), device(0), []
    for kind in (DeviceArray.copy, Shifted):
        step = net.train_step("sgd(lr=0.1)", target="cuda", use_cache=False)
        state = step.init(net.init(2))
        step(state, **inputs())
        arrays: dict[str, Any] = state.arrays
        for name, array in list(arrays.items()):
            arrays[name] = kind(DeviceArray.of(here, np.asarray(array)))
        batch = {name: kind(DeviceArray.of(here, a)) for name, a in inputs(1).items()}
        double.reset()
        loss, _ = step(state, **batch)
        states.append((np.asarray(loss), arrays, double.log.count("cuMemcpyDtoDAsync")))
    (loss, expected, none), (other, shifted, copies) = states
    written = sum(isinstance(a, Shifted) for a in shifted.values())
    assert same(loss, other) and none == 0 and written and copies == 2 * written + 2
    for name, array in shifted.items():
        if isinstance(array, Shifted):
            numbers = array.room.numpy()
            assert same(numbers[1:-1].reshape(array.shape), expected[name])
            assert same(numbers[:1], array.end) and same(numbers[-1:], array.end)


def test_capsules_give_back_what_they_hold(double: Double) -> None:
    here = device(0)
    array = DeviceArray.of(here, np.arange(6, dtype=np.float32).reshape(2, 3))
    before = double.count("blocks")
    seen = view(OnlyDlpack(array), here)
    assert (seen.shape, seen.address) == ((2, 3), array.address)
    capsule = array.__dlpack__()
    del array, capsule
    assert double.count("blocks") == before  # the view still holds it
    del seen
    assert double.count("blocks") == before - 1


def test_arrays_that_do_not_fit_are_said(double: Double) -> None:
    net, here = gradc.loads(PROGRAM), device(0)
    f = net.value_and_grad(target="cuda", use_cache=False)
    good = inputs()
    f(net.init(1), **good)
    x = DeviceArray.of(here, good["x"])
    wrong = {
        "GC0555": DeviceArray.of(here, good["x"][:, :12]),
        "GC0552": DeviceArray.of(here, good["x"].astype(np.float64)),
        "GC0557": Foreign(x, strides=(4, 20)),
    }
    program = f.entry(good).native
    for code, array in wrong.items():
        given = {**net.init(1), **good, "x": array}
        made = {p.name: np.empty(p.shape, np.float32) for p in program.signature.ports}
        arrays = [
            made[p.name] if p.direction == "out" else given[p.name] for p in program.signature.ports
        ]
        with pytest.raises(DiagnosticError, match=code):
            program.call(arrays)
    assert device_shape(x) == (5, 13) and device_shape(good["x"]) is None


def test_code_in_the_cache_needs_no_toolchain(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, cache = gradc.loads(PROGRAM), ObjectCache(tmp_path)
    plan = net.plan(target="cuda").plan
    made = compile_plan(plan, threads=1, cache=cache, key="k" * 40, target="cuda")
    monkeypatch.setattr("gradc.codegen.cuda.backend.build", None)
    found = load_native("k" * 40, threads=1, cache=cache, target="cuda")
    assert isinstance(found, CudaProgram) and found.signature == made.signature
    assert found.measured_bytes == made.measured_bytes == plan.peak_bytes


def test_memory_is_given_back(double: Double) -> None:
    gc.collect()
    before = double.count("blocks")
    net = gradc.loads(PROGRAM)
    f = net.value_and_grad(target="cuda", use_cache=False)
    f(net.init(1), **inputs())
    assert double.count("blocks") > before
    del f, net
    gc.collect()
    assert double.count("blocks") == before


def test_no_driver_is_said(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Before anything is compiled; compiling itself goes on without one."""
    monkeypatch.setenv(drivers.LIBRARY, "/nowhere/libcuda.so.1")
    net = gradc.loads(PROGRAM)
    with pytest.raises(DiagnosticError) as caught:
        net.value_and_grad(target="cuda")(net.init(1), **inputs())
    check_golden("diagnostics/GC0596.txt", f"{caught.value}\n", request.config)
    file = tmp_path / "m.grad"
    file.write_text(PROGRAM)
    assert gradc_command("plan", file, "--target", "cuda").status == 0
    shown = gradc_command("compile", file, "--target", "cuda", "--emit", "cuda")
    assert shown.status == 0 and "def " in shown.out
    np.savez(tmp_path / "in.npz", **inputs())
    refused = gradc_command("run", file, "--data", tmp_path / "in.npz", "--target", "cuda")
    assert refused.status == 1 and "GC0596" in refused.err


def test_devices_are_numbered(double: Double, request: pytest.FixtureRequest) -> None:
    double.devices(2)
    drivers._opened.cache_clear()
    try:
        net = gradc.loads(PROGRAM)
        f = net.value_and_grad(target="cuda:1", use_cache=False)
        found = f.entry(inputs()).native
        assert isinstance(found, CudaProgram) and found.device.number == 1
        with pytest.raises(DiagnosticError) as caught:
            net.value_and_grad(target="cuda:2", use_cache=False)(net.init(1), **inputs())
        check_golden("diagnostics/GC0597.txt", f"{caught.value}\n", request.config)
        with pytest.raises(DiagnosticError, match="GC0563"):
            net.value_and_grad(target="cuda:x")
    finally:
        drivers._opened.cache_clear()


def test_no_device_is_said(double: Double) -> None:
    double.devices(0)
    drivers._opened.cache_clear()
    with pytest.raises(DiagnosticError, match=r"GC0597.*CUDA_ERROR_NO_DEVICE"):
        Device(0)


def test_a_refusal_of_the_driver_is_said(double: Double, request: pytest.FixtureRequest) -> None:
    net = gradc.loads(PROGRAM)
    f = net.value_and_grad(target="cuda", use_cache=False)
    double.fail("cuMemAlloc", 2)
    with pytest.raises(DiagnosticError) as caught:
        f(net.init(1), **inputs())
    check_golden("diagnostics/GC0598.txt", f"{caught.value}\n", request.config)
    for call, status in (("cuModuleLoadData", 200), ("cuGraphLaunch", 719), ("cuLaunchKernel", 1)):
        double.fail(call, status)
        with pytest.raises(DiagnosticError, match=f"GC0598.*{call}"):
            net.value_and_grad(target="cuda", use_cache=False)(net.init(1), **inputs())
    loss, _ = f(net.init(1), **inputs())  # and the next call is as if nothing had been
    assert same(loss, net.value_and_grad(threads=1)(net.init(1), **inputs())[0])


LONG = """
    model m() -> float {
        param q: float[16, 4] ~ normal(1)
        param k: float[560, 4] ~ normal(1)
        kept = iota(16)[:, None] * 35 >= iota(560)[None, :]
        return mean(scaled_attention(q, k, k, kept)^2)
    }
"""


def test_dynamic_memory_is_asked_for_where_the_device_has_it(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code for a device whose blocks have more is refused by one whose have less, with both
    numbers; compiled there, it has no such strips.
    """
    monkeypatch.setenv("DOUBLE_PROCESSORS", "2")
    monkeypatch.setattr(cuda_backend, "device", Device)
    net, cuda = gradc.loads(LONG), backend("cuda")
    value = net.forward(target="cuda", use_cache=False)
    assert same(value(net.init(1))["loss"], net.forward(threads=1)(net.init(1))["loss"])
    assert double.log.count("cuFuncSetAttribute") == 1
    codes = []
    for has in ("232448", "49152"):
        monkeypatch.setenv("DOUBLE_BLOCK_BYTES", has)
        plan = net.plan(target="cuda").plan
        codes.append((has, cuda.emit(plan, cuda.target(1))))
    (_, large), (_, small) = codes
    assert "dynamic(" in large.text and "dynamic(" not in small.text
    cuda.load(small.signature, small.assemble(), 1, None)
    with pytest.raises(DiagnosticError, match=r"GC0598.*has \d{5} bytes.*device gives 49152"):
        cuda.load(large.signature, large.assemble(), 1, None)


def test_what_a_host_in_c_cannot_call_is_said(
    request: pytest.FixtureRequest, tmp_path: Path, double: Double
) -> None:
    """It exchanges nothing with other ranks."""
    room = Buffer("room", DType.F32, 8, "update")
    kernels = tuple(
        Kernel(name, (room,), (Exchange("share", room, 2, ends),))
        for name, ends in (("begin", False), ("end", True))
    )
    tensor = Tensor("x", (8,), DType.F32, "argument", 0)
    port = Port("x", Role.STATE, (8,), DType.F32, "inout", 0)
    launches = tuple(Launch(number, (Argument(0),)) for number in range(2))
    plan = Plan("m", (port,), (tensor,), kernels, launches, 0, 1)
    cuda = backend("cuda")
    with pytest.raises(DiagnosticError) as caught:
        cuda.write([plan], "m", tmp_path, cuda.target(1, "sm_90"))
    check_golden("diagnostics/GC0599.txt", f"{caught.value}\n", request.config)
