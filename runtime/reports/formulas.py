"""The gradient as formulas: every cotangent that the program names, and every parameter's gradient,
in matrix notation.

The formulas are read off the adjoint program and simplified there (``codegen.symbolic``); nothing
is looked up. A cotangent that is used once is written where it is used, unless the line would get
too long; one that comes back along several ways is also given way by way: direct, through a mean,
through a variance.

They hold for all sizes: the program is elaborated at sizes that are distinct primes, so that every
number in a formula tells which dimension it is. Sizes that the program fixes stay numbers.

Each formula is computed from its notation at other sizes and several points, and compared with the
values that the compiled gradient rests on (``formulas_tried``). One that is not right is left out,
and ``missing`` says so.

If the loss is a mean, the same formulas are also given for its sum (``scale``), as textbooks write
them.

Non-goals: values (``whiteboard``), proofs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from gradc.codegen.symbolic.formulas import terms as it
from gradc.codegen.symbolic.formulas.expand import Reader, is_readable, is_said
from gradc.codegen.symbolic.formulas.fold import Definition, Folder
from gradc.codegen.symbolic.formulas.notation import (
    COTANGENT,
    Equation,
    Name,
    Notation,
    Slope,
    Through,
    to_text,
)
from gradc.codegen.symbolic.formulas.print import Writer
from gradc.frontend.model.models import ModelIR
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.diagnostics.source import Sources
from gradc.ir.ops.registry import has_pullback, is_loop, lookup, number_of
from gradc.ir.tensor.core import Function, Op, Role, Span, Value
from gradc.ir.tensor.dims import symbols
from gradc.passes.differentiate.trace import Traced, traced_gradient
from gradc.runtime.reports.formulas_tried import Named, Trial, trial_of
from gradc.runtime.reports.whiteboard_steps import (
    Steps,
    cut,
    is_made_up,
    own_place,
    spoken,
    text_at,
    without_checkpoints,
)

if TYPE_CHECKING:
    from gradc.runtime.model.model import Model

PRIMES = (53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103)
_LONG = 26
_MOST_NAMES = 240


@dataclass(frozen=True, slots=True)
class Way:
    """One summand of a cotangent and what it comes back through."""

    label: str
    equation: Notation


@dataclass(frozen=True, slots=True)
class Formula:
    """``equation`` says what the cotangent of ``of`` is; ``scaled`` the same for the sum instead of
    the mean.
    """

    of: str
    equation: Notation
    scaled: Notation | None
    ways: tuple[Way, ...]
    place: Span | None
    is_parameter: bool

    def __str__(self) -> str:
        return to_text(self.equation)


@dataclass(frozen=True, slots=True)
class Formulas:
    """The gradient of one model. ``definitions`` are its own lines; ``scale`` is the count the loss
    is divided by.
    """

    model: str
    definitions: tuple[Notation, ...]
    gradients: tuple[Formula, ...]
    scale: str
    assumptions: tuple[str, ...]
    # Cotangents whose formula was not found or did not have the right value, by name, with why.
    missing: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str) -> Formula:
        """The formula of the cotangent of ``name``. Raises KeyError."""
        for formula in self.gradients:
            if formula.of == name:
                return formula
        raise KeyError(name)


def gradient_formulas(model: Model, wrt: Sequence[str] | None = None) -> Formulas:
    """The formulas of ``model``; by default for its parameters, or the inputs of a model without
    any.
    """
    ir, names, given = _generic(model)
    chosen = tuple(wrt) if wrt is not None else model.select("params") or model.select("inputs")
    finder = _Finder(ir, names, chosen, model.program.report.sources)
    finder.trial = trial_of(
        model, finder.traced, given, list(names.values()), chosen, finder.targets
    )
    return finder.formulas()


def _generic(model: Model) -> tuple[ModelIR, dict[int, str], dict[str, int]]:
    """The model at sizes that tell dimensions apart, as far as it allows them to be chosen; their
    names; all sizes.
    """
    shapes = [t.shape for t in (*model.inputs.values(), *model.params.values())]
    free = dict.fromkeys(name for shape in shapes for d in shape for name in symbols(d))
    signature = model.signature.dims
    every = dict.fromkeys(
        (*free, *(n for n, d in signature.items() if d is None or n in _shaping(model)))
    )
    given = {n: d for n, d in {**signature, **model.dims}.items() if d is not None}
    open_ones = [n for n in every if n not in given]

    def lowered(sizes: Mapping[str, int]) -> ModelIR | None:
        # The dimensions chosen here win over those the model was loaded with.
        known = {**dict.fromkeys(open_ones, PRIMES[0]), **given, **sizes}
        try:
            return model.program.lower(model.name, known, model.precision)
        except DiagnosticError:
            return None

    def named(names: Sequence[str]) -> dict[str, int]:
        return dict(zip(names, PRIMES, strict=False))

    sizes = named(list(every))
    ir = lowered(sizes)
    if ir is None:
        # Of heads and channels that divide each other, none can be a prime alone.
        sizes = named([n for n in every if lowered({n: PRIMES[0]}) is not None])
        ir = lowered(sizes)
    if ir is None:
        sizes = named(open_ones)
        ir = lowered(sizes)
    if ir is None:
        sizes = dict.fromkeys(open_ones, PRIMES[0])
        return model.lower(sizes), {}, {**given, **sizes}
    return ir, {size: name for name, size in sizes.items()}, {**given, **sizes}


def _shaping(model: Model) -> dict[str, None]:
    """Dimensions that occur in the shape of an input or parameter as such."""
    specs = (*model.signature.inputs, *model.signature.parameters)
    return dict.fromkeys(n for spec in specs for d in spec.type.shape for n in symbols(d))


class _Finder:
    """Finds the formulas of one model."""

    def __init__(
        self, ir: ModelIR, dims: Mapping[int, str], wrt: Sequence[str], sources: Sources
    ) -> None:
        self.ir = ir
        self.sources = sources
        self.function, named = without_checkpoints(ir)
        self.wrt = wrt
        self.traced: Traced = traced_gradient(self.function, wrt)
        self.dims = dims
        self.trial = Trial()
        block = self.traced.function.block
        self.producers = {r: op for op in block.body for r in op.results}
        self.parameters = dict(
            zip(self.function.block.parameters, self.function.parameters, strict=True)
        )
        self.names: dict[Value, str] = {v: s.name for v, s in self.parameters.items()}
        self.steps = cut(self.function, named)
        self.mark = self.steps.mark
        wordless = self._wordless()
        for value, op in self.steps.results:
            name = self.steps.names[value]
            if len(self.names) < _MOST_NAMES + len(self.parameters) and (
                not is_made_up(name)
                or value in wordless
                or _is_layer(op, self.steps, self.function)
            ):
                self.names[value] = name
        self.known: dict[Value, str] = {}
        self.word_parts: dict[str, Value] = {}
        words: dict[str, Notation] = {}
        self.pullbacks = self._pullbacks(words)
        self.writer = Writer(dims, words)
        self.assumptions: dict[str, None] = {}
        self.missing: dict[str, str] = {}
        self.definitions = [
            Definition(self.names[v], *self._reader(self.names).formula(v, through=True))
            for v in self.names
            if v in self.producers
        ]
        self.targets = [
            s.name
            for v, s in self.parameters.items()
            if s.role is Role.INPUT and v.type.dtype.is_float and v.type.rank > 0
        ]

    def _reader(self, atoms: Mapping[Value, str]) -> Reader:
        return Reader(self.producers, atoms, known=self.known)

    def _wordless(self) -> set[Value]:
        """What goes into and comes out of ops that formulas have no words for: it gets a name."""
        found: set[Value] = set()
        ways = (part for parts in self.traced.parts.values() for part in parts)
        crossed = {v for way in ways for v in way.through}
        for op in self.function.block.body:
            is_crossed = bool(crossed.intersection(op.results))
            if is_readable(op) or not (is_crossed or own_place(op.span) == op.span):
                continue
            found.update(self.steps.results_of(self.steps.step_of.get(op, -1)))
            if is_crossed:
                found.update(op.operands)
        return found

    def _pullbacks(self, words: dict[str, Notation]) -> dict[Value, str]:
        """Contributions of such ops, as transposed Jacobian matrices times cotangents."""
        makers = {r: op for op in self.function.block.body for r in op.results}
        found: dict[Value, str] = {}
        is_curly = self.mark != COTANGENT
        for value, parts in self.traced.parts.items():
            by_step: dict[int, list[tuple[Value, Op]]] = {}
            for part in parts:
                op = makers.get(part.through[0]) if part.through else None
                if op is not None:
                    step = self.steps.step_of.get(op, -1)
                    by_step.setdefault(step, []).append((part.value, op))
            for step, ways in by_step.items():
                ends = [
                    self.names[v]
                    for v in self.steps.results_of(step)
                    if v in self.traced.of and v in self.names
                ]
                part_value, op = ways[0]
                if value not in self.names or not ends or len(ways) > 1 or is_readable(op):
                    continue
                word = f"@{len(words)}"
                slopes = [Slope(end, self.names[value], is_curly) for end in ends]
                cts = [self.mark + end for end in ends]
                shown = tuple(zip(slopes, cts, strict=True))
                words[word] = Through(shown, word, has_pullback(op))
                self.word_parts[word] = part_value
                found[part_value] = word
        return found

    # --- which cotangents get a line of their own

    def _atoms(self, inlined: Sequence[Value] = ()) -> dict[Value, str]:
        """Names, and the cotangents that have a line of their own."""
        atoms = {**self.pullbacks, **self.names}
        loss = self.function.block.outputs[0]
        for value, name in self.names.items():
            ct = self.traced.of.get(value)
            if value in self.parameters or ct is None or ct not in self.producers:
                continue
            if value not in inlined and ct is not self.traced.of.get(loss):
                atoms.setdefault(ct, self.mark + name)
        return atoms

    def _polys(self, atoms: Mapping[Value, str]) -> dict[Value, tuple[tuple[int, ...], it.Poly]]:
        found = {}
        for value, name in self.names.items():
            ct = self.traced.of.get(value)
            is_wanted = value not in self.parameters or name in self.wrt
            if ct is not None and is_wanted and (value in self.parameters or ct in atoms):
                own = atoms.get(ct) == self.mark + name
                if value not in self.parameters and not own:
                    continue
                found[value] = self._short(ct, atoms, through=own)
        return found

    def _short(
        self, ct: Value, atoms: Mapping[Value, str], through: bool
    ) -> tuple[tuple[int, ...], it.Poly]:
        reader = self._reader(atoms)
        at, poly = reader.formula(ct, through=through)
        folder = Folder(self.definitions, self.targets)
        short = folder.shortest(poly)
        self.assumptions.update(reader.assumptions)
        self.assumptions.update(folder.assumptions)
        return at, short

    def _inlined(self) -> list[Value]:
        """Values whose cotangent is used once, in a line that stays short."""
        inlined: list[Value] = []
        atoms = self._atoms()
        polys = self._polys(atoms)
        texts = {value: repr(poly) for value, (_, poly) in polys.items()}
        uses = {
            name: sum(text.count(f"Ref(name={name!r}") for text in texts.values())
            for name in atoms.values()
            if name.startswith(COTANGENT)
        }
        for value in list(polys):
            name = self.mark + self.names[value]
            if value in self.parameters or uses.get(name) != 1:
                continue
            trial = self._atoms([*inlined, value])
            changed = [
                self._short(
                    self.traced.of[v],
                    trial,
                    trial.get(self.traced.of[v]) == self.mark + self.names[v],
                )
                for v, text in texts.items()
                if f"Ref(name={name!r}" in text and v is not value and v not in inlined
            ]
            if all(it.size_of(poly) <= _LONG for _, poly in changed):
                inlined.append(value)
        return inlined

    # --- what is shown

    def formulas(self) -> Formulas:
        """All lines, last cotangent first, then the parameters."""
        atoms = self._atoms(self._inlined())
        self.assumptions.clear()
        polys = self._polys(atoms)
        scale = self._scale()
        inner = [v for v in reversed(list(polys)) if v not in self.parameters]
        outer = [v for v in polys if v in self.parameters]
        shown = [self._formula(v, *polys[v], atoms, scale) for v in (*inner, *outer)]
        definitions = tuple(self._definition(d) for d in self.definitions)
        return Formulas(
            self.ir.name,
            definitions,
            tuple(f for f in shown if f is not None),
            scale[1] if scale else "",
            tuple(self.assumptions),
            self.missing,
        )

    def _env(self, atoms: Mapping[Value, str]) -> dict[str, Named]:
        """What names stand for, as values of the joint program."""
        every = (*self.known.items(), *self.names.items(), *atoms.items())
        found: dict[str, Named] = {
            name: ((value,), name.startswith(COTANGENT)) for value, name in every
        }
        return found | {word: ((value,), True) for word, value in self.word_parts.items()}

    def _right(
        self,
        name: str,
        at: tuple[int, ...],
        poly: it.Poly,
        sizes: tuple[int, ...],
        parts: Sequence[Value],
        atoms: Mapping[Value, str],
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> Notation | None:
        """``name = poly`` in a notation that has the value of ``parts``; None where none has."""
        if self.trial.why_not:
            return None
        has_targets = any(t in text for t in self.targets for text in self.assumptions)
        env = self._env(atoms)
        for write in (self.writer.equation, self.writer.by_index):
            equation = write(name, at, poly, sizes)
            if self.trial.is_right(equation, parts, env, has_targets=has_targets, scales=scales):
                return equation
        return None

    def _definition(self, definition: Definition) -> Notation:
        """A line of the program as a formula, or in the user's own words."""
        value = next(v for v, name in self.names.items() if name == definition.name)
        short = Folder(()).shortest(definition.poly)
        at = tuple(i for i in definition.at if isinstance(i, int))
        sizes = value.type.static_shape
        found = None
        if not self._is_unclear(short, self.names):
            found = self._right(definition.name, at, short, sizes, [value], self.names)
        text = spoken(text_at(self.sources, self._place(value)))
        return found or Equation(Name(definition.name), Name(text))

    def _is_unclear(self, poly: it.Poly, atoms: Mapping[Value, str]) -> bool:
        """Whether ``poly`` names what is no op on names."""
        text = repr(poly)
        return any(
            f"name={name!r}" in text and not is_said(self.producers.get(value), atoms, name)
            for value, name in self.known.items()
        )

    def _scale(self) -> tuple[int, str] | None:
        """The count that the loss is the mean over."""
        loss = self.function.block.outputs[0]
        op = self.producers.get(loss)
        divisor = (
            self.producers.get(op.operands[1]) if op is not None and op.name == "div" else None
        )
        if divisor is None or number_of(divisor) is None:
            return None
        count = divisor.attributes["value"]
        if not isinstance(count, float) or not count.is_integer() or count < 2:
            return None
        number = self.writer.notate((), it.number(Fraction(int(count))))
        return int(count), to_text(number)

    def _formula(
        self,
        value: Value,
        at: tuple[int, ...],
        poly: it.Poly,
        atoms: Mapping[Value, str],
        scale: tuple[int, str] | None,
    ) -> Formula | None:
        name = self.mark + self.names[value]
        sizes, ct = value.type.static_shape, self.traced.of[value]
        equation = None
        if not self._is_unclear(poly, atoms):
            equation = self._right(name, at, poly, sizes, [ct], atoms)
        if equation is None:
            self.missing[self.names[value]] = self.trial.why_not or _UNTOLD
            return None
        scaled = None
        if scale is not None:
            # Cotangents on the way are those of the sum; a parameter's gradient stays that of the
            # mean.
            own = Fraction(1) if value in self.parameters else Fraction(scale[0])
            changed = it.plus(
                *(it.scaled((t,), own / Fraction(scale[0]) ** _cotangents(t)) for t in poly)
            )
            factor = self._small_scale()
            scales = (factor, 1.0 if value in self.parameters else factor)
            scaled = self._right(name, at, changed, sizes, [ct], atoms, scales)
        return Formula(
            self.names[value],
            equation,
            scaled,
            self._ways(value, at, atoms),
            self._place(value),
            value in self.parameters,
        )

    def _small_scale(self) -> float:
        """The count that the loss is the mean over, where formulas are tried."""
        op = self.producers[self.function.block.outputs[0]]
        divisor = self.trial.twin_of[op.operands[1]]
        return float(self.trial.points[0][divisor])

    def _place(self, value: Value) -> Span | None:
        op = self.producers.get(value)
        return own_place(op.span) if op is not None else self.parameters[value].span

    def _ways(
        self, value: Value, at: tuple[int, ...], atoms: Mapping[Value, str]
    ) -> tuple[Way, ...]:
        """The summands by the named value that they come back through; none where one has no
        formula.
        """
        parts = self.traced.parts.get(value, ())
        by_name: dict[Value, list[Value]] = {}
        for part in parts:
            target = self._named_after(part.through)
            if target is not None:
                by_name.setdefault(target, []).append(part.value)
        if len(by_name) < 2:
            return ()
        ways = []
        inner = {
            v: n
            for v, n in atoms.items()
            if not n.startswith(COTANGENT) or v not in self._all(by_name)
        }
        for target, values in by_name.items():
            reader = self._reader(inner)
            poly = it.plus(*(reader.read(v, at) for v in values))
            short = Folder(self.definitions, self.targets).shortest(poly)
            label = self._label(target, by_name)
            if self._is_unclear(short, atoms):
                return ()
            equation = self._right(label, at, short, value.type.static_shape, values, inner)
            if equation is None:
                return ()
            ways.append(Way(label, equation))
        return tuple(sorted(ways, key=lambda way: way.label != "direct"))

    def _all(self, by_name: Mapping[Value, Sequence[Value]]) -> set[Value]:
        return {v for values in by_name.values() for v in values}

    def _named_after(self, through: Sequence[Value]) -> Value | None:
        """The first named value on the way forward from ``through``."""
        readers: dict[Value, list[Value]] = {}
        for op in self.function.block.body:
            for operand in op.operands:
                readers.setdefault(operand, []).append(op.results[0])
        frontier, seen = list(through), set[Value]()
        while frontier:
            value = frontier.pop(0)
            if value in self.names and value not in self.parameters:
                return value
            if value in self.function.block.outputs:
                return value
            if value not in seen:
                seen.add(value)
                frontier += readers.get(value, [])
        return None

    def _label(self, target: Value, others: Mapping[Value, object]) -> str:
        """``direct`` for the value that all others lead to, else mean, variance or the name."""
        name = self.names.get(target, "the loss")
        rest = [v for v in others if v is not target]
        if all(self._reaches(v, target) for v in rest):
            return "direct"
        definition = next((d for d in self.definitions if d.name == name), None)
        kind = _statistic(definition.poly) if definition is not None else ""
        return f"through the {kind} {name}" if kind else f"through {name}"

    def _reaches(self, value: Value, target: Value) -> bool:
        pending, seen = [target], set[Value]()
        while pending:
            here = pending.pop()
            if here is value:
                return True
            op = self.producers.get(here)
            if op is not None and here not in seen:
                seen.add(here)
                pending += op.operands
        return False


_UNTOLD = (
    "what was found did not have the value of the compiled gradient, or takes words that formulas "
    "lack"
)


def _is_layer(op: Op, steps: Steps, function: Function) -> bool:
    """Whether a value without a name is worth one: what matrices are multiplied to or with."""
    step = steps.step_of.get(op)
    mine = {r for o in function.block.body if steps.step_of.get(o) == step for r in o.results}
    for other in function.block.body:
        is_layer = is_loop(other) or lookup(other.name).traits.is_layer
        if is_layer and (
            steps.step_of.get(other) == step or any(v in mine for v in other.operands)
        ):
            return op.results[0].type.rank > 0
    return False


def _cotangents(term: it.Monomial) -> int:
    """How many cotangents a term is a product of: 1, or 0 where the chain starts."""
    return 1 if f"name='{COTANGENT}" in repr(term) else 0


def _statistic(poly: it.Poly) -> str:
    """``mean`` or ``variance`` if that is what a definition computes."""
    if len(poly) != 1 or len(poly[0].factors) != 1:
        return ""
    base, exponent = poly[0].factors[0]
    if not isinstance(base, it.Sigma) or exponent != 1 or len(base.factors) != 1:
        return ""
    count = 1
    for size in base.sizes:
        count *= size
    inner, power = base.factors[0]
    if poly[0].coefficient != Fraction(1, count):
        return ""
    if isinstance(inner, it.Ref) and power == 1:
        return "mean"
    return "variance" if isinstance(inner, it.Group) and power == 2 else ""
