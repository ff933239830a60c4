"""The Python interface, name by name: every call shape of the contract, against NumPy written by
hand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.tensor.core import DType
from gradc.ir.tensor.dims import DimExpr, symbols
from gradc.runtime.native.arrays import as_array
from tests.support.api_models import DEEP, MLP, STATEFUL, batch, central, forward, gradients

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def net() -> gradc.Model:
    return gradc.loads(MLP, precision="f64")


@pytest.fixture(scope="module")
def params(net: gradc.Model) -> dict[str, Any]:
    return net.init(seed=3)


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return batch(0, 7)


# ---- what a model is


def test_public_names_are_there() -> None:
    assert all(hasattr(gradc, name) for name in gradc.__all__)
    assert dir(gradc) == sorted(gradc.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        gradc.lode  # noqa: B018


@pytest.mark.parametrize("kind", [str, Path])
def test_load_takes_paths_of_any_kind(kind: type) -> None:
    net = gradc.load(kind(ROOT / "examples" / "digits" / "mlp.grad"), dims={"H": 9})
    assert net.params["fc1.w"].shape == (64, 9)
    assert net.name == "mlp"


def test_names_and_types_of_a_model() -> None:
    net = gradc.loads(MLP, dims={"H": 4})
    assert list(net.params) == ["fc1.w", "fc1.b", "fc2.w", "fc2.b"]
    assert (net.params["fc2.w"].shape, net.params["fc2.w"].dtype) == ((4, 3), DType.F32)
    assert list(net.inputs) == ["x", "y"]
    assert net.inputs["y"].dtype is DType.I32
    assert list(net.outputs) == ["loss", "logits"]
    rows, classes = net.outputs["logits"].shape
    assert isinstance(rows, DimExpr)
    assert list(symbols(rows)) == ["B"]
    assert classes == 3
    assert "mlp" in repr(net)
    bound = gradc.loads(MLP, dims={"B": 2})
    assert bound.outputs["logits"].shape == (2, 3)


def test_entry_chooses_among_models() -> None:
    text = "model a(x: float) -> float { return 2*x }\nmodel b(x: float) -> float { return 3*x }\n"
    assert gradc.loads(text, entry="b").value_and_grad("inputs")({}, x=2.0) == (6.0, {"x": 3.0})
    with pytest.raises(gradc.DiagnosticError, match="several models"):
        gradc.loads(text)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("f64", np.float64), ("f32", np.float32), ("f16", np.float16), ("bf16", np.float32)],
)
def test_precision_chooses_the_types_of_results(precision: str, dtype: type) -> None:
    """bf16, which NumPy lacks, comes as float32 with bf16's digits; a loss in 16 bits is
    float32.
    """
    net = gradc.loads(MLP, precision=precision)
    params, inputs = net.init(1), batch(1, 4)
    loss, grads = net.value_and_grad()(params, **inputs)
    exact = {name: a.astype(np.float64) for name, a in params.items()}
    expected = gradients(exact, **inputs)
    digits = {"f64": 1e-12, "f32": 1e-5, "f16": 5e-3, "bf16": 3e-2}[precision]
    assert loss == pytest.approx(forward(exact, **inputs)[0], rel=digits)
    assert np.asarray(loss).dtype == (np.float64 if precision == "f64" else np.float32)
    for name, gradient in grads.items():
        assert gradient.dtype == dtype
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=digits * scale)
    logits = net.forward()(params, **inputs)["logits"]
    assert logits.dtype == dtype
    np.testing.assert_allclose(logits, forward(exact, **inputs)[1], atol=4 * digits)


def test_initial_values_follow_the_seed(net: gradc.Model) -> None:
    first, again, other = net.init(seed=5), net.init(seed=5), net.init(seed=6)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["fc1.w"], other["fc1.w"])
    assert not first["fc1.b"].any()
    # A parameter's numbers do not depend on its neighbours.
    assert np.array_equal(gradc.loads(MLP, dims={"C": 8}).init(5)["fc1.w"], net_f32(5)["fc1.w"])


def net_f32(seed: int) -> dict[str, Any]:
    return gradc.loads(MLP).init(seed)


# ---- values and gradients


def test_value_and_grad_in_all_its_forms(net: gradc.Model, params: Any, data: Any) -> None:
    expected = gradients(params, **data)
    value, logits = forward(params, **data)
    loss, grads = net.value_and_grad()(params, **data)
    assert loss == pytest.approx(value, rel=1e-13)
    assert isinstance(float(loss), float)
    assert list(grads) == list(net.params)
    (again, outputs), _ = net.value_and_grad(aux=True)(params, **data)
    assert again == loss
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-12)
    for wrt, names in (("inputs", ["x"]), ("fc1.b", ["fc1.b"]), (["x", "fc2.w"], ["x", "fc2.w"])):
        found = net.value_and_grad(wrt=wrt)(params, **data)[1]
        assert list(found) == names
        grads = {**grads, **found}
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-11, atol=1e-14)


def test_gradients_agree_with_torch(net: gradc.Model, params: Any, data: Any) -> None:
    torch = pytest.importorskip("torch")
    leaves = {n: torch.tensor(a, requires_grad=True) for n, a in params.items()}
    hidden = torch.tanh(torch.tensor(data["x"]) @ leaves["fc1.w"] + leaves["fc1.b"])
    logits = hidden @ leaves["fc2.w"] + leaves["fc2.b"]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(data["y"]).long())
    loss.backward()
    value, grads = net.value_and_grad()(params, **data)
    assert value == pytest.approx(loss.item(), rel=1e-12)
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient, leaves[name].grad.numpy(), rtol=1e-10, atol=1e-14)


def test_forward_gives_what_the_inputs_determine(net: gradc.Model, params: Any, data: Any) -> None:
    found = net.forward()(params, **data)
    value, logits = forward(params, **data)
    assert list(found) == ["loss", "logits"]
    assert found["loss"] == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-12)


def test_vjp_and_jvp_are_transposes_and_agree_with_differences(
    net: gradc.Model, params: Any, data: Any
) -> None:
    rng = np.random.default_rng(7)
    seeds = {"loss": np.asarray(rng.standard_normal()), "logits": rng.standard_normal((7, 3))}
    dots = {name: rng.standard_normal(a.shape) for name, a in params.items()}
    results, cts = net.vjp()(params, seeds, **data)
    again, moved = net.jvp()(params, dots, **data)
    assert results["loss"] == again["loss"]
    left = sum(np.vdot(seeds[name], moved[name]) for name in seeds)
    right = sum(np.vdot(cts[name], dots[name]) for name in dots)
    assert left == pytest.approx(right, rel=1e-11)
    for number, name in enumerate(("loss", "logits")):

        def along(step: Any, number: int = number) -> Any:
            nudged = {n: a + step * dots[n] for n, a in params.items()}
            return np.asarray(forward(nudged, **data)[number])

        by_difference = central(along, np.zeros(()), np.ones(()))
        np.testing.assert_allclose(moved[name], by_difference, rtol=1e-7, atol=1e-8)


def test_hessian_vector_product_is_the_gradients_derivative(
    net: gradc.Model, params: Any, data: Any
) -> None:
    rng = np.random.default_rng(8)
    vector = {name: rng.standard_normal(a.shape) for name, a in params.items()}
    loss, grads, products = net.hvp()(params, vector, **data)
    assert loss == pytest.approx(forward(params, **data)[0])
    expected = gradients(params, **data)
    for name, product in products.items():
        np.testing.assert_allclose(grads[name], expected[name], rtol=1e-10, atol=1e-14)

        def slope(step: Any, name: str = name) -> Any:
            return gradients({n: a + step * vector[n] for n, a in params.items()}, **data)[name]

        by_difference = central(slope, np.zeros(()), np.ones(()))
        np.testing.assert_allclose(product, by_difference, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("wrt", "of"), [("inputs", "logits"), ("fc2.b", "logits"), ("fc1.w", "loss")]
)
def test_jacobians(net: gradc.Model, params: Any, data: Any, wrt: str, of: str) -> None:
    found = net.jacobian(wrt, of)(params, **data)
    (name,) = found
    at = data["x"] if name == "x" else params[name]
    number = ("loss", "logits").index(of)

    def result(value: Any) -> Any:
        given = {**params, **data, name: value}
        inputs = {"x": given.pop("x"), "y": given.pop("y")}
        return np.asarray(forward(given, **inputs)[number])

    assert found[name].shape == (*result(at).shape, *at.shape)
    rng = np.random.default_rng(9)
    along = rng.standard_normal(at.shape)
    moved = np.tensordot(found[name], along, at.ndim)
    np.testing.assert_allclose(moved, central(result, at, along), rtol=1e-6, atol=1e-9)


def test_an_unused_parameter_has_a_gradient_of_zeros() -> None:
    net = gradc.loads(
        "model f(x: float[3]) -> float {\n    param w: float[2] ~ ones\n"
        "    param v: float[3] ~ ones\n    return sum(x * v)\n}\n"
    )
    _, grads = net.value_and_grad()(net.init(), x=[1.0, 2.0, 3.0])
    assert grads["w"].tolist() == [0.0, 0.0]
    assert grads["v"].tolist() == [1.0, 2.0, 3.0]


# ---- what a call takes and leaves alone


def test_arrays_of_any_layout_give_the_same_bits(params: Any, data: Any) -> None:
    net = gradc.loads(MLP, precision="f64")
    f = net.value_and_grad("inputs")
    x, y = data["x"], data["y"]
    loss, grads = f(params, x=x, y=y)
    wide = np.zeros((14, 12))
    wide[::2, ::2] = x
    layouts = {
        "Fortran order": np.asfortranarray(x),
        "strided": wide[::2, ::2],
        "reversed": np.ascontiguousarray(x[::-1])[::-1],
        "byte-swapped": x.astype(">f8"),
        "read-only": _frozen(x),
        "nested lists": x.tolist(),
    }
    for what, array in layouts.items():
        again, found = f(params, x=array, y=y)
        assert again == loss, what
        assert np.array_equal(found["x"], grads["x"]), what
    for labels in (y.astype(np.int64), y.astype(np.uint8), y.tolist()):
        assert f(params, x=x, y=labels)[0] == loss


def _frozen(array: Any) -> Any:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


class OnlyDLPack:
    """An array of some library that speaks DLPack and nothing else."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **keywords: Any) -> Any:
        return self._array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def test_dlpack_arrays_are_taken_without_a_copy(net: gradc.Model, params: Any, data: Any) -> None:
    assert np.shares_memory(as_array("x", OnlyDLPack(data["x"])), data["x"])
    foreign = {name: OnlyDLPack(array) for name, array in data.items()}
    assert net.value_and_grad()(params, **foreign)[0] == net.value_and_grad()(params, **data)[0]


def test_torch_tensors_are_taken_without_a_copy(net: gradc.Model, params: Any, data: Any) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(data["x"])
    assert as_array("x", tensor).ctypes.data == tensor.data_ptr()
    f = net.value_and_grad()
    loss, grads = f({n: torch.tensor(a) for n, a in params.items()}, x=tensor, y=data["y"])
    expected, exact = f(params, **data)
    assert loss == expected
    assert all(np.array_equal(grads[name], exact[name]) for name in exact)
    assert f(params, x=tensor.requires_grad_(), y=data["y"])[0] == expected


def test_a_call_writes_to_none_of_its_arrays() -> None:
    """State too: a training call hands new statistics out and leaves the old ones."""
    net = gradc.loads(STATEFUL, precision="f64")
    params = {name: _frozen(a) for name, a in net.init(0).items()}
    before = {name: a.copy() for name, a in params.items()}
    x = _frozen(np.random.default_rng(0).standard_normal((6, 4)))
    f = net.value_and_grad(aux=True)
    for _ in range(3):
        (_, outputs), _ = f(params, x=x)
    assert all(np.array_equal(params[name], before[name]) for name in params)
    np.testing.assert_allclose(outputs["norm.mean"], 0.1 * x.mean(0), rtol=1e-12)
    evaluated = net.forward()(params, x=x)
    assert "norm.mean" not in evaluated


# ---- options


def test_budgets_and_threads_leave_every_bit_alone() -> None:
    net = gradc.loads(DEEP)
    params, data = net.init(0), batch(2, 40)
    loss, grads = net.value_and_grad(threads=1)(params, **data)
    plan = net.plan(dims={"B": 40})
    small = min(c.peak_bytes for c in _choices(net, 40))
    assert small < plan.peak_bytes
    for budget, threads in ((small, 1), (f"{small}B", 2), ("1GiB", 2)):
        again, found = net.value_and_grad(budget=budget, threads=threads)(params, **data)
        assert again == loss
        assert all(np.array_equal(found[name], grads[name]) for name in grads)


def _choices(net: gradc.Model, size: int) -> Any:
    from gradc.runtime.native.compile import compile_options
    from gradc.runtime.reports.memory import choices

    return choices(net.lower({"B": size}).function, net.gradient_of(), compile_options())


def test_the_plan_says_what_a_call_takes(net: gradc.Model, params: Any, data: Any) -> None:
    f = net.value_and_grad()
    f(params, **data)
    entry = f.entry(data)
    plan = net.plan(dims={"B": 7})
    assert plan.peak_bytes == entry.native.measured_bytes
    assert len(plan.launches) == entry.native.signature.launches
    assert {t.name for t in plan.tensors} >= {"x", "y", "fc1.w"}
    assert f"peak {plan.peak_bytes} bytes" in plan.report()
    assert plan.check() == ()


def test_every_new_shape_is_a_specialisation_of_the_same_callable(
    net: gradc.Model, params: Any
) -> None:
    f = net.value_and_grad()
    for size in (1, 5, 2, 5):
        inputs = batch(size, size)
        assert f(params, **inputs)[0] == pytest.approx(forward(params, **inputs)[0], rel=1e-12)


def test_eight_threads_share_one_callable(net: gradc.Model, params: Any) -> None:
    """Each thread has its own arrays and gets its own results, at two sizes at once."""
    f = net.value_and_grad(threads=2)
    cases = [batch(seed, 3 + seed % 2) for seed in range(8)]
    expected = [gradients(params, **case) for case in cases]
    wrong: list[str] = []
    barrier = threading.Barrier(len(cases))

    def work(number: int) -> None:
        barrier.wait()
        for _ in range(40):
            _, grads = f(params, **cases[number])
            for name, gradient in grads.items():
                if not np.allclose(gradient, expected[number][name], rtol=1e-10, atol=1e-13):
                    wrong.append(f"thread {number}: {name}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- refusals

REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("a missing input", {"y": None}, "GC0553.*input `y` is missing"),
    ("an unknown input", {"z": np.zeros(3)}, "GC0554.*there is no input `z`"),
    ("a misspelt input", {"X": np.zeros((7, 6)), "x": None}, "GC0554.*did you mean `x`"),
    ("another width", {"x": np.zeros((7, 5))}, "GC05..*`x`.*5"),
    ("another rank", {"x": np.zeros(7)}, "GC05..*`x`"),
    ("other batch sizes", {"y": np.zeros(6, np.int32)}, "GC05..*`B`"),
    ("text", {"x": "hello"}, "GC0551.*`x`"),
    ("objects", {"x": np.array([[object()] * 6] * 7)}, "GC0551.*Python objects"),
    ("complex numbers", {"x": np.zeros((7, 6), complex)}, "GC0551.*complex"),
    ("dates", {"x": np.zeros((7, 6), "datetime64[s]")}, "GC0551.*datetime64"),
    ("records", {"x": np.zeros((7, 6), [("a", "f4")])}, "GC0551.*`x`"),
    ("ragged lists", {"x": [[1.0], [2.0, 3.0]]}, "GC0551.*`x`"),
    ("None", {"x": (None,)}, "GC0551.*`x`"),
    ("masked values", {"x": np.ma.masked_array(np.zeros((7, 6)), True)}, "GC0551.*masked"),
    ("integers for floats", {"x": np.zeros((7, 6), int)}, "GC0552.*`x` is int64.*f64"),
    ("floats for integers", {"y": np.zeros(7)}, "GC0552.*`y` is float64.*i32"),
    ("booleans for integers", {"y": np.zeros(7, bool)}, "GC0552.*`y` is bool"),
    ("integers out of range", {"y": np.full(7, 2**40)}, "GC0552.*outside"),
)


@pytest.mark.parametrize(("what", "change", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_arrays_that_do_not_fit_are_named(
    net: gradc.Model, params: Any, data: Any, what: str, change: dict[str, Any], message: str
) -> None:
    """Before anything is compiled and after the fast way in exists."""
    inputs = {name: a for name, a in {**data, **change}.items() if a is not None}
    for f in (net.value_and_grad(), _warm(net, params, data)):
        with pytest.raises(gradc.DiagnosticError, match=f"(?s){message}"):
            f(params, **inputs)


def _warm(net: gradc.Model, params: Any, data: Any) -> Any:
    f = net.value_and_grad()
    f(params, **data)
    f(params, **data)
    return f


PARAMETERS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("missing", {"fc1.w": None}, "GC0553.*parameter `fc1.w` is missing"),
    ("unknown", {"fc9.w": np.zeros(3)}, "GC0554.*`fc9.w`.*did you mean"),
    ("shape", {"fc1.b": np.zeros(4)}, r"GC0555.*`fc1.b` has shape \[4\].*expects \[5\]"),
    ("type", {"fc1.b": np.zeros(5, np.int32)}, "GC0552.*`fc1.b` is int32"),
    ("kind", {"fc1.b": "five"}, "GC0551.*`fc1.b`"),
)


@pytest.mark.parametrize(("what", "change", "message"), PARAMETERS, ids=[r[0] for r in PARAMETERS])
def test_parameters_that_do_not_fit_are_named(
    net: gradc.Model, params: Any, data: Any, what: str, change: dict[str, Any], message: str
) -> None:
    given = {name: a for name, a in {**params, **change}.items() if a is not None}
    with pytest.raises(gradc.DiagnosticError, match=f"(?s){message}"):
        net.value_and_grad()(given, **data)
    with pytest.raises(gradc.DiagnosticError, match=f"(?s){message}"):
        net.train_step("sgd(lr=0.1)").init(given)


def test_a_float_that_would_overflow_is_refused() -> None:
    net = gradc.loads(MLP)
    with pytest.raises(gradc.DiagnosticError, match=r"GC0552.*`x` is float64"):
        net.value_and_grad()(net.init(), x=np.full((2, 6), 1e300), y=[0, 1])


OPTIONS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("budget 0", {"budget": 0}, "GC0601"),
    ("budget below 0", {"budget": -5}, "GC0601"),
    ("budget of text", {"budget": "lots"}, "GC0601.*`lots`"),
    ("budget with a strange unit", {"budget": "5 parsecs"}, "GC0601"),
    ("budget True", {"budget": True}, "GC0601"),
    ("budget NaN", {"budget": "nan"}, "GC0601"),
    ("budget of a list", {"budget": [1]}, "GC0601"),
    ("budget too small", {"budget": "10B"}, "GC0602.*smallest"),
    ("budget beyond the machine", {"budget": "900000TiB"}, "GC0603|GC0601"),
    ("threads 0", {"threads": 0}, "GC0563"),
    ("threads below 0", {"threads": -1}, "GC0563"),
    ("threads 1.5", {"threads": 1.5}, "GC0563"),
    ("threads of text", {"threads": "two"}, "GC0563"),
    ("threads beyond reason", {"threads": 10**6}, "GC0563"),
    ("target", {"target": "abacus"}, "GC0563.*abacus"),
    ("wrt unknown", {"wrt": "fc1.q"}, "GC0554.*did you mean `fc1"),
    ("wrt an integer input", {"wrt": ["y"]}, "GC0562.*`y`"),
)


@pytest.mark.parametrize(("what", "options", "message"), OPTIONS, ids=[r[0] for r in OPTIONS])
def test_options_that_make_no_sense_are_refused(
    net: gradc.Model, params: Any, data: Any, what: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(gradc.DiagnosticError, match=f"(?s){message}"):
        net.value_and_grad(**options)(params, **data)


def test_the_state_of_a_model_has_no_derivative() -> None:
    net = gradc.loads(STATEFUL)
    with pytest.raises(gradc.DiagnosticError, match=r"GC0562.*state"):
        net.value_and_grad("norm.mean")


LOADED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("an unknown dimension", {"dims": {"Q": 3}}, "`Q`"),
    ("a negative dimension", {"dims": {"H": -3}}, "GC0544.*`H`"),
    ("a dimension of text", {"dims": {"H": "3"}}, "GC0544.*`H`"),
    ("a fractional dimension", {"dims": {"H": 2.5}}, "GC0544.*`H`"),
    ("an unknown precision", {"precision": "f8"}, "GC0546.*`f8`"),
    ("an unknown entry", {"entry": "mpl"}, "GC0213.*did you mean `mlp`"),
)


@pytest.mark.parametrize(("what", "options", "message"), LOADED, ids=[r[0] for r in LOADED])
def test_loading_with_what_is_not_there(what: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(gradc.DiagnosticError, match=f"(?s){message}"):
        gradc.loads(MLP, **options).value_and_grad()(gradc.loads(MLP).init(), **batch(0, 2))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(gradc.DiagnosticError, match=r"none\.grad"):
        gradc.load(tmp_path / "none.grad")
    with pytest.raises(gradc.DiagnosticError, match=str(tmp_path)):
        gradc.load(tmp_path)


def test_an_error_of_a_program_prints_its_line_when_it_is_not_caught() -> None:
    with pytest.raises(gradc.DiagnosticError) as found:
        gradc.loads("model f(x: float[3]) -> float { return sum(x + [1, 2]) }", name="f.grad")
    assert "f.grad:1:" in str(found.value)
    assert found.value.diagnostics[0].span is not None


def test_what_is_of_another_kind_altogether() -> None:
    """Python's own error for a wrong type, in the caller's words and before anything is done."""
    net = gradc.loads(MLP)
    params, data = net.init(), batch(0, 4)
    f, step = net.value_and_grad(), net.train_step("sgd(lr=0.1)")
    anything: Any = None
    names: Any = ["B"]
    wrong: dict[str, Callable[[], object]] = {
        "`params` must be a dictionary": lambda: f(anything, **data),
        "`state` must be what": lambda: step(anything, **data),
        "`params` must be": lambda: step.init(anything),
        "`wrt` must be": lambda: net.value_and_grad(anything),
        "`text` must be": lambda: gradc.loads(anything),
        "`path` must be": lambda: gradc.load(anything),
        "`dims` must be": lambda: gradc.loads(MLP, dims=names),
        "`optimizer` must be": lambda: net.train_step(anything),
    }
    for _ in range(2):
        for said, call in wrong.items():
            with pytest.raises(TypeError, match=said):
                call()
        f(params, **data)


def test_a_name_given_twice_counts_once() -> None:
    net = gradc.loads(MLP)
    _, cts = net.value_and_grad(["x", "x"])(net.init(), **batch(0, 4))
    assert list(cts) == ["x"]


def test_bf16_of_other_libraries_is_taken_and_integers_are_not_its_bits() -> None:
    net = gradc.loads(MLP, precision="bf16")
    params, data = net.init(0), batch(0, 4)
    f = net.value_and_grad()
    expected = f(params, **data)[0]
    ml_dtypes = pytest.importorskip("ml_dtypes")
    narrow = data["x"].astype(ml_dtypes.bfloat16)
    assert net.value_and_grad()(params, x=narrow, y=data["y"])[0] == expected
    whole = (data["x"] * 9).astype(np.uint16)
    for call in (net.value_and_grad(), net.forward()):
        with pytest.raises(gradc.DiagnosticError, match=r"GC0552.*`x` is uint16"):
            call(params, x=whole, y=data["y"])
    step = net.train_step("sgd(lr=0.1)")
    with pytest.raises(gradc.DiagnosticError, match=r"GC0552.*`x` is uint16"):
        step(step.init(params), x=whole, y=data["y"])


def test_states_in_bf16_are_handed_out_as_numbers() -> None:
    net = gradc.loads(STATEFUL, precision="bf16")
    step = net.train_step("sgd(lr=0.0)")
    state = step.init(net.init(0))
    x = np.random.default_rng(0).standard_normal((64, 4)) + 3
    step(state, x=x)
    step(state, x=x)
    mean = state.params["norm.mean"]
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, 0.19 * x.mean(0), rtol=0.03)
    assert np.isfinite(net.forward()(state.params, x=x)["loss"])


def test_what_comes_without_its_name_is_refused(net: gradc.Model, params: Any, data: Any) -> None:
    """Also by a callable that has found its way already."""
    for call, arguments in (
        (_warm(net, params, data), (params, data["x"])),
        (net.value_and_grad(), (params, data["x"], data["y"])),
        (net.vjp(), (params,)),
        (net.vjp(), (params, {}, {})),
    ):
        with pytest.raises(TypeError, match=r"a call is f\(params, (seeds, )?x=\.\.\., y=\.\.\.\)"):
            call(*arguments, **data)
