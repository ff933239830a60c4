"""What the sweeps carry along: tangents, cotangents and their marks, replica numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Value
from gradc.passes.differentiate.parts import Part, joined


@dataclass
class Numbers:
    """The next replica number of the function that is being built."""

    replica: int

    def take(self) -> int:
        """A replica number not handed out before."""
        self.replica += 1
        return self.replica - 1


@dataclass
class Tangents:
    """The tangents found so far; a value without one has tangent zero."""

    of: dict[Value, Value] = field(default_factory=dict)

    def put(self, value: Value, tangent: Value | None) -> None:
        """Remembers a tangent. Raises TypeError if its type is not the type of ``value``."""
        if tangent is None:
            return
        if tangent.type != value.type:
            raise TypeError(f"tangent of {value.type} has type {tangent.type}")
        self.of[value] = tangent

    def take(self, values: Iterable[Value]) -> list[Value | None]:
        """The tangents of ``values``."""
        return [self.of.get(v) for v in values]


@dataclass
class Cotangents:
    """The cotangents found so far. ``marked`` are those that come from a masking op."""

    of: dict[Value, Value] = field(default_factory=dict)
    marked: set[Value] = field(default_factory=set)
    # Cotangents of slices, put together when the whole is needed.
    parts: dict[Value, list[Part]] = field(default_factory=dict)

    def add(self, b: Builder, value: Value, ct: Value | None, is_marked: bool) -> None:
        """Adds a contribution. Raises TypeError if its type is not the type of ``value``."""
        if ct is None:
            return
        if ct.type != value.type:
            raise TypeError(f"cotangent of {value.type} has type {ct.type}")
        known = self.of.get(value)
        is_marked = is_marked or (known is not None and known in self.marked)
        total = ct if known is None else b.one("add", known, ct, hint=_named(value, "ct"))
        self.of[value] = total
        if is_marked:
            self.marked.add(total)

    def add_part(self, value: Value, part: Part, is_marked: bool) -> None:
        """Adds the contribution of a slice."""
        self.parts.setdefault(value, []).append(part)
        if is_marked:
            self.marked.add(part.ct)

    def take(self, b: Builder, values: Iterable[Value]) -> list[Value | None]:
        """The cotangents of ``values``, all contributions added."""
        found: list[Value | None] = []
        for value in values:
            parts = self.parts.pop(value, None)
            if parts is not None:
                is_marked = any(part.ct in self.marked for part in parts)
                self.add(b, value, joined(b, value, parts), is_marked)
            found.append(self.of.get(value))
        return found

    def withdraw(self, b: Builder, value: Value) -> Value | None:
        """The sum so far for ``value``, taken out: a loop goes on adding to it."""
        (total,) = self.take(b, [value])
        return None if total is None else self.of.pop(value)

    def has(self, value: Value) -> bool:
        """Whether ``value`` has a cotangent."""
        return value in self.of or value in self.parts

    def move(self, b: Builder, source: Value, target: Value) -> None:
        """What was found for ``source`` counts for ``target``, which it stands for."""
        parts = self.parts.pop(source, None)
        if parts is not None:
            self.parts.setdefault(target, []).extend(parts)
        ct = self.of.pop(source, None)
        self.add(b, target, ct, ct in self.marked if ct is not None else False)

    def any_marked(self, cts: Iterable[Value | None]) -> bool:
        """Whether any of ``cts`` comes from a masking op."""
        return any(ct in self.marked for ct in cts if ct is not None)


def zeros(b: Builder, like: Value) -> Value:
    """Zeros of the type of ``like``."""
    return b.constant(0.0, like.type.dtype, like.type.shape)


def companion(value: Value, kind: str) -> Value:
    """A new value of the type of ``value``, named after it: ``h_ct``, ``h_dot``."""
    return Value(value.type, _named(value, kind))


def _named(value: Value, kind: str) -> str:
    return f"{value.hint}_{kind}" if value.hint else ""
