"""The public face of the front end: a program that has been read, and what can be made of it.

    program = load(Path("mlp.grad"))           # or loads(text)
    program.check()                            # warnings; raises DiagnosticError
    signature = program.signature()            # inputs and dimensions of a model, symbolic
    dims = bind_dims(signature, {"x": (32, 784), "y": (32,)}, {})
    model = program.lower(dims=dims)           # ModelIR: the tensor-IR Function and all about its
    parameters params = initialize(model, seed=0)

Invariants: everything here raises DiagnosticError, and nothing else, for whatever a user can get
wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gradc.frontend.elaborate.names import Names
from gradc.frontend.keep import Facts, Kept, Shelf, digest_of
from gradc.frontend.model.checks import check_unused
from gradc.frontend.model.models import (
    MAX_BYTES,
    PRECISIONS,
    Elaborated,
    InputSpec,
    ModelIR,
    ParameterSpec,
    Signature,
    assemble,
    check_sizes,
    default_dims,
    derived_dims,
    elaborate_model,
    result_name,
    specifications,
    symbolic_dims,
)
from gradc.frontend.model.reach import warn_unreached
from gradc.frontend.model.suspect import optimizer_suspicion, suspicions
from gradc.frontend.model.training import lower_optimizer
from gradc.frontend.project import Reader, imports_of, load_program, load_text, skim
from gradc.frontend.syntax import tree
from gradc.frontend.syntax.parse import parse
from gradc.frontend.syntax.source import Source, from_text
from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, Report, did_you_mean, error
from gradc.ir.loop.equal import PLACES, equal
from gradc.ir.tensor.core import DType, Role, TensorType
from gradc.ir.tensor.dims import Dim, bounded_work, product, substitute, symbol, symbols

if TYPE_CHECKING:
    from numpy.typing import NDArray


# Besides the usual sample, what a dimension without a value counts as: a size with many divisors.
_OTHER_SAMPLE: Final = 60


@dataclass
class Program:
    """A program with all its files: ``texts``, each after those that it imports.

    One that was checked before is parsed once something asks for more than is ``kept`` of it.
    """

    texts: tuple[Source, ...]
    report: Report
    kept: Kept | None = None
    known: Facts | None = None
    _signatures: dict[tuple[object, ...], Signature] = field(default_factory=dict)
    _parameters: dict[tuple[object, ...], tuple[ParameterSpec, ...]] = field(default_factory=dict)
    _is_checked: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the texts of the files, which are parsed again."""
        return parsed, (tuple((source.name, source.text) for source in self.texts),)

    @cached_property
    def files(self) -> tuple[tree.Program, ...]:
        """The tree of each text."""
        return tuple(parse(source, self.report) for source in self.texts)

    @cached_property
    def names(self) -> Names:
        """What is declared where."""
        return Names.of(self.files, self.report)

    @property
    def digest(self) -> str:
        """BLAKE2 of all texts of the program: what a cache of its compiled forms is keyed by."""
        return digest_of(self.report.sources)

    @property
    def dims(self) -> tuple[str, ...]:
        """The dimensions that it declares."""
        return self._facts.dims

    @property
    def _facts(self) -> Facts:
        if self.known is None:
            self.known = Facts(tuple(self.names.dims), derived_dims(self.names))
        return self.known

    @property
    def models(self) -> tuple[str, ...]:
        """The names of its models, in the order of the text."""
        return tuple(self.names.models)

    def model(self, entry: str | None = None) -> tree.Model:
        """The model called ``entry``; the only one (or only one of the main file) if there is no
        name.

        Raises:
            DiagnosticError: GC0213.
        """
        models = self.names.models
        if entry is not None and entry in models:
            return models[entry]
        own = [d for d in self.files[-1].declarations if isinstance(d, tree.Model)]
        if entry is None and len(own) == 1:
            return own[0]
        known = ", ".join(f"`{name}`" for name in models)
        if entry is not None:
            message = f"there is no model `{entry}`"
            help = did_you_mean(entry, models) or (f"the models are {known}" if known else "")
        elif not models:
            message, help = (
                "this program declares no model",
                "write `model name(x: float) -> float`",
            )
        else:
            message, help = "this program declares several models", f"choose one of {known}"
        raise self._failure(error("GC0213", message, None, help=help))

    def _failure(self, *diagnostics: Diagnostic) -> DiagnosticError:
        return DiagnosticError(diagnostics, self.report.sources)

    def signature(
        self,
        entry: str | None = None,
        dims: Mapping[str, int] | None = None,
        precision: str = "f32",
    ) -> Signature:
        """Inputs, parameters and dimensions of a model, with symbols.

        ``dims`` matter where they count something, such as the blocks of ``block(D) * L``.

        Raises:
            DiagnosticError: with everything that checking the model finds; GC0544 for a size that
                is none, GC0546 for an unknown precision.
        """
        kept = None if self.kept is None else self.kept.signature(entry, dims, precision)
        if kept is not None:
            return kept
        found = self._signature(entry, dims, precision)
        if self.kept:
            self.kept.keep_signature(entry, dims, precision, found)
        return found

    def _signature(
        self, entry: str | None, dims: Mapping[str, int] | None, precision: str
    ) -> Signature:
        model = self.model(entry)
        overrides = {name: n for name, n in (dims or {}).items() if name in self.names.dims}
        for name, value in overrides.items():
            self._check_size(name, value)
        key = (model.name.text, tuple(sorted(overrides.items())), precision)
        if key not in self._signatures:
            floating = self._floating(precision)
            self._signatures[key] = self._check_model(model, overrides, floating)
        self.report.raise_errors()
        return self._signatures[key]

    @property
    def derived(self) -> tuple[str, ...]:
        """The dimensions that others define."""
        return self._facts.derived

    def sizes(self, entry: str, dims: Mapping[str, int]) -> dict[str, int]:
        """All dimensions that have a value once ``dims`` have theirs."""
        return self._known(self.signature(entry), dims)

    def _check_size(self, name: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            message = f"dimension `{name}` must be an integer of at least 0, not {value!r}"
            raise self._failure(error("GC0544", message, None))

    def _floating(self, precision: str) -> DType:
        floating = PRECISIONS.get(precision)
        if floating is None:
            known = ", ".join(f"`{name}`" for name in PRECISIONS)
            message = f"there is no precision `{precision}`"
            help = did_you_mean(precision, PRECISIONS) or f"choose one of {known}"
            raise self._failure(error("GC0546", message, None, help=help))
        return floating

    def _check_model(
        self, model: tree.Model, overrides: Mapping[str, int], floating: DType
    ) -> Signature:
        with bounded_work():
            return self._signature_of(model, overrides, floating)

    def _signature_of(
        self, model: tree.Model, overrides: Mapping[str, int], floating: DType
    ) -> Signature:
        dims, sample = symbolic_dims(self.names, self.report, overrides)
        made = elaborate_model(self.names, self.report, model, dims, sample, floating, True)
        ctx = made.ctx
        if made.loss is not None and not self.report.has_errors:
            specifications(made)
        if ctx.reads_training:
            elaborate_model(self.names, self.report, model, dims, sample, floating, False)
        if made.loss is not None and not self.report.has_errors:
            function = assemble(made, model.name.text)
            check_sizes(made, function)
            warn_unreached(ctx, function)
            for found in suspicions(function, sample):
                self.report.add(found)
        used = dict.fromkeys((*ctx.used_dims, *made.implicit))
        for spec in made.inputs:
            for dim in spec.type.shape:
                used.update(dict.fromkeys(symbols(dim)))
        known = default_dims(self.names, self.report, overrides)
        parameters = tuple(
            InputSpec(d.path, d.value.type, d.span, d.role) for d in ctx.declared.values()
        )
        order = [*(n for n in self.names.dims if n in used), *made.implicit]
        return Signature(
            model.name.text,
            tuple(made.inputs),
            parameters,
            {dim: known.get(dim) for dim in order},
            model.name.span,
            _results(made),
        )

    def check(self) -> tuple[Diagnostic, ...]:
        """Checks every declaration. Returns the warnings.

        Raises:
            DiagnosticError: with everything found.
        """
        if not self._is_checked:
            self._is_checked = True
            for model in self.names.models.values():
                key = (model.name.text, (), "f32")
                if key not in self._signatures:
                    self._signatures[key] = self._check_model(model, {}, DType.F32)
                if not self.report.has_errors:
                    self._check_defaults(self._signatures[key])
            check_unused(self.names, self.report)
            if not self.report.has_errors:
                self._check_optimizers()
        self.report.raise_errors()
        return tuple(self.report.diagnostics)

    def _check_optimizers(self) -> None:
        """Warns of updates that can divide by zero; an optimiser that needs arguments is looked at
        when it is given them.
        """
        for name in self.names.optimizers:
            try:
                update = lower_optimizer(f"{name}()", self.names).update(
                    TensorType((2,), DType.F32)
                )
            except DiagnosticError:
                continue
            found = optimizer_suspicion(update.function)
            if found is not None:
                self.report.add(found)

    def _check_defaults(self, signature: Signature) -> None:
        """Reports arrays that no machine can hold at the default dimensions."""
        known = {name: size for name, size in signature.dims.items() if size is not None}
        for spec in (*signature.parameters, *signature.inputs):
            shape = tuple(substitute(d, known) for d in spec.type.shape)
            size = product(shape)
            if isinstance(size, int) and size * spec.type.dtype.itemsize >= MAX_BYTES:
                message = (
                    f"`{spec.type.with_shape(shape)}` takes {size * spec.type.dtype.itemsize} bytes"
                )
                help = "choose smaller dimensions"
                self.report.add(error("GC0404", message, spec.span, help=help))

    def parameters(
        self,
        entry: str | None = None,
        dims: Mapping[str, int] | None = None,
        precision: str = "f32",
    ) -> tuple[ParameterSpec, ...]:
        """Parameters and states with their starts. Dimensions that they do not depend on need no
        value.

        Raises:
            DiagnosticError: as for ``lower``; GC0541 for a dimension that parameters depend on.
        """
        kept = None if self.kept is None else self.kept.parameters(entry, dims, precision)
        if kept is not None:
            return kept
        signature = self._signature(entry, None, "f32")
        bound = self._known(signature, dims or {})
        key = (signature.name, tuple(sorted(bound.items())), precision)
        if key not in self._parameters:
            self._parameters[key] = self._parameters_at(signature, bound, precision)
        if self.kept:
            self.kept.keep_parameters(entry, dims, precision, self._parameters[key])
        return self._parameters[key]

    def _parameters_at(
        self, signature: Signature, bound: Mapping[str, int], precision: str
    ) -> tuple[ParameterSpec, ...]:
        free = [name for name in signature.dims if name not in bound]
        found, guessed = self._specified(signature, bound, {}, precision)
        needed = {n for spec in found for d in spec.type.shape for n in symbols(d)}
        for name in (n for n in guessed if n not in needed):
            # Numbers were made of its sample. If another one changes no parameter, none of them
            # matters here.
            other, _ = self._specified(signature, bound, {name: _OTHER_SAMPLE}, precision)
            if not equal(found, other, ignore=PLACES):
                needed.add(name)
        self._refuse_missing(signature, [name for name in free if name in needed])
        return found

    def _specified(
        self,
        signature: Signature,
        bound: Mapping[str, int],
        sample: Mapping[str, int],
        precision: str,
    ) -> tuple[tuple[ParameterSpec, ...], tuple[str, ...]]:
        """The parameters where only ``bound`` dimensions have a value, and which others were read
        as numbers.
        """
        report = Report(self.report.sources)
        names = Names.of(self.files, report)
        free = (name for name in (*self.names.dims, *signature.dims) if name not in bound)
        dims: dict[str, Dim] = {**bound, **{name: symbol(name) for name in free}}
        floating, model = self._floating(precision), self.model(signature.name)
        numbers = {**bound, **sample}
        with bounded_work():
            made = elaborate_model(names, report, model, dims, numbers, floating, True)
            report.raise_errors()
            found = specifications(made)
        report.raise_errors()
        return found, tuple(made.ctx.guessed)

    def lower(
        self,
        entry: str | None = None,
        dims: Mapping[str, int] | None = None,
        precision: str = "f32",
        training: bool = True,
    ) -> ModelIR:
        """The model with its dimensions bound to ``dims`` and the defaults.

        Raises:
            DiagnosticError: with what checking finds; GC0541 for dimensions without a value; what
                only shows with these values, such as a division that leaves a rest.
        """
        signature = self.signature(entry)
        model = self.model(entry)
        bound = self._bound(signature, dims or {})
        report = Report(self.report.sources)
        floating = self._floating(precision)
        names = Names.of(self.files, report)
        made = elaborate_model(names, report, model, bound, bound, floating, training)
        report.raise_errors()
        parameters = specifications(made)
        report.raise_errors()
        function = assemble(made, model.name.text)
        check_sizes(made, function)
        report.raise_errors()
        assert made.loss is not None
        outputs = [
            (slot.name, value.type)
            for slot, value in zip(function.results, function.block.outputs, strict=True)
            if slot.role is Role.OUTPUT
        ]
        return ModelIR(
            model.name.text,
            function,
            parameters,
            tuple(made.inputs),
            tuple(outputs),
            made.loss.type,
            {name: bound[name] for name in signature.dims},
            floating,
            training,
            made.ctx.given,
        )

    def _bound(self, signature: Signature, dims: Mapping[str, int]) -> dict[str, int]:
        """All dimensions of the program, those of the model among them; each must have a value."""
        bound = self._known(signature, dims)
        self._refuse_missing(signature, [name for name in signature.dims if name not in bound])
        return bound

    def _known(self, signature: Signature, dims: Mapping[str, int]) -> dict[str, int]:
        """The dimensions that have a value."""
        for name, value in dims.items():
            if name not in self.names.dims and name not in signature.dims:
                known = (*self.names.dims, *signature.dims)
                help = did_you_mean(name, known)
                raise self._failure(
                    error("GC0543", f"there is no dimension `{name}`", None, help=help)
                )
            self._check_size(name, value)
        bound = {**default_dims(self.names, self.report, dims), **dims}
        self.report.raise_errors()
        return bound

    def _refuse_missing(self, signature: Signature, missing: Sequence[str]) -> None:
        if missing:
            listed = ", ".join(f"`{name}`" for name in missing)
            noun = "dimension has" if len(missing) == 1 else "dimensions have"
            message = f"{noun} no value: {listed}"
            help = f"give {'it' if len(missing) == 1 else 'them'} with `-D {missing[0]}=32`, "
            help += "by the arrays of a call, or a default in the program"
            raise self._failure(error("GC0541", message, signature.span, help=help))


def _results(made: Elaborated) -> tuple[tuple[str, TensorType], ...]:
    """The loss and the named outputs, with symbols."""
    loss = [] if made.loss is None else [(result_name(made), made.loss.type)]
    return (*loss, *((name, value.type) for name, (value, _) in made.ctx.outputs.items()))


def load(path: Path, shelf: Shelf | None = None) -> Program:
    """The program in a file and all it imports; ``shelf`` may know it from before.

    Raises:
        DiagnosticError: if it cannot be read or is not well formed.
    """
    return _loaded(partial(load_program, path), shelf)


def loads(
    text: str,
    name: str = "<string>",
    directory: Path | None = None,
    shelf: Shelf | None = None,
) -> Program:
    """The program in ``text``; it can import files of ``directory``; ``shelf`` may know it.

    Raises:
        DiagnosticError: if it is not well formed.
    """

    def read(report: Report, reader: Reader = parse) -> tuple[tree.Program, ...]:
        return load_text(text, report, name, directory, reader)

    return _loaded(read, shelf)


def parsed(files: tuple[tuple[str, str], ...]) -> Program:
    """The program of texts with their names: every file after those that it imports, none of them
    read from disk.

    Raises:
        DiagnosticError: if one is not well formed.
    """
    report = Report()
    made = tuple(parse(from_text(text, name), report) for name, text in files)
    report.raise_errors()
    return _program(made, report)


def _loaded(read: Callable[..., tuple[tree.Program, ...]], shelf: Shelf | None) -> Program:
    """The program that ``read`` reads, skimmed where that is enough."""
    if shelf is not None:
        report = Report()
        try:
            skimmed = read(report, reader=skim)
        except DiagnosticError:  # reading will say it, with the places
            skimmed = ()
        kept = Kept(shelf, report.sources)
        known = kept.facts() if skimmed else None
        if known is not None:
            return Program(_texts(skimmed, report), report, kept, known)
    report = Report()
    files = read(report)
    program = _program(files, report)
    if shelf is not None and not report.has_errors:
        texts = program.texts
        # What a look at the texts finds must be what the parser finds, or it is no way in.
        if [imports_of(skim(text, Report())) for text in texts] == list(map(imports_of, files)):
            program.kept = Kept(shelf, report.sources)
            program.kept.keep_facts(Facts(program.dims, program.derived))
    return program


def _texts(files: tuple[tree.Program, ...], report: Report) -> tuple[Source, ...]:
    return tuple(report.sources.by_name[file.span.file] for file in files)


def _program(files: tuple[tree.Program, ...], report: Report) -> Program:
    program = Program(_texts(files, report), report)
    program.files = files
    _ = program.names  # reports what is declared twice
    return program


def initialize(model: ModelIR | Sequence[ParameterSpec], seed: int = 0) -> dict[str, NDArray[Any]]:
    """How every parameter and state of ``model`` starts, by path, in the order of declaration."""
    from gradc.frontend.model import draws  # loads NumPy, which a check needs not

    return draws.initialize(model.parameters if isinstance(model, ModelIR) else model, seed)
