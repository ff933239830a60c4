"""Calling a compiled function with names: from dictionaries of arrays to ports and back.

One ``Entry`` is one compiled specialisation. The fast path looks names up, makes the results and
calls the machine code, which checks every array itself; only what it refuses is converted and
explained (``runtime.arrays``).

Invariants: the caller's arrays are never written to unless they are `inout` ports of a training
step; results are arrays that nobody else holds. An array of another layout or type is copied
first; where the program updates it, the copy takes its place in the caller's dictionary, so that no
update is lost.
Non-goals: choosing the specialisation (``runtime.model``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, cast

import numpy as np

from gradc.codegen.backend import GROUP, STOPPED, Loaded, Results, last_group, stop_port
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.plan.plan import Port
from gradc.ir.tensor.bf16 import from_bf16
from gradc.ir.tensor.core import DType, Role
from gradc.runtime.model.into import Room, room
from gradc.runtime.native.arrays import (
    NUMPY_DTYPE,
    Array,
    as_array,
    check_names,
    check_shape,
    convert,
    expect,
)

Arrays = Mapping[str, Any]
# Which of the caller's dictionaries holds the arrays of a role.
PARAMS, INPUTS, SEEDS = "params", "inputs", "seeds"
_HOLDER = {
    Role.PARAM: PARAMS,
    Role.STATE: PARAMS,
    Role.SLOT: PARAMS,
    Role.HYPER: PARAMS,
    Role.INPUT: INPUTS,
    Role.SEED: SEEDS,
}
_WHAT = {PARAMS: "parameter", INPUTS: "input", SEEDS: "seed"}


class Entry:
    """One compiled specialisation and how its ports are named."""

    def __init__(self, native: Loaded) -> None:
        self.native = native
        self.fast: Callable[..., int | None] = native.fast
        self.ports = native.signature.ports
        self.given = tuple(p for p in self.ports if p.direction != "out")
        self.made = tuple(p for p in self.ports if p.direction == "out")
        self._sources = tuple((_HOLDER[p.role], p.name) for p in self.given)
        self._makers = tuple((p.shape, NUMPY_DTYPE[p.dtype]) for p in self.made)
        self._stop = stop_port(self.made)
        #: Whether the loss is a number, where there is one.
        self.has_plain_loss = all(p.shape == () for p in self.made if p.role is Role.LOSS)
        #: The part of ``Results`` that callers may give room for.
        self.last_group = last_group(self.made)
        self._direct: Callable[..., Any] | None = None
        #: Whether results come as bits (bf16, which NumPy lacks) and are handed on as float32.
        self.makes_bits = any(p.dtype is DType.BF16 for p in self.made)

    def direct(self, *how: Any) -> Callable[..., Any] | None:
        """``Loaded.direct``, made once: an entry belongs to one object that is called."""
        if self._direct is None:
            self._direct = self.native.direct(*how)
        return self._direct

    def names(self, holder: str) -> list[str]:
        """The names that ``holder`` must give, in order."""
        return [p.name for p in self.given if _HOLDER[p.role] == holder]

    def call(self, holders: Mapping[str, Arrays]) -> list[Array]:
        """Runs on the arrays of ``holders``; returns the arrays of the `out` ports in order.

        Raises:
            DiagnosticError: with every name, type and shape that does not fit.
        """
        empty = np.empty
        results = [empty(shape, dtype) for shape, dtype in self._makers]
        try:
            arrays = [holders[holder][name] for holder, name in self._sources]
            # Unknown extra names must not pass: the counts differ then.
            is_complete = len(arrays) == sum(len(holder) for holder in holders.values())
        except (KeyError, TypeError, IndexError):
            is_complete = False
        if is_complete and self.fast(*arrays, *results) in (None, STOPPED):
            return results
        self.native.call_checked([*self._converted(holders), *results])
        return results

    def call_into(self, holders: Mapping[str, Arrays], out: object, group: int) -> list[Array]:
        """``call`` with the results of a part of ``Results`` in the arrays of ``out``, by name.

        Raises:
            TypeError: if ``out`` is no dictionary.
            DiagnosticError: as ``call`` does, and for what of ``out`` does not fit.
        """
        arrays = self._converted(holders)
        found = self._room(holders, out, [p for p in self.made if GROUP[p.role] == group])
        results = [
            found.arrays[p.name] if GROUP[p.role] == group else np.empty(shape, dtype)
            for p, (shape, dtype) in zip(self.made, self._makers, strict=True)
        ]
        if self.fast(*arrays, *results) not in (None, STOPPED):
            self.native.call_checked([*arrays, *results])
        found.finish(decode)
        return results

    @staticmethod
    def _room(
        holders: Mapping[str, Arrays],
        out: object,
        ports: Sequence[Port],
        stack: tuple[int, ...] = (),
    ) -> Room:
        pairs = [pair for holder in holders.values() for pair in holder.items()]
        given = [(f"`{name}`", array) for name, array in pairs]
        return room(ports, out, given, stack)

    def arrays(self, holders: Mapping[str, Arrays]) -> list[Array]:
        """What a call takes, in order of ports: the arrays of ``holders``, converted, and new ones
        for what it makes.

        Raises:
            DiagnosticError: as ``call`` does.
        """
        results = [np.empty(shape, dtype) for shape, dtype in self._makers]
        return [*self._converted(holders), *results]

    def is_stopped(self, results: Sequence[Array]) -> bool:
        """Whether the program that made ``results`` refused its step."""
        return self._stop is not None and bool(results[self._stop])

    def call_many(
        self, holders: Mapping[str, Arrays], count: int, out: object = None
    ) -> tuple[list[Array], int]:
        """Runs ``count`` times, at least once, on what is updated in place; inputs, and the arrays
        of the `out` ports that are returned, have a first axis of so many, one position for every
        run. Returns how often it ran as well: a step that is refused is the last. ``out`` has
        arrays for all of them by name, or is None.

        Raises:
            DiagnosticError: as ``call`` does, and for what of ``out`` does not fit.
        """
        is_input = [port.role is Role.INPUT for port in self.given]
        arrays = self._converted(holders, [(count,) if one else () for one in is_input])
        updated = [a for p, a in zip(self.given, arrays, strict=True) if p.direction == "inout"]
        for n, array in enumerate(arrays):
            # Later runs would read what earlier ones have written.
            if is_input[n] and any(np.may_share_memory(array, other) for other in updated):
                arrays[n] = array.copy()
        results = [np.empty((count, *shape), dtype) for shape, dtype in self._makers]
        told = [port for port in self.made if port.role is not Role.STOP]
        found_room = None if out is None else self._room(holders, out, told, (count,))
        if found_room is not None:
            results = [
                found_room.arrays.get(p.name, a) for p, a in zip(self.made, results, strict=True)
            ]
        every, is_stacked = [*arrays, *results], [*is_input, *[True] * len(results)]
        pairs = list(zip(every, is_stacked, strict=True))
        found = self.native.explain([a[:1].reshape(a.shape[1:]) if s else a for a, s in pairs])
        if found:
            raise DiagnosticError(found)
        ran = self.native.launch_many(every, is_stacked, count)
        if found_room is not None:
            found_room.finish(decode)
        return results, ran

    def _converted(
        self, holders: Mapping[str, Arrays], stacks: Sequence[tuple[int, ...]] | None = None
    ) -> list[Array]:
        """The arrays of ``holders`` as the program takes them, of its shapes behind the axes
        ``stacks``.
        """
        for holder, given in holders.items():
            expect(holder, given, Mapping, "a dictionary of arrays by name")
            check_names(_WHAT[holder], given, self.names(holder))
        arrays = []
        for number, ((holder, name), port) in enumerate(
            zip(self._sources, self.given, strict=True)
        ):
            array = as_array(name, holders[holder][name])
            check_shape(name, array, (*(stacks[number] if stacks else ()), *port.shape))
            arrays.append(convert(name, array, port.dtype))
        self._keep_updated(holders, arrays)
        return arrays

    def _keep_updated(self, holders: Mapping[str, Arrays], arrays: Sequence[Array]) -> None:
        """Puts copies in the place of what they are copies of, where the program will update
        them.
        """
        for (holder, name), port, array in zip(self._sources, self.given, arrays, strict=True):
            given = holders[holder]
            if port.direction != "inout" or array is given[name]:
                continue
            expect(holder, given, MutableMapping, "a dictionary whose arrays can be replaced")
            cast("MutableMapping[str, Any]", given)[name] = array


def by_role(
    ports: Sequence[Port], arrays: Sequence[Array], roles: Sequence[Role]
) -> dict[str, Array]:
    """The results of the given roles by name, in order of ports."""
    return {p.name: a for p, a in zip(ports, arrays, strict=True) if p.role in roles}


def decoded(found: Results) -> Results:
    """``found`` with float32 numbers in place of the bits of bf16."""
    loss, *groups = found
    outputs, cts, dots = ({n: decode(a) for n, a in group.items()} for group in groups)
    return (None if loss is None else decode(loss)), outputs, cts, dots


def decode(array: Array) -> Array:
    """``array``, or its values in float32 if it holds bits of bf16: nothing else has 16-bit
    integers.
    """
    return from_bf16(array) if array.dtype == np.uint16 else array


def grouped(ports: Sequence[Port], arrays: Sequence[Array]) -> Results:
    """The results as a named call in machine code returns them."""
    pairs = zip(ports, arrays, strict=True)
    loss = [array for port, array in pairs if port.role is Role.LOSS]
    return (
        loss[0] if loss else None,
        by_role(ports, arrays, (Role.OUTPUT, Role.STATE)),
        by_role(ports, arrays, (Role.COTANGENT,)),
        by_role(ports, arrays, (Role.TANGENT,)),
    )
