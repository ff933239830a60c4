"""The Jacobian of a model, compiled; it knows how many passes it takes, and in which mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gradc.codegen.backend import Results
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.tensor.core import Function
from gradc.passes.differentiate.jacobian import JacobianPlan, jacobian, jacobian_plan
from gradc.runtime.model.compiled import Compiled
from gradc.runtime.native.arrays import Array
from gradc.runtime.native.compile import Options

if TYPE_CHECKING:
    from gradc.runtime.model.model import Model


class CompiledJacobian(Compiled):
    """``f(params, **inputs) -> {name: array of shape of.shape + name.shape}``."""

    def __init__(
        self, model: Model, wrt: tuple[str, ...], of: str, training: bool, options: Options
    ) -> None:
        prefix = f"{of}/"

        def derive(function: Function) -> Function:
            return jacobian(function, wrt, of)

        def finish(found: Results) -> dict[str, Array]:
            outputs = found[1].items()
            return {n.removeprefix(prefix): a for n, a in outputs if n.startswith(prefix)}

        key = f"jacobian {wrt} {of}"
        super().__init__(model, key, derive, finish, training, options)
        self._wrt = wrt
        self._of = of

    def passes(self, dims: Mapping[str, int] | None = None) -> JacobianPlan:
        """How many passes a call takes, and how many the other mode would. Compiles nothing.

        Raises:
            DiagnosticError: GC0551 for dimensions without a value.
        """
        return jacobian_plan(self.lowered(dims), self._wrt, self._of)

    def __repr__(self) -> str:
        """With the passes, where no dimension is free."""
        plain = super().__repr__()
        try:
            return f"{plain[:-1]}; {self.passes()}>"
        except DiagnosticError:
            return plain
