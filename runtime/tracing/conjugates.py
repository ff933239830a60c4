"""Derivatives of functions of complex numbers, in JAX's conventions.

A program knows a complex number as the pair of its parts, (x, y) for x + iy, and its derivatives
are those of the real map. What users get:

    gradient of a real result L            dL/dx - i dL/dy   (its conjugate is the ascent direction)
    cotangent, in and out                  the conjugate of the pair
    tangent                                the pair
    derivative of a holomorphic function   f'(z), with holomorphic=True

autograd's convention for gradients and cotangents is the conjugate of this one for real results
of complex arguments.

Non-goals: recording and compiling (``transformed``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.inline import inline_function
from gradc.ir.tensor.core import Function, Role, TensorType, Value
from gradc.runtime.tracing.derive import Transform, Wanted
from gradc.runtime.tracing.pairs import ComplexType, pair, pair_of_parts, parts_together, stacked
from gradc.runtime.tracing.record import Recorded


def _is_complex(type_: TensorType) -> bool:
    return isinstance(type_.dtype, ComplexType)


def _refuse(message: str, help: str) -> DiagnosticError:
    return DiagnosticError([error("GC0562", message, None, help=help)])


def check_complex(
    kind: Transform, recorded: Recorded, wanted: Wanted, is_holomorphic: bool
) -> None:
    """Refuses what has no derivative in one complex number. Raises DiagnosticError GC0562."""
    if not (kind.is_loss or kind.passes is not None):
        return
    arguments = [recorded.arguments[n] for n in wanted.numbers]
    results = recorded.types[: recorded.outputs]
    if is_holomorphic:
        for argument in arguments:
            if not _is_complex(argument.type):
                message = f"`{argument.name}` is real, and holomorphic=True wants complex arguments"
                raise _refuse(message, f"convert it: {argument.name}.astype(complex)")
        if not all(map(_is_complex, results)):
            message = "the result is real, and holomorphic=True wants a complex one"
            raise _refuse(message, "leave holomorphic=True out")
        return
    is_forward = kind.name in ("jacfwd", "jacobian")
    if any(map(_is_complex, results)) and not (
        is_forward and not any(_is_complex(a.type) for a in arguments)
    ):
        message = f"gradc.{kind.name} of a function with a complex result"
        help = "make it real by abs(z)**2, numpy.real or numpy.imag, or pass holomorphic=True"
        raise _refuse(message, help)
    if kind.name == "jacfwd" and any(_is_complex(a.type) for a in arguments):
        message = "gradc.jacfwd in complex arguments goes along the real axis only"
        raise _refuse(message, "use gradc.jacrev, or pass holomorphic=True")


def complex_results(kind: Transform, recorded: Recorded, wanted: Wanted) -> list[bool]:
    """Which results of the adapted program are complex, as [..., 2]."""
    own = list(map(_is_complex, recorded.types))
    own += [False] * (len(recorded.function.results) - len(own))
    arguments = [_is_complex(recorded.arguments[n].type) for n in wanted.numbers]
    if kind.seeds == "tangents":
        return own + [_is_complex(recorded.types[n]) for n in recorded.floating]
    if kind.passes is not None:
        results = map(_is_complex, recorded.types[: recorded.outputs])
        return own + [r or a for r in results for a in arguments]
    return own + (arguments if kind.is_loss or kind.seeds else [])


def adapted(kind: Transform, recorded: Recorded, wanted: Wanted) -> Function:
    """The derived program with complex numbers as users see them."""
    derived = kind.derive(recorded, wanted)
    if not any(map(_is_complex, recorded.types)) and not any(
        _is_complex(recorded.arguments[n].type) for n in wanted.numbers
    ):
        return derived
    b = Builder()
    operands = [b.parameter(v.type, v.hint) for v in derived.block.parameters]
    given = list(operands)
    if kind.seeds == "cotangents":
        first = len(given) - len(recorded.floating)
        for place, number in enumerate(recorded.floating, first):
            if _is_complex(recorded.types[number]):
                given[place] = _conjugate(b, given[place])
    found = list(inline_function(b, derived, given))
    slots = list(derived.results)
    own = len(recorded.function.results)
    if recorded.has_complex_loss:
        found[0] = stacked(b, found[0], found[own - 1])
        slots[0] = replace(slots[0], role=Role.OUTPUT)
    found[own:] = _derivatives(b, kind, recorded, wanted, found[own:])
    return b.function(derived.name, found, list(derived.parameters), slots)


def _derivatives(
    b: Builder, kind: Transform, recorded: Recorded, wanted: Wanted, found: Sequence[Value]
) -> list[Value]:
    arguments = [recorded.arguments[n].type for n in wanted.numbers]
    if kind.passes is not None:
        pairs = [(r, a) for r in recorded.types[: recorded.outputs] for a in arguments]
        return [_block(b, v, r, a) for v, (r, a) in zip(found, pairs, strict=True)]
    if kind.seeds == "tangents" or not found:
        return list(found)
    return [
        _conjugate(b, v) if _is_complex(a) else v for v, a in zip(found, arguments, strict=True)
    ]


def _conjugate(b: Builder, stored: Value) -> Value:
    z = pair_of_parts(b, stored)
    assert z.im is not None, "it was read from an array"
    return parts_together(b, pair(z.re, b.one("neg", z.im)))


def _block(b: Builder, found: Value, result: TensorType, argument: TensorType) -> Value:
    """A Jacobian [result, argument], where either ends in its parts, as a complex one.

    A holomorphic one is that along the real axis; that of a real result the conjugate of its parts.
    """
    if _is_complex(argument) and _is_complex(result):
        re = pair_of_parts(b, found).re
    elif _is_complex(argument):
        return _conjugate(b, found)
    elif _is_complex(result):
        re = found
    else:
        return found
    axis = result.rank
    order = [i for i in range(re.type.rank) if i != axis]
    return b.one("transpose", re, perm=(*order, axis))
