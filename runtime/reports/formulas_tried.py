"""Points at which formulas are tried: a small twin of the program they were found in, run and
compiled.

The formulas of a gradient are found at sizes that tell dimensions apart. Here the same program is
elaborated once more at small sizes, in float64; its joint program is run at a few points by the
reference interpreter, and what comes out for the gradients is compared with the compiled gradient.
A formula is right if it has these values at these sizes.

Non-goals: which formulas there are (``formulas``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from gradc.codegen.symbolic.formulas import notation as n
from gradc.codegen.symbolic.formulas.notation_value import Lazy, Names, Unreadable, agrees, is_near
from gradc.frontend.model.models import ModelIR
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.tensor.core import Role, Value
from gradc.passes.differentiate.trace import Traced, traced_gradient
from gradc.runtime.native.arrays import Array
from gradc.runtime.reports.whiteboard_formulas import run_at
from gradc.runtime.reports.whiteboard_steps import without_checkpoints

if TYPE_CHECKING:
    from gradc.runtime.model.model import Model

# No two alike, none 1, small enough for a loop over all elements.
SIZES = (3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12)
_POINTS = 2
Named: TypeAlias = tuple[Sequence[Value], bool]


@dataclass
class Trial:
    """Values of a joint program at points; those of ``distributions`` have targets that sum to
    1.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    points: list[dict[Value, Array]] = field(default_factory=list)
    distributions: list[dict[Value, Array]] = field(default_factory=list)
    twin_of: dict[Value, Value] = field(default_factory=dict)
    why_not: str = ""

    def is_right(
        self,
        equation: n.Notation,
        parts: Sequence[Value],
        names: Mapping[str, Named],
        *,
        has_targets: bool = False,
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> bool:
        """Whether the right side has the value of the sum of ``parts``, at every point where that
        is finite.

        ``names`` are sums of values by name, and whether they are cotangents. ``scales`` multiply
        cotangents among them, and what is expected.
        """
        tried = 0
        for point in self.distributions if has_targets else self.points:
            expected = self._total(point, parts) * scales[1]
            if not np.all(np.isfinite(expected)):
                continue
            arrays = Lazy(names, partial(self._named, point, scales[0]))
            if not agrees(equation, expected, Names(arrays, self.sizes)):
                return False
            tried += 1
        return tried > 0

    def _named(self, point: Mapping[Value, Array], scale: float, item: Named) -> Array:
        values, is_cotangent = item
        if any(self.twin_of.get(v) not in point for v in values):
            raise Unreadable("a value that the twin lacks")
        return self._total(point, values) * (scale if is_cotangent else 1.0)

    def _total(self, point: Mapping[Value, Array], values: Sequence[Value]) -> Array:
        total = point[self.twin_of[values[0]]]
        for value in values[1:]:
            total = total + point[self.twin_of[value]]
        return np.asarray(total, np.float64)


def trial_of(
    model: Model,
    traced: Traced,
    dims: Mapping[str, int],
    sizes: Sequence[str],
    wrt: Sequence[str],
    targets: Sequence[str],
) -> Trial:
    """The trial of ``traced``, which is ``model`` at ``dims``; ``sizes`` are the names of sizes
    that may be changed.
    """
    small = dict(zip(sizes, SIZES, strict=False))
    for chosen in ({**dims, **small}, dict(dims)):
        try:
            ir = model.program.lower(model.name, chosen, "f64")
        except DiagnosticError:
            continue
        twin = _twin(ir, wrt)
        pairs = _paired(traced, twin)
        if pairs is not None:
            return _at_points(model, chosen, twin, pairs, wrt, targets)
    return Trial(why_not="the program could not be run beside its formulas")


def _twin(ir: ModelIR, wrt: Sequence[str]) -> Traced:
    function, _ = without_checkpoints(ir)
    return traced_gradient(function, wrt)


def _paired(a: Traced, b: Traced) -> dict[Value, Value] | None:
    """The values of ``a`` by those of ``b`` in the same places; None where the programs are not
    built alike.
    """
    left, right = a.function.block, b.function.block
    if [op.name for op in left.body] != [op.name for op in right.body]:
        return None
    pairs = dict(zip(left.parameters, right.parameters, strict=True))
    for one, other in zip(left.body, right.body, strict=True):
        if len(one.results) != len(other.results):
            return None
        pairs.update(zip(one.results, other.results, strict=True))
    return pairs


def _at_points(
    model: Model,
    dims: Mapping[str, int],
    twin: Traced,
    pairs: dict[Value, Value],
    wrt: Sequence[str],
    targets: Sequence[str],
) -> Trial:
    sizes = {name: size for name, size in dims.items() if isinstance(size, int)}
    trial = Trial(sizes, twin_of=pairs)
    rng = np.random.default_rng(7)
    for number in range(_POINTS):
        arrays = {
            s.name: _drawn(v, number, rng)
            for s, v in zip(twin.primal.parameters, twin.primal.block.parameters, strict=True)
        }
        trial.points.append(run_at(twin.function, list(arrays.values())))
        if targets:
            for name in targets:
                positive = np.abs(arrays[name]) + 0.1
                arrays[name] = positive / positive.sum(axis=-1, keepdims=True)
            trial.distributions.append(run_at(twin.function, list(arrays.values())))
        if number == 0:
            compiled = _compiled(model, dims, twin, arrays, wrt)
            point = trial.distributions[0] if targets else trial.points[0]
            for name, value in compiled.items():
                own = point[twin.of[twin.primal.parameter(name)]]
                if np.all(np.isfinite(own)) and not is_near(value, own):
                    trial.why_not = f"the compiled gradient of {name} is another one"
    return trial


def _compiled(
    model: Model,
    dims: Mapping[str, int],
    twin: Traced,
    arrays: Mapping[str, Array],
    wrt: Sequence[str],
) -> dict[str, Array]:
    compiled = type(model)(model.program, model.name, dims, "f64").value_and_grad(list(wrt))
    inputs = {s.name for s in twin.primal.parameters if s.role is Role.INPUT}
    params = {name: a for name, a in arrays.items() if name not in inputs}
    _, grads = compiled(params, **{name: arrays[name] for name in inputs})
    return {name: np.asarray(array) for name, array in grads.items()}


def _drawn(value: Value, number: int, rng: np.random.Generator) -> Array:
    """Numbers for a parameter: around 0, then positive ones; ids are 0 or 1."""
    shape, dtype = value.type.static_shape, value.type.dtype
    if dtype.is_float:
        around = 0.7 * rng.standard_normal(shape)
        return np.asarray(around if number != 1 else rng.uniform(0.2, 0.9, shape))
    return np.asarray(rng.integers(0, 2, shape)).astype(_KINDS[str(dtype)])


_KINDS = {"i32": np.int32, "i64": np.int64, "u32": np.uint32, "bool": np.bool_}
