"""The names of a program: what is declared where, found once for all its files.

All files of a program share one set of names. The standard library is behind it: a program's
declaration shadows one of the same name for the program's own code, never for the library's.

Invariants: every kind (model, layer or function, optimiser, schedule, initialiser, dimension) is a
space of its own. Repeated declarations are reported here and the first one counts.
Non-goals: what names inside bodies mean (``frontend.elaborate``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from gradc.frontend.elaborate import library
from gradc.frontend.elaborate.values import Callee
from gradc.frontend.syntax import tree
from gradc.ir.diagnostics.diagnostic import Label, Report, error

Entry = TypeVar(
    "Entry",
    tree.DimEntry,
    tree.Model,
    tree.Function | tree.Layer,
    tree.Optimizer,
    tree.Schedule,
    tree.Initializer,
)


@dataclass
class Names:
    """Every declaration of a program by kind and name."""

    report: Report
    models: dict[str, tree.Model] = field(default_factory=dict)
    callables: dict[str, tree.Function | tree.Layer] = field(default_factory=dict)
    optimizers: dict[str, tree.Optimizer] = field(default_factory=dict)
    schedules: dict[str, tree.Schedule] = field(default_factory=dict)
    initializers: dict[str, tree.Initializer] = field(default_factory=dict)
    dims: dict[str, tree.DimEntry] = field(default_factory=dict)
    # Identities of the declarations that some elaboration has used.
    reached: set[int] = field(default_factory=set)

    @staticmethod
    def of(programs: Sequence[tree.Program], report: Report) -> Names:
        """The names of ``programs``; what is declared twice goes to ``report``."""
        names = Names(report)
        for program in programs:
            for declaration in program.declarations:
                names._add(declaration)
        return names

    def reporting_to(self, report: Report) -> Names:
        """The same declarations with another place for what is found."""
        return replace(self, report=report)

    def _add(self, declaration: tree.Declaration) -> None:
        if isinstance(declaration, tree.DimDeclaration):
            for entry in declaration.entries:
                self._enter(self.dims, entry.name, entry, "dimension")
        elif isinstance(declaration, tree.Model):
            self._enter(self.models, declaration.name, declaration, "model")
        elif isinstance(declaration, (tree.Function, tree.Layer)):
            self._enter(self.callables, declaration.name, declaration, "function or layer")
        elif isinstance(declaration, tree.Optimizer):
            self._enter(self.optimizers, declaration.name, declaration, "optimizer")
        elif isinstance(declaration, tree.Schedule):
            self._enter(self.schedules, declaration.name, declaration, "schedule")
        elif isinstance(declaration, tree.Initializer):
            self._enter(self.initializers, declaration.name, declaration, "initializer")

    def _enter(self, table: dict[str, Entry], name: tree.Name, declared: Entry, kind: str) -> None:
        first = table.setdefault(name.text, declared)
        if first is not declared:
            self.report.add(
                error(
                    "GC0202",
                    f"{kind} `{name.text}` is declared twice",
                    name.span,
                    label="declared again",
                    labels=[Label(first.name.span, "first declared here")],
                    help="rename one of the two",
                )
            )

    def callable(self, name: str, in_library: bool) -> Callee | None:
        """The function or layer called ``name`` as seen from the program or from the library."""
        own = None if in_library else self.callables.get(name)
        if own is not None:
            return Callee(own, False)
        for kind in ("fn", "layer"):
            found = self._from_library(kind, name)
            if isinstance(found, (tree.Function, tree.Layer)):
                return Callee(found, True)
        return None

    def _from_library(self, kind: str, name: str) -> library.Declared | None:
        """A declaration of the library, whose text diagnostics may then quote."""
        found = library.declaration(kind, name)
        if found is not None and self.report.sources.get(found.span.file) is None:
            self.report.sources.add(library.source_of(found.span))
        return found

    def callable_names(self) -> Iterable[str]:
        """Every function and layer a program can name."""
        return (*self.callables, *library.names("fn"), *library.names("layer"))

    def optimizer(self, name: str) -> tuple[tree.Optimizer, bool] | None:
        """The optimiser called ``name`` and whether it is the library's."""
        own = self.optimizers.get(name)
        if own is not None:
            self.reached.add(id(own))
            return own, False
        found = self._from_library("optimizer", name)
        return (found, True) if isinstance(found, tree.Optimizer) else None

    def schedule(self, name: str) -> tuple[tree.Schedule, bool] | None:
        """The schedule called ``name`` and whether it is the library's."""
        own = self.schedules.get(name)
        if own is not None:
            self.reached.add(id(own))
            return own, False
        found = self._from_library("schedule", name)
        return (found, True) if isinstance(found, tree.Schedule) else None

    def initializer(self, name: str, in_library: bool) -> tuple[tree.Initializer, bool] | None:
        """The initialiser called ``name`` and whether it is the library's."""
        own = None if in_library else self.initializers.get(name)
        if own is not None:
            self.reached.add(id(own))
            return own, False
        found = self._from_library("initializer", name)
        return (found, True) if isinstance(found, tree.Initializer) else None
