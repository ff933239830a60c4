"""Programs whose dimensions get out of hand: a GC0404 at the line, soon, from `check` itself."""

from __future__ import annotations

import time

import pytest

import gradc
from gradc.frontend.program import loads
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.tensor.dims import Dim, DimensionTooLarge, bounded_work, floordiv, symbol


def chain(count: int, step: str, start: str = "X0") -> str:
    """Dimensions X1, X2, ... each made of the one before (P) and the one before that (Q)."""
    lines = [f"dim {start}"]
    for i in range(1, count + 1):
        made = step.replace("P", f"X{i - 1}").replace("Q", f"X{max(i - 2, 0)}")
        lines.append(f"dim X{i} = {made}")
    return "\n".join([*lines, f"model m(x: float[X{count}]) -> float {{ return sum(x) }}\n"])


def codes(text: str) -> set[str]:
    with pytest.raises(DiagnosticError) as refused:
        loads(text).check()
    return {d.code for d in refused.value.diagnostics}


@pytest.mark.parametrize(
    ("count", "step", "start"),
    [
        (20, "P + P // 2", "X0"),
        (200, "P + P // 2", "X0"),
        (300, "(P + 1) // 2", "X0"),
        (60, "P * P", "X0"),
        (60, "P * (P + 1)", "X0"),
        (40, "P ^ 8", "X0"),
        (60, "P + Q", "A, B, C, X0"),
        (80, "P * 7 % 5 * Q", "X0"),
    ],
)
def test_arithmetic_of_dimensions_ends_soon(count: int, step: str, start: str) -> None:
    """Doubling expressions, powers, quotients in quotients: refused, or as long as the text."""
    before = time.process_time()
    try:
        loads(chain(count, step, start)).check()
    except DiagnosticError as refused:
        assert {d.code for d in refused.diagnostics} == {"GC0404"}
    assert time.process_time() - before < 5.0


def test_all_dimensions_of_a_program_share_one_bound() -> None:
    """Each line is within the limits of one dimension; together they are not."""
    names = [f"A{i}" for i in range(200)]
    lines = [f"dim {', '.join(names)}", f"dim S = {' + '.join(names)}"]
    lines += [f"dim S{i} = S + {i}" for i in range(2600)]
    before = time.process_time()
    assert codes("\n".join([*lines, "model m(x: float[S]) -> float { return sum(x) }"])) == {
        "GC0404"
    }
    assert time.process_time() - before < 10.0


def test_bounds_of_one_dimension() -> None:
    x = symbol("X")
    nested: Dim = x
    with pytest.raises(DimensionTooLarge):
        for _ in range(1000):
            nested = floordiv(nested + 1, 2)
    power: Dim = x
    with pytest.raises(DimensionTooLarge):
        for _ in range(64):
            power = power * power
    coefficient: Dim = x
    with pytest.raises(DimensionTooLarge):
        for _ in range(200):
            coefficient = coefficient + coefficient
    with pytest.raises(DimensionTooLarge), bounded_work(100):
        total: Dim = x
        for i in range(100):
            total = total + symbol(f"Y{i}")
    # The bound ends with its block.
    total = x
    for i in range(100):
        total = total + symbol(f"Y{i}")


BIG = 1 << 32


@pytest.mark.parametrize(
    "body",
    [
        f"param w: float[{BIG}, {BIG}] ~ zeros\n    return sum(x) * w[0, 0]",
        f"state s: float[{BIG}, {BIG}] ~ zeros\n    return sum(x) * s[0, 0]",
        f"return sum(x) + sum(zeros([{BIG}, {BIG}]))",
        f"return sum(x) + sum(broadcast(x[0], [{BIG}, {BIG}]))",
    ],
)
def test_arrays_that_no_machine_holds_are_refused_by_check(body: str) -> None:
    assert codes(f"model m(x: float[3]) -> float {{\n    {body}\n}}") == {"GC0404"}


def test_inputs_that_no_machine_holds_are_refused_by_check() -> None:
    assert codes(f"model m(x: float[{BIG}, {BIG}]) -> float {{ return sum(x) }}") == {"GC0404"}
    text = f"dim N = {BIG}\nmodel m(x: float[N, N]) -> float {{ return sum(x) }}"
    assert codes(text) == {"GC0404"}
    # The default is what is too large; with another size the model is one.
    net = gradc.loads(text.replace(f"dim N = {BIG}", "dim N"), dims={"N": BIG})
    with pytest.raises(DiagnosticError, match="GC0404"):
        net.plan()


def test_many_arrays_that_no_machine_holds_together_are_refused() -> None:
    text = f"""
    layer l() {{
        param w: float[{(1 << 46) // 4}] ~ zeros
        apply(x: float) -> float {{ return x * w[0] }}
    }}
    model m(x: float) -> float {{
        use ls = l() * 1100
        for l in ls {{ x = l(x) }}
        return x
    }}
    """
    assert codes(text) == {"GC0404"}


@pytest.mark.parametrize(
    "text",
    [
        "model m(x: float[{dims}]) -> float {{ return sum(x) }}",
        (
            "model m(x: float) -> float {{\n    param w: float[{dims}] ~ zeros\n    return x * "
            "sum(w)\n}}"
        ),
        (
            "fn f(x: float[{dims}]) -> float {{ return sum(x) }}\nmodel m(x: float) -> float {{ "
            "return x }}"
        ),
    ],
)
def test_signatures_have_at_most_32_axes(text: str) -> None:
    assert codes(text.format(dims=", ".join(["1"] * 33))) == {"GC0404"}
    loads(text.format(dims=", ".join(["1"] * 32))).check()
