"""What is known of a program that was checked before, so that the next process need not read it.

A program's signature and the starts of its parameters follow from its texts, the dimensions that
are given, and gradc; whoever starts with the same ones may take them from a shelf. A shelf answers
for nothing but its own records being whole: what it keeps them by covers gradc's own files.

Invariants: a record is put away only if what is read from it equals what it was made of, spans
included; a record that cannot be read counts as absent. Records are JSON.
Non-goals: where records lie and who may write there (``runtime.native``); programs with errors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gradc.frontend.elaborate import library
from gradc.frontend.model.initial import InitializerIR
from gradc.frontend.model.models import InputSpec, ParameterSpec, Signature
from gradc.ir.diagnostics.source import Source, Sources
from gradc.ir.loop.equal import equal
from gradc.ir.tensor.core import DType, Role, Span, TensorType
from gradc.ir.tensor.dims import Dim, DimensionTooLarge, DimExpr, Monomial, Quotient, Symbol
from gradc.ir.tensor.text import parse_function, print_function
from gradc.ir.tensor.text_tokens import TextError

# What reading a record that is none can raise.
_UNREADABLE = (KeyError, IndexError, TypeError, ValueError, DimensionTooLarge, TextError)

_Found = TypeVar("_Found")


class Shelf(Protocol):
    """Where records are kept, each by the texts it depends on."""

    def get(self, *parts: str) -> Any:
        """The record of ``parts``, or None."""

    def put(self, record: Any, *parts: str) -> None:
        """Keeps ``record``, if it can."""


def digest_of(sources: Iterable[Source]) -> str:
    """BLAKE2 of texts and their names."""
    found = hashlib.blake2b(digest_size=32)
    for source in sources:
        found.update(f"{source.name}\0{len(source.text)}\0{source.text}".encode())
    return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a well-formed program declares: its dimensions, and those that others define."""

    dims: tuple[str, ...]
    derived: tuple[str, ...]


class Kept:
    """The records of one program; ``sources`` learns of the library's texts that it is made of."""

    def __init__(self, shelf: Shelf, sources: Sources) -> None:
        self._shelf = shelf
        self._sources = sources
        self._digest = digest_of(sources)
        self._read: dict[tuple[str, ...], Any] = {}

    def facts(self) -> Facts | None:
        """Those of the program, if it is known to be well formed."""
        return self._get(lambda r: Facts(_names(r["dims"]), _names(r["derived"])), "program")

    def keep_facts(self, facts: Facts) -> None:
        record = {"dims": facts.dims, "derived": facts.derived}
        self._shelf.put(record, "program", self._digest)

    def signature(
        self, entry: str | None, dims: Mapping[str, int] | None, precision: str
    ) -> Signature | None:
        """What ``Program.signature`` gives."""
        how = _call(entry, dims, precision)
        return None if how is None else self._get(self._quoting(_read_signature), "signature", how)

    def keep_signature(
        self,
        entry: str | None,
        dims: Mapping[str, int] | None,
        precision: str,
        signature: Signature,
    ) -> None:
        how = _call(entry, dims, precision)
        self._put("signature", how, signature, _write_signature, _read_signature)

    def parameters(
        self, entry: str | None, dims: Mapping[str, int] | None, precision: str
    ) -> tuple[ParameterSpec, ...] | None:
        """What ``Program.parameters`` gives."""
        how = _call(entry, dims, precision)
        return None if how is None else self._get(self._quoting(_read_starts), "parameters", how)

    def keep_parameters(
        self,
        entry: str | None,
        dims: Mapping[str, int] | None,
        precision: str,
        parameters: tuple[ParameterSpec, ...],
    ) -> None:
        how = _call(entry, dims, precision)
        self._put("parameters", how, parameters, _write_starts, _read_starts)

    def _put(
        self,
        kind: str,
        how: str | None,
        found: _Found,
        write: Callable[[_Found], dict[str, Any]],
        read: Callable[[Any], _Found],
    ) -> None:
        """Puts ``found`` away if there is a way to ask for it and its record says all of it."""
        if how is not None:
            record = {**write(found), "library": self._library()}
            if equal(read(record), found):
                self._shelf.put(record, kind, self._digest, how)

    def _get(self, read: Callable[[Any], _Found], kind: str, *how: str) -> _Found | None:
        key = (kind, *how)
        if key not in self._read:
            record = self._shelf.get(kind, self._digest, *how)
            try:
                self._read[key] = None if record is None else read(record)
            except _UNREADABLE:
                self._read[key] = None
        found: _Found | None = self._read[key]
        return found

    def _library(self) -> list[str]:
        """The library's files among the texts."""
        return [s.name for s in self._sources if s.name.startswith(library.FOLDER)]

    def _quoting(self, read: Callable[[Any], _Found]) -> Callable[[Any], _Found]:
        def both(record: Any) -> _Found:
            found = read(record)
            for name in _names(record["library"]):
                if self._sources.get(name) is None:
                    self._sources.add(library.source_called(name))
            return found

        return both


def _call(entry: str | None, dims: Mapping[str, int] | None, precision: str) -> str | None:
    """The arguments as text; None for sizes that are none, which checking refuses."""
    given = sorted((dims or {}).items())
    if not all(type(name) is str and type(size) is int and size >= 0 for name, size in given):
        return None
    return repr((entry, given, precision))


def _names(record: Any) -> tuple[str, ...]:
    if not all(isinstance(name, str) for name in record):
        raise TypeError(record)
    return tuple(record)


# --- signatures and starts as JSON: spans and types are written once, in tables ------------------


def _write_signature(signature: Signature) -> dict[str, Any]:
    tables = _Writer()
    return {
        "name": signature.name,
        "inputs": [tables.spec(spec) for spec in signature.inputs],
        "parameters": [tables.spec(spec) for spec in signature.parameters],
        "dims": list(signature.dims.items()),
        "span": tables.span(signature.span),
        "outputs": [(name, tables.type(type_)) for name, type_ in signature.outputs],
        **tables.record(),
    }


def _read_signature(record: Any) -> Signature:
    tables = _Reader(record)
    span = tables.span(record["span"])
    if span is None:
        raise TypeError(record)
    return Signature(
        record["name"],
        tuple(tables.spec(row) for row in record["inputs"]),
        tuple(tables.spec(row) for row in record["parameters"]),
        {name: size for name, size in record["dims"]},
        span,
        tuple((name, tables.type(at)) for name, at in record["outputs"]),
    )


def _write_starts(parameters: tuple[ParameterSpec, ...]) -> dict[str, Any]:
    tables, numbers = _Writer(), dict[int, int]()
    rows: list[Any] = []
    starts: list[Any] = []
    for spec in parameters:
        start = spec.initializer
        if start is not None and id(start) not in numbers:
            numbers[id(start)] = len(starts)
            text = print_function(start.function)
            starts.append((start.name, start.arguments, text, start.draws))
        at = None if start is None else numbers[id(start)]
        place = tables.span(spec.span)
        kind = tables.type(spec.type)
        rows.append((spec.path, kind, spec.role.value, place, at, spec.fan_in, spec.fan_out))
    return {"rows": rows, "starts": starts, **tables.record()}


def _read_starts(record: Any) -> tuple[ParameterSpec, ...]:
    tables = _Reader(record)
    starts = [
        InitializerIR(
            name,
            tuple((key, value) for key, value in arguments),
            parse_function(text),
            _names(draws),
        )
        for name, arguments, text, draws in record["starts"]
    ]
    return tuple(
        ParameterSpec(
            path,
            tables.type(kind),
            Role(role),
            tables.span(place),
            None if at is None else starts[at],
            fan_in,
            fan_out,
        )
        for path, kind, role, place, at, fan_in, fan_out in record["rows"]
    )


class _Writer:
    def __init__(self) -> None:
        self._spans: dict[Span, int] = {}
        self._types: dict[TensorType, int] = {}

    def record(self) -> dict[str, Any]:
        spans = [
            (*_place(s), None if s.caller is None else self._spans[s.caller]) for s in self._spans
        ]
        types = [(t.dtype.value, [_written(dim) for dim in t.shape]) for t in self._types]
        return {"spans": spans, "types": types}

    def span(self, span: Span | None) -> int | None:
        """Its number; callers come before what they call."""
        if span is None:
            return None
        if span not in self._spans:
            self.span(span.caller)
            self._spans[span] = len(self._spans)
        return self._spans[span]

    def type(self, type_: TensorType) -> int:
        return self._types.setdefault(type_, len(self._types))

    def spec(self, spec: InputSpec) -> tuple[str, int, int | None, str]:
        return spec.name, self.type(spec.type), self.span(spec.span), spec.role.value


class _Reader:
    def __init__(self, record: Any) -> None:
        self._spans: list[Span] = []
        for file, line, column, end_line, end_column, caller in record["spans"]:
            outer = None if caller is None else self._spans[caller]
            self._spans.append(Span(file, line, column, end_line, end_column, outer))
        self._types = [
            TensorType(tuple(_read(dim) for dim in shape), DType(dtype))
            for dtype, shape in record["types"]
        ]

    def span(self, at: int | None) -> Span | None:
        return None if at is None else self._spans[at]

    def type(self, at: int) -> TensorType:
        return self._types[at]

    def spec(self, row: Any) -> InputSpec:
        name, kind, place, role = row
        return InputSpec(name, self.type(kind), self.span(place), Role(role))


def _place(span: Span) -> tuple[str, int, int, int, int]:
    return span.file, span.line, span.column, span.end_line, span.end_column


def _written(dim: Dim) -> Any:
    """A number, or the terms of a polynomial: each a coefficient and its atoms, symbols by name."""
    if isinstance(dim, int):
        return dim
    return [(count, [_atom(atom) for atom in monomial]) for monomial, count in dim.terms]


def _atom(atom: Symbol | Quotient) -> Any:
    if isinstance(atom, Symbol):
        return atom.name
    return _written(atom.numerator), _written(atom.denominator)


def _read(record: Any) -> Dim:
    if isinstance(record, int):
        return record
    terms: list[tuple[Monomial, int]] = []
    for count, atoms in record:
        made = (Symbol(a) if isinstance(a, str) else Quotient(*map(_read, a)) for a in atoms)
        terms.append((tuple(made), count))
    return DimExpr(tuple(terms))
