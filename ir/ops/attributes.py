"""Typed reading of op attributes: each accessor returns what it says or refuses with a
TypeRuleError.

Attributes come from the front end, from passes and from parsed text, so their types are checked
where they are read. Python's ``bool`` is not accepted where an integer is meant.
"""

from __future__ import annotations

from gradc.ir.ops.registry import TypeRuleError
from gradc.ir.tensor.core import Attr, Attrs, DType
from gradc.ir.tensor.dims import Dim, DimExpr

_MISSING = object()


def _refuse(name: str, wanted: str, got: object) -> TypeRuleError:
    if got is _MISSING:
        return TypeRuleError(f"attribute `{name}` is missing: expected {wanted}")
    return TypeRuleError(f"attribute `{name}` must be {wanted}, not {got!r}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def get_int(attributes: Attrs, name: str) -> int:
    """The integer attribute ``name``. Raises TypeRuleError."""
    value = attributes.get(name, _MISSING)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refuse(name, "an integer", value)
    return value


def get_bool(attributes: Attrs, name: str, default: bool | None = None) -> bool:
    """The boolean attribute ``name``. Raises TypeRuleError."""
    value = attributes.get(name, _MISSING if default is None else default)
    if not isinstance(value, bool):
        raise _refuse(name, "true or false", value)
    return value


def get_str(attributes: Attrs, name: str, default: str | None = None) -> str:
    """The text attribute ``name``. Raises TypeRuleError."""
    value = attributes.get(name, _MISSING if default is None else default)
    if not isinstance(value, str):
        raise _refuse(name, "a string", value)
    return value


def get_number(attributes: Attrs, name: str) -> float | int | bool:
    """The number (or truth value) called ``name``. Raises TypeRuleError."""
    value = attributes.get(name, _MISSING)
    if not isinstance(value, (bool, int, float)):
        raise _refuse(name, "a number", value)
    return value


def get_dtype(attributes: Attrs, name: str = "dtype") -> DType:
    """The element type called ``name``. Raises TypeRuleError."""
    value = attributes.get(name, _MISSING)
    if not isinstance(value, DType):
        raise _refuse(name, "an element type", value)
    return value


def get_ints(attributes: Attrs, name: str) -> tuple[int, ...]:
    """The tuple of integers called ``name``. Raises TypeRuleError."""
    value = attributes.get(name, _MISSING)
    if not isinstance(value, tuple) or not all(_is_int(item) for item in value):
        raise _refuse(name, "a tuple of integers", value)
    return tuple(item for item in value if isinstance(item, int))


def get_dims(attributes: Attrs, name: str) -> tuple[Dim, ...]:
    """The tuple of dimensions called ``name``. Raises TypeRuleError."""
    value = attributes.get(name, _MISSING)
    if not isinstance(value, tuple) or not all(_is_int(d) or isinstance(d, DimExpr) for d in value):
        raise _refuse(name, "a tuple of dimensions", value)
    return tuple(d for d in value if isinstance(d, (int, DimExpr)))


def get_dim(attributes: Attrs, name: str) -> Dim:
    """The dimension called ``name``. Raises TypeRuleError."""
    value = attributes.get(name, _MISSING)
    if isinstance(value, DimExpr) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise _refuse(name, "a dimension", value)


def get_pairs(attributes: Attrs, name: str) -> tuple[tuple[int, int], ...]:
    """The tuple of pairs of integers called ``name``. Raises TypeRuleError."""
    value = attributes.get(name, _MISSING)
    if not isinstance(value, tuple):
        raise _refuse(name, "a tuple of pairs", value)
    return tuple(_pair(name, item) for item in value)


def get_pair(attributes: Attrs, name: str) -> tuple[int, int]:
    """The pair of integers called ``name``. Raises TypeRuleError."""
    return _pair(name, attributes.get(name, _MISSING))


def _pair(name: str, value: Attr | object) -> tuple[int, int]:
    if isinstance(value, tuple) and len(value) == 2:
        first, second = value
        if isinstance(first, int) and isinstance(second, int):
            return first, second
    raise _refuse(name, "a pair of integers", value)
