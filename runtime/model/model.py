"""A model: one entry of a program, and everything that can be compiled from it.

Each method that compiles returns a callable that specialises itself: the first call with arrays of
new shapes binds the dimensions, compiles (or loads from the cache) and remembers; later calls go
straight to machine code.

Invariants: callables may be shared by threads; arrays handed in are not changed. Names are paths,
such as ``fc1.w``.
Non-goals: training loops (``runtime.training``), the command line.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from gradc.frontend.model.binding import bind_dims
from gradc.frontend.model.models import ModelIR, Signature
from gradc.frontend.program import Program, initialize
from gradc.ir.diagnostics.diagnostic import DiagnosticError, did_you_mean, error
from gradc.ir.tensor.core import Function, Role, Slot, TensorType
from gradc.ir.tensor.dims import substitute
from gradc.passes.differentiate.transforms import hvp, jvp, value_and_grad, vjp
from gradc.passes.differentiate.truncate import rewindowed
from gradc.passes.training.precision import master_type, promote_loss
from gradc.runtime.files.ids import IdCheck
from gradc.runtime.model.call import Arrays
from gradc.runtime.model.compiled import (
    Compiled,
    Derive,
    loss_grads,
    loss_grads_dots,
    loss_outputs_grads,
    pure,
    remembered,
    results_cts,
    results_dots,
)
from gradc.runtime.model.forward import Forward
from gradc.runtime.model.jacobian import CompiledJacobian
from gradc.runtime.model.recipe import Recipe
from gradc.runtime.model.remedies import remedies
from gradc.runtime.native.arrays import (
    Array,
    as_array,
    check_names,
    check_seed,
    check_shape,
    expect,
    listed,
)
from gradc.runtime.native.compile import (
    CompileKeywords,
    FurtherKeywords,
    compile_options,
    options_of,
    quoting,
    refuse_unknown,
)
from gradc.runtime.native.recent import Recent
from gradc.runtime.render.notebook import card

if TYPE_CHECKING:
    from gradc.codegen.symbolic.sympy.program import SymbolicProgram
    from gradc.runtime.doctor.fit import FitKeywords, Fitted
    from gradc.runtime.model.step import TrainStep
    from gradc.runtime.reports.diagnose import Diagnosis
    from gradc.runtime.reports.formulas import Formulas
    from gradc.runtime.reports.memory import MemoryPlan
    from gradc.runtime.reports.profile import Profile
    from gradc.runtime.reports.truncation import Truncation
    from gradc.runtime.reports.verify import Verified, VerifyKeywords
    from gradc.runtime.reports.whiteboard import Whiteboard

Wrt = str | Sequence[str]


class Model:
    """One model of a program, its free dimensions bound by the arrays of each call."""

    def __init__(
        self,
        program: Program,
        entry: str | None = None,
        dims: Mapping[str, int] | None = None,
        precision: str = "f32",
    ) -> None:
        expect("dims", dims or {}, Mapping, "a dictionary of sizes by name")
        for name in (*(dims or {}), precision, entry or ""):
            expect("dims, precision, entry", name, str, "given by name")
        self.program = program
        self.signature: Signature = program.signature(entry, dims, precision)
        self.name = self.signature.name
        self.dims: dict[str, int] = dict(dims or {})
        self._refuse_unknown_dims()
        self.precision = precision
        self._lowered: Recent[tuple[object, ...], ModelIR] = Recent()
        self._id_checks: Recent[tuple[object, ...], IdCheck] = Recent()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the program's text; everything else is made from it again."""
        return Model, (self.program, self.name, self.dims, self.precision)

    def _refuse_unknown_dims(self) -> None:
        known = tuple(dict.fromkeys((*self.program.dims, *self.signature.dims)))
        found = []
        for name in self.dims:
            if name not in known:
                help = did_you_mean(name, known) or f"the dimensions are {listed(list(known))}"
                found.append(error("GC0543", f"there is no dimension `{name}`", None, help=help))
        if found:
            raise DiagnosticError(found, self.program.report.sources)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name}: {type_}" for name, type_ in self.inputs.items())
        return f"<gradc model {self.name}({inputs}), {len(self.params)} parameters>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        sizes = {**dict.fromkeys(self.signature.dims), **self._known()}
        dims = [(n, "of the arrays" if size is None else str(size)) for n, size in sizes.items()]
        sections = (
            ("inputs", ("name", "type"), _named(self.inputs)),
            ("parameters", ("name", "type"), _named(self.params)),
            ("outputs", ("name", "type"), _named(self.outputs)),
            ("dimensions", ("name", "size"), dims),
        )
        return card(self.name, f"gradc model in {self.precision}", sections)

    def _known(self) -> dict[str, int]:
        """Dimensions that have a value without any array."""
        defaults = {name: n for name, n in self.signature.dims.items() if n is not None}
        return {**defaults, **self.dims}

    def _shown(self, type_: TensorType) -> TensorType:
        known = self._known()
        return type_.with_shape(tuple(substitute(d, known) for d in type_.shape))

    @property
    def params(self) -> dict[str, TensorType]:
        """Parameters and states by path, in the order of declaration; free dimensions stay
        symbols.
        """
        return {p.name: self._shown(p.type) for p in self.signature.parameters}

    @property
    def inputs(self) -> dict[str, TensorType]:
        """The arrays of a call, in order."""
        return {i.name: self._shown(i.type) for i in self.signature.inputs}

    @property
    def outputs(self) -> dict[str, TensorType]:
        """The results: the loss, then the named outputs; free dimensions stay symbols."""
        found = {name: self._shown(type_) for name, type_ in self.signature.outputs}
        return {name: master_type(t) if name == self.result else t for name, t in found.items()}

    @property
    def result(self) -> str:
        """The name of what the model returns: `loss` if that is one number."""
        return self.signature.outputs[0][0]

    @property
    def derived(self) -> tuple[str, ...]:
        """The dimensions that others define, but for those that were given a value."""
        return tuple(name for name in self.program.derived if name not in self.dims)

    def lower(self, dims: Mapping[str, int] | None = None, training: bool = True) -> ModelIR:
        """The tensor IR with every dimension bound.

        Raises:
            DiagnosticError: GC0551 for dimensions without a value, and what only shows with these
                values.
        """
        bound = {**self.dims, **(dims or {})}
        key = (tuple(sorted(bound.items())), training)
        with self._lock:
            found = self._lowered.get(key)
            if found is None:
                lowered = self.program.lower(self.name, bound, self.precision, training)
                function = promote_loss(lowered.function)
                found = replace(lowered, function=function, loss=function.block.outputs[0].type)
                self._lowered.put(key, found)
        return found

    def bind(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """All dimensions, from the shapes of arrays and from what was given.

        Raises:
            DiagnosticError: for arrays that contradict each other or the program.
        """
        return bind_dims(self.signature, shapes, self.dims, self.program.report.sources)

    def id_check(self, shapes: Mapping[str, tuple[int, ...]]) -> IdCheck:
        """What looks for ids out of range in inputs of these shapes."""
        key = tuple(sorted(shapes.items()))
        found = self._id_checks.get(key)
        if found is None:
            function = self.lower(self.bind(shapes)).function
            found = self._id_checks.put(key, IdCheck(function, self.program.report.sources))
        return found

    def init(self, seed: int = 0, dims: Mapping[str, int] | None = None) -> dict[str, Array]:
        """Fresh parameters and states by path.

        The numbers depend on ``seed`` and each parameter's path and shape only.
        """
        check_seed(seed)
        return initialize(
            self.program.parameters(self.name, {**self.dims, **(dims or {})}, self.precision), seed
        )

    @remembered
    def forward(
        self,
        outputs: str | Sequence[str] | None = None,
        *,
        training: bool = False,
        **options: Unpack[CompileKeywords],
    ) -> Forward:
        """``f(params, **inputs) -> {"loss": ..., outputs...}``; without training by default.

        Args:
            outputs: names of results; a call then needs only the inputs and parameters that these
                depend on. Without names it gives all that its inputs determine.

        Raises:
            DiagnosticError: GC0554 for a name that is no output.
        """
        return Forward(self, outputs, training, options_of(self.forward, options))

    @remembered
    def value_and_grad(
        self,
        wrt: Wrt = "params",
        budget: int | str | None = None,
        threads: int | None = None,
        target: str = "cpu",
        *,
        aux: bool = False,
        training: bool = True,
        **options: Unpack[FurtherKeywords],
    ) -> Compiled:
        """``f(params, **inputs) -> (loss, grads)``, with ``aux`` ``((loss, outputs), grads)``.

        Args:
            wrt: ``"params"``, ``"inputs"`` (the floating ones), or names.
            budget: most bytes the call may touch, as a number or text such as ``"64MiB"``.
            threads: by default one per usable core.
        """
        given: dict[str, Any] = {"budget": budget, "threads": threads, "target": target, **options}
        chosen = options_of(self.value_and_grad, given)
        finish = loss_outputs_grads if aux else loss_grads
        key = f"value_and_grad {self.select(wrt)}"
        return Compiled(self, key, self.gradient_of(wrt), finish, training, chosen)

    def gradient_of(self, wrt: Wrt = "params") -> Derive:
        """What turns this model's function into the one that also computes gradients."""
        names = self.select(wrt)

        def derive(function: Function) -> Function:
            return value_and_grad(function, names)

        return derive

    @remembered
    def vjp(
        self, wrt: Wrt = "params", *, training: bool = True, **options: Unpack[CompileKeywords]
    ) -> Compiled:
        """``f(params, seeds, **inputs) -> (results, cotangents)``; one seed per floating result."""
        names = self.select(wrt)

        def derive(function: Function) -> Function:
            return vjp(function, names)

        return Compiled(
            self,
            f"vjp {names}",
            derive,
            partial(results_cts, name=self.result),
            training,
            options_of(self.vjp, options),
            True,
        )

    @remembered
    def jvp(
        self, wrt: Wrt = "params", *, training: bool = True, **options: Unpack[CompileKeywords]
    ) -> Compiled:
        """``f(params, tangents, **inputs) -> (results, tangents of results)``."""
        names = self.select(wrt)

        def derive(function: Function) -> Function:
            return jvp(function, names)

        return Compiled(
            self,
            f"jvp {names}",
            derive,
            partial(results_dots, name=self.result),
            training,
            options_of(self.jvp, options),
            True,
        )

    @remembered
    def hvp(
        self, wrt: Wrt = "params", *, training: bool = True, **options: Unpack[CompileKeywords]
    ) -> Compiled:
        """``f(params, vector, **inputs) -> (loss, grads, Hessian times vector)``."""
        names = self.select(wrt)

        def derive(function: Function) -> Function:
            return hvp(function, names)

        return Compiled(
            self,
            f"hvp {names}",
            derive,
            loss_grads_dots,
            training,
            options_of(self.hvp, options),
            True,
        )

    def explain(
        self,
        params: Mapping[str, Array],
        wrt: Wrt | None = None,
        tangent: Mapping[str, Array] | None = None,
        training: bool = True,
        /,
        **inputs: Any,
    ) -> Whiteboard:
        """The forward and backward tables at these arrays, with formulas.

        Args:
            wrt: whose gradients to show: ``"params"``, ``"inputs"`` or names; by default the
                parameters, or the inputs of a model without any.
            tangent: a direction for forward mode, by name.
        """
        from gradc.runtime.reports.whiteboard import explain

        self._check_call(params, inputs)
        chosen = None if wrt is None else self.select(wrt)
        return explain(self, params, inputs, wrt=chosen, tangent=tangent, training=training)

    def to_sympy(self, dims: Mapping[str, int] | None = None) -> SymbolicProgram:
        """The program as SymPy expressions with sharing; its ``gradient(names)`` is SymPy's own
        derivative.

        Dimensions without a value are 2; every element is a symbol, so this is for small ones.

        Raises:
            DiagnosticError: GC0591 for a program with too many elements.
        """
        from gradc.codegen.symbolic.sympy.program import TooLarge, Undetermined, to_sympy

        sizes = {name: 2 for name, size in self.signature.dims.items() if size is None}
        try:
            return to_sympy(self.lower({**sizes, **self.dims, **(dims or {})}).function)
        except TooLarge:
            help = "give small dimensions, such as -D H=2"
            message = f"`{self.name}` has too many elements to write each one down"
            raise DiagnosticError([error("GC0591", message, None, help=help)]) from None
        except (Undetermined, ValueError) as problem:
            message = f"`{self.name}` cannot be written as expressions: {problem}"
            raise DiagnosticError([error("GC0591", message, None)]) from None

    def formulas(self, wrt: Wrt | None = None) -> Formulas:
        """The gradient as formulas in matrix notation, for all sizes, found in the adjoint
        program.
        """
        from gradc.runtime.reports.formulas import gradient_formulas

        return gradient_formulas(self, None if wrt is None else self.select(wrt))

    @remembered
    def jacobian(
        self,
        wrt: Wrt = "inputs",
        of: str | None = None,
        *,
        training: bool = True,
        **options: Unpack[CompileKeywords],
    ) -> CompiledJacobian:
        """``f(params, **inputs) -> {name: array of shape of.shape + name.shape}``, by the mode of
        fewer passes.
        """
        result = self.result if of is None or of == "loss" else of
        chosen = options_of(self.jacobian, options)
        return CompiledJacobian(self, tuple(self.select(wrt)), result, training, chosen)

    def train_step(
        self,
        optimizer: str,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        schedule: str | None = None,
        accumulate: int = 1,
        decay_on: str = "matrices",
        loss_scale: float | str | None = None,
        ranks: object = None,
        shared_statistics: bool = False,
        guard: bool = True,
        shard: Mapping[str, int] | None = None,
        **options: Unpack[CompileKeywords],
    ) -> TrainStep:
        """One native call that computes the loss, the gradients and the update.

        Args:
            optimizer: a call in the language, such as ``"adamw(lr=1e-3)"``.
            schedule: the rate at each step, such as ``"cosine(peak=1e-3, total=1000)"``.
            clip_norm, clip_value: limits on the gradients' global L2 norm and on each value.
            accumulate: cut the batch into this many equal parts, one after another.
            loss_scale: ``dynamic`` or a factor for the loss, against underflow in f16.
            decay_on: ``matrices`` or ``all``: which parameters weight decay falls on.
            ranks: a communicator of mpi4py, whose ranks share every batch; a number only plans.
            shared_statistics: ranks add up what samples share (batch normalisation) on the way.
            guard: a step that is not finite changes nothing and raises; keeps all gradients.
            shard: a dimension along which ranks hold parts of parameters: ``{"H": 2}``.
        """
        from gradc.runtime.model.step import TrainStep

        said = (optimizer, schedule, clip_norm, clip_value, decay_on, accumulate, loss_scale)
        recipe = Recipe(*said, shared_statistics, guard)
        return TrainStep.of(self, recipe, options_of(self.train_step, options), ranks, shard)

    def fit(self, data: Mapping[str, Any], **how: Unpack[FitKeywords]) -> Fitted:
        """Trains on ``data``, an array per input, as `gradc train` does; see FitKeywords."""
        from gradc.runtime.doctor.fit import fit

        return fit(self, data, self.fit, how)

    def diagnose(self, params: Arrays, *, seed: int = 0, **inputs: Any) -> Diagnosis:
        """How the gradient flows at ``params`` and ``inputs``, and what is wrong with it.

        Runs in float64 in the reference interpreter; remedies are tried with other starts drawn
        from ``seed``. The compiled gradient is compared with that.

        Raises:
            DiagnosticError: for names and shapes that do not fit.
        """
        return self.diagnosed(params, inputs, seed=seed)

    def diagnosed(
        self, params: Arrays, inputs: Mapping[str, Any], *, seed: int = 0, target: str = "cpu"
    ) -> Diagnosis:
        """``diagnose`` of inputs in a dictionary, with a gradient compiled for ``target``."""
        from gradc.runtime.reports.diagnose import diagnose, redrawn
        from gradc.runtime.reports.inexact import with_inexact

        check_seed(seed)
        arrays, model = self._check_call(params, inputs)
        operands, redraw = {**params, **arrays}, partial(redrawn, model.parameters, seed=seed)
        found = diagnose(model.function, operands, redraw)
        return with_inexact(found, self, model.function, operands, target)

    def _check_call(
        self, params: Arrays, inputs: Mapping[str, Any]
    ) -> tuple[dict[str, Array], ModelIR]:
        """The inputs as arrays, and the model at their shapes.

        Raises:
            DiagnosticError: for names and shapes that do not fit.
        """
        expect("params", params, Mapping, "a dictionary of arrays by name")
        check_names("input", inputs, list(self.inputs))
        arrays = {name: as_array(name, value) for name, value in inputs.items()}
        model = self.lower(self.bind({name: array.shape for name, array in arrays.items()}))
        check_names("parameter", params, [spec.path for spec in model.parameters])
        for spec in model.parameters:
            check_shape(spec.path, as_array(spec.path, params[spec.path]), spec.type.static_shape)
        return arrays, model

    def truncation(self, params: Arrays, *, wrt: Wrt = "params", **inputs: Any) -> Truncation:
        """What `truncate` drops from each gradient at ``params`` and ``inputs``; both gradients are
        compiled.

        Raises:
            DiagnosticError: for names and shapes that do not fit.
        """
        from gradc.runtime.reports.memory import plan_memory
        from gradc.runtime.reports.truncation import Truncation, dropped_terms, windows

        names = self.select(wrt)

        def whole(function: Function) -> Function:
            return value_and_grad(rewindowed(function, 0), names)

        key = f"whole value_and_grad {names}"
        full = Compiled(self, key, whole, loss_grads, True, compile_options())
        _, kept = self.value_and_grad(names)(params, **inputs)
        _, complete = full(params, **inputs)
        dims = self.bind({name: as_array(name, a).shape for name, a in inputs.items()})
        function = self.lower(dims).function
        peaks = tuple(
            plan_memory(function, pure(derive), compile_options()).peak_bytes
            for derive in (whole, self.gradient_of(names))
        )
        return Truncation(windows(function), dropped_terms(kept, complete), (peaks[0], peaks[1]))

    def verify(self, **options: Unpack[VerifyKeywords]) -> Verified:
        """Every obligation of the compilation of ``value_and_grad``, discharged and reported.

        Args:
            wrt, budget, target: as for ``value_and_grad``.
            points: random points per obligation.
        """
        from gradc.runtime.reports.verify import verify_model  # loads SymPy and flint

        refuse_unknown(self.verify, options, verify_model)
        return verify_model(self, **options)

    def plan(
        self,
        budget: int | str | None = None,
        wrt: Wrt = "params",
        *,
        dims: Mapping[str, int] | None = None,
        training: bool = True,
        threads: int | None = None,
        target: str = "cpu",
    ) -> MemoryPlan:
        """The Plan of loss and gradients: what it does with memory, without running it.

        Args:
            budget: most bytes of ``peak_bytes``; what does not fit is recomputed.
            dims: values for dimensions that no default and no ``dims=`` of ``load`` has bound.

        Raises:
            DiagnosticError: GC0541 for a dimension without a value, GC0602 for a budget that cannot
                be kept.
        """
        from gradc.runtime.reports.memory import plan_memory

        chosen = compile_options(budget=budget, threads=threads, target=target)
        derive = pure(self.gradient_of(wrt))

        def program(model: Model, sizes: Mapping[str, int]) -> tuple[Function, Derive, None]:
            return model.lower(sizes, training).function, derive, None

        sizes = self.lower(dims, training).dims
        with quoting(self.program.report.sources), remedies(self, sizes, chosen, program):
            return plan_memory(program(self, sizes)[0], derive, chosen)

    def profile(self, params: Arrays, **inputs: Any) -> Profile:
        """Where the time of loss and gradients goes, launch by launch, against what this machine
        allows; what ``value_and_grad`` and ``train_step`` give has the same for what they compute.
        """
        return self.value_and_grad().profile(params, **inputs)

    def param_types(self) -> dict[str, TensorType]:
        """Parameters and states with every dimension bound.

        Raises:
            DiagnosticError: GC0551 for dimensions that only the arrays of a call would bind.
        """
        found = self.program.parameters(self.name, self.dims, self.precision)
        return {spec.path: spec.type for spec in found}

    def select(self, wrt: Wrt) -> tuple[str, ...]:
        """The names that ``wrt`` stands for.

        Raises:
            DiagnosticError: GC0554 for an unknown name, GC0562 for one without a derivative.
        """
        floats = {name: t for name, t in self.inputs.items() if t.dtype.is_float}
        trained = [s.name for s in self._trained()]
        if wrt == "params":
            return tuple(trained)
        if wrt == "inputs":
            return tuple(floats)
        expect("wrt", wrt, (str, Sequence), "`params`, `inputs`, a name, or a list of names")
        for name in wrt:
            expect("wrt", name, str, "a list of names")
        names = (wrt,) if isinstance(wrt, str) else tuple(dict.fromkeys(wrt))
        known = [*trained, *floats]
        if found := [self._not_selectable(name, known) for name in names if name not in known]:
            raise DiagnosticError(found)
        return names

    def _not_selectable(self, name: str, known: list[str]) -> Any:
        if name in self.inputs or name in self.params:
            kind = "a state" if name in self.params else "not floating"
            return error("GC0562", f"`{name}` has no derivative: it is {kind}", None)
        help = did_you_mean(name, known) or f"there are {listed(known)}"
        return error("GC0554", f"there is no parameter or input `{name}`", None, help=help)

    def _trained(self) -> list[Slot]:
        known = self.signature.parameters
        return [Slot(p.name, Role.PARAM, p.span) for p in known if p.role is Role.PARAM]


def _named(types: Mapping[str, TensorType]) -> list[tuple[str, str]]:
    return [(name, str(type_)) for name, type_ in types.items()]
