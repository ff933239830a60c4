"""How exact long sums are, beside torch: `python -m benchmarks.accuracy [--most 1e7] [--only
sum,scatter]`.

Every reduction at 1e3 to 1e7 terms that are equal (0.1), uniform in [0, 1), or of mixed sign. The
error is the largest difference from the result in float64, over the sum of absolute values. Prints
one Markdown row per reduction and number of terms, and says at the end which rows miss the aims: at
most four times torch's error (or one rounding of f32), and 1e-6 for equal terms (4e-6 for
products). Torch's column is the same mathematics in f32 on one thread; a loop of its own would take
minutes, so its scan is a chain of additions, which is what autograd does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gradc

Array = NDArray[Any]
Inputs = dict[str, Array]
KINDS = ("equal", "uniform", "sign")
WIDTH = 4
ROUNDING = 2.0**-23


@dataclass(frozen=True)
class Case:
    """One reduction: the program, its inputs, which result counts, and what it should be."""

    name: str
    program: str
    inputs: Callable[[Array], Inputs]
    exact: Callable[[Inputs], Array]
    scale: Callable[[Inputs], Array]
    torch: Callable[[Any, Inputs], Any]
    shape: tuple[int, ...] = ()  # of a term
    gradient: str = ""  # the input whose gradient it is; the output if empty
    aim: float = 1e-6


def terms(kind: str, count: int, shape: Sequence[int], seed: int = 0) -> Array:
    """``count`` f32 terms of a kind."""
    source = np.random.default_rng(seed)
    full = (count, *shape)
    if kind == "equal":
        return np.full(full, 0.1, np.float32)
    if kind == "uniform":
        return source.random(full, np.float32)
    return source.standard_normal(full, np.float32)


def _wide(x: Array) -> Array:
    return x.astype(np.float64)


def _sum(x: Array) -> Array:
    """The sum over the first axis in float64, which NumPy takes in pairs only along memory."""
    return np.asarray(np.ascontiguousarray(_wide(x).T).sum(-1))


def _size(x: Array) -> Array:
    return _sum(np.abs(x))


def _unit(x: Array) -> Array:
    """Rows of root mean square 1."""
    wide = _wide(x)
    return np.asarray(wide / np.sqrt((wide * wide).mean(-1, keepdims=True)))


def _products(x: Array) -> Inputs:
    return {"x": np.ascontiguousarray(x.T), "y": x}


def _norm(x: Array) -> Inputs:
    rows = np.broadcast_to(np.asarray([0.5, -1.0, 2.0, 0.25], np.float32), x.shape)
    return {"x": np.ascontiguousarray(rows), "u": x, "g": np.ones(WIDTH, np.float32)}


def _images(u: Array) -> Inputs:
    rows = np.broadcast_to(np.asarray([0.5, -1.0, 2.0, 0.25], np.float32), (len(u), 1, 1, 4))
    return {"x": np.ascontiguousarray(rows), "u": u, "w": np.ones((2, 1, 1, 2), np.float32)}


def _filter(i: Inputs) -> Array:
    """The filter's gradient in float64: for each tap, products summed over images and places."""
    x, u = _wide(i["x"]), _wide(i["u"])
    taps = [_sum((x[..., q : q + 3] * u).reshape(len(u), 2, 3)).sum(0) for q in (0, 1)]
    return np.stack(taps, -1)[:, None, None]


def _embedding(torch: Any, i: Inputs) -> Any:
    table = torch.zeros_like(torch.from_numpy(i["t"]))
    return table.index_add_(0, torch.from_numpy(i["ids"]).long(), torch.from_numpy(i["u"]))[1]


def _unit_torch(torch: Any, x: Any) -> Any:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True))


CASES = (
    Case(
        "sum", "model f(x: float[N]) -> float { return sum(x) }",
        lambda x: {"x": x}, lambda i: _sum(i["x"]), lambda i: _size(i["x"]),
        lambda torch, i: torch.from_numpy(i["x"]).sum(),
    ),
    Case(
        "mean", "model f(x: float[N]) -> float { return mean(x) }",
        lambda x: {"x": x}, lambda i: _sum(i["x"]) / i["x"].size,
        lambda i: _size(i["x"]) / i["x"].size,
        lambda torch, i: torch.from_numpy(i["x"]).mean(),
    ),
    Case(
        "var", "model f(x: float[N]) -> float { return var(x) }",
        lambda x: {"x": x}, lambda i: np.asarray(_wide(i["x"]).var()),
        lambda i: np.asarray((_wide(i["x"]) ** 2).mean()),
        lambda torch, i: torch.from_numpy(i["x"]).var(correction=0),
    ),
    Case(
        "sum of columns", "model f(x: float[N, 4]) -> float[4] { return sum(x, axis = 0) }",
        lambda x: {"x": x}, lambda i: _sum(i["x"]), lambda i: _size(i["x"]),
        lambda torch, i: torch.from_numpy(i["x"]).sum(0), (WIDTH,),
    ),
    Case(
        "product over k", "model f(x: float[4, N], y: float[N, 4]) -> float[4, 4] { return x @ y }",
        _products, lambda i: _wide(i["x"]) @ _wide(i["y"]),
        lambda i: np.abs(_wide(i["x"])) @ np.abs(_wide(i["y"])),
        lambda torch, i: torch.from_numpy(i["x"]) @ torch.from_numpy(i["y"]), (WIDTH,), aim=4e-6,
    ),
    Case(
        "cumsum", "model f(x: float[N]) -> float[N] { return cumsum(x) }",
        lambda x: {"x": x}, lambda i: np.cumsum(_wide(i["x"])), lambda i: _size(i["x"]),
        lambda torch, i: torch.from_numpy(i["x"]).cumsum(0),
    ),
    Case(
        "bias gradient",
        "model f(u: float[N, 4], b: float[4]) -> float { return sum((b + 1.0) * u) }",
        lambda x: {"u": x, "b": np.ones(WIDTH, np.float32)},
        lambda i: _sum(i["u"]), lambda i: _size(i["u"]),
        lambda torch, i: torch.from_numpy(i["u"]).sum(0), (WIDTH,), "b",
    ),
    Case(
        "norm gain",
        """model f(x: float[N, 4], u: float[N, 4], g: float[4]) -> float {
            return sum(g * x / sqrt(mean(x * x, axis = -1, keepdims = true)) * u)
        }""",
        _norm, lambda i: _sum(_unit(i["x"]) * i["u"]), lambda i: _size(_unit(i["x"]) * i["u"]),
        lambda torch, i: (
            _unit_torch(torch, torch.from_numpy(i["x"])) * torch.from_numpy(i["u"])
        ).sum(0),
        (WIDTH,), "g",
    ),
    Case(
        "filter gradient",
        """model f(x: float[N, 1, 1, 4], u: float[N, 2, 1, 3], w: float[2, 1, 1, 2]) -> float {
            return sum(conv2d(x, w) * u)
        }""",
        _images, _filter, lambda i: _filter({name: np.abs(a) for name, a in i.items()}),
        lambda torch, i: torch.nn.grad.conv2d_weight(
            torch.from_numpy(i["x"]), i["w"].shape, torch.from_numpy(i["u"])
        ),
        (2, 1, 3), "w", aim=4e-6,
    ),
    Case(
        "scatter",
        "model f(t: float[3, 4], ids: int[N], u: float[N, 4]) -> float { return sum(t[ids] * u) }",
        lambda x: {"t": np.zeros((3, WIDTH), np.float32), "ids": np.ones(len(x), np.int32), "u": x},
        lambda i: np.stack([0 * _sum(i["u"]), _sum(i["u"]), 0 * _sum(i["u"])]),
        lambda i: _size(i["u"]),
        _embedding, (WIDTH,), "t",
    ),
    Case(
        "scan cotangent",
        """model f(xs: float[N], w: float) -> float {
            ys = scan x in xs carry c = 0.0 {
                c = 0.5 * c + x
                yield (c - 0.5 * c) * 0.0 + x * w
            }
            return sum(ys)
        }""",
        lambda x: {"xs": x, "w": np.ones((), np.float32)},
        lambda i: _sum(i["xs"]), lambda i: _size(i["xs"]),
        lambda torch, i: torch.from_numpy(np.cumsum(i["xs"], dtype=np.float32)[-1:])[0],
        (), "w",
    ),
)  # fmt: skip


def ours(case: Case, inputs: Inputs) -> Array:
    """What gradc computes."""
    counts = [len(x) for name, x in inputs.items() if name in ("u", "y", "xs")]
    model = gradc.loads(case.program, dims={"N": counts[0] if counts else len(inputs["x"])})
    if not case.gradient:
        found = model.forward()({}, **inputs)
        return np.asarray(next(iter(found.values())) if isinstance(found, dict) else found)
    _, gradients = model.value_and_grad(wrt=[case.gradient])({}, **inputs)
    return np.asarray(gradients[case.gradient])


def errors(case: Case, kind: str, count: int) -> tuple[float, float | None]:
    """Our error and torch's (None where it is not installed)."""
    inputs = case.inputs(terms(kind, count, case.shape))
    exact, scale = case.exact(inputs), case.scale(inputs)
    mine = float(np.max(np.abs(_wide(ours(case, inputs)) - exact) / scale))
    try:
        import torch
    except ImportError:
        return mine, None
    torch.set_num_threads(1)
    found = _wide(case.torch(torch, inputs).numpy())
    return mine, float(
        np.max(np.abs(found - (exact[1] if case.name == "scatter" else exact)) / scale)
    )


def misses(case: Case, kind: str, found: tuple[float, float | None]) -> str:
    """Which aim is missed, if one is."""
    mine, theirs = found
    if kind == "equal" and mine > case.aim:
        return f"{mine:.1e} over {case.aim:.0e}"
    if theirs is not None and mine > max(4 * theirs, ROUNDING):
        return f"{mine:.1e} over four times {theirs:.1e}"
    return ""


def _cell(found: tuple[float, float | None]) -> str:
    return " / ".join("-" if x is None else f"{x:.1e}" for x in found)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("--most", type=float, default=1e7)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    wanted = [name for name in options.only.split(",") if name]
    print("| gradc / torch | terms | equal | uniform | mixed sign |\n|---|---|---|---|---|")
    missed: list[str] = []
    for case in CASES:
        if wanted and case.name not in wanted:
            continue
        for count in (10**3, 10**5, 10**7):
            if count > options.most:
                continue
            cells: Mapping[str, tuple[float, float | None]] = {
                kind: errors(case, kind, count) for kind in KINDS
            }
            row = " | ".join(_cell(cells[kind]) for kind in KINDS)
            print(f"| {case.name} | {count:.0e} | {row} |", flush=True)
            for kind, found in cells.items():
                if reason := misses(case, kind, found):
                    missed.append(f"{case.name}, {count:.0e} {kind} terms: {reason}")
    print("\nAims missed: " + ("; ".join(missed) or "none"))


if __name__ == "__main__":
    main()
