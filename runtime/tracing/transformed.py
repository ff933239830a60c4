"""A transformed function: recorded, compiled and kept per structure, shapes and types of its
arguments.

``Transformed`` is a value: a function, a ``Transform``, a choice of arguments, options. It takes
nothing over from the function it wraps but name and documentation, so transforms of transforms
compose. Called with arrays it compiles once and calls; called while another function is
recorded, its program becomes part of that one.

What a function reads besides its arguments is compared at each call (``captures``); if it changed,
the function is recorded again, and compiled again only where the program came out different.

Invariants: cache keys hold what they compare, never an address or a printed form; safe to call from
several threads.
"""

from __future__ import annotations

import functools
import inspect
import operator
import threading
import types
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

import gradc.runtime.tracing.tables  # noqa: F401  (fills the tables of traceable functions)
from gradc.ir.loop.equal import PLACES, fingerprint
from gradc.ir.ops.inline import inline_function
from gradc.ir.tensor.core import Value
from gradc.passes.hoist.repeats import with_loops
from gradc.runtime.model.call import Entry
from gradc.runtime.native.arrays import Array, as_array, convert
from gradc.runtime.native.compile import Options, compile_function
from gradc.runtime.tracing.captures import Captures, RandomState, TraceWarning
from gradc.runtime.tracing.conjugates import adapted, check_complex, complex_results
from gradc.runtime.tracing.derive import Transform, Wanted
from gradc.runtime.tracing.into import GradientRoom
from gradc.runtime.tracing.pairs import array_of, as_complex, as_parts, is_pair, pair_of_parts
from gradc.runtime.tracing.record import Argument, Recorded, numpy_of, record
from gradc.runtime.tracing.seeds import refusal, seed_arrays, seed_types, seed_values
from gradc.runtime.tracing.trace import Trace, Traced, current_trace
from gradc.runtime.tracing.trees import Static, Structure, flatten, leaf_count, paths, rebuild
from gradc.runtime.tracing.weak import WeakMethod

# Kept per function: so many forms of arguments, and of each so many states of what the function
# reads.
MOST_FORMS = 256
MOST_STATES = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """Which arguments are differentiated, which are options. ``argnums`` None: all of them."""

    argnums: int | tuple[int, ...] | None = 0
    argnames: str | tuple[str, ...] | None = None
    static_argnums: tuple[int, ...] = ()
    static_argnames: tuple[str, ...] = ()
    has_aux: bool = False
    holomorphic: bool = False


class Program:
    """One compiled form: what is called, with which captured arrays, and whether it still holds."""

    def __init__(
        self, entry: Entry, recorded: Recorded, wanted: Wanted, kind: Transform, captures: Captures
    ) -> None:
        self.entry = entry
        self.recorded = recorded
        self.wanted = wanted
        self.kind = kind
        self.captures = captures
        self.captured = [cast(Array, item) for item in recorded.captured.values()]
        self._finish = functools.partial(kind.finish, recorded, wanted)
        self._makers = [(p.shape, numpy_of(p.dtype)) for p in entry.made]
        complexes = complex_results(kind, recorded, wanted)
        self._complex = [n for n, is_complex in enumerate(complexes) if is_complex]
        names = [slot.name for slot in recorded.function.parameters]
        count = len(names)
        seeds = [p.name for p in entry.given if p.role.value == "seed"]
        places = {name: n for n, name in enumerate(names)}
        seed_places = {name: count + n for n, name in enumerate(seeds)}
        order = [(seed_places if p.role.value == "seed" else places)[p.name] for p in entry.given]
        self._order = None if order == list(range(count + len(seeds))) else order
        self._scalars = self._which_are_scalars()
        given = [a.type for a in recorded.arguments]
        if kind.seeds is not None:
            given += [t for _, t in seed_types(recorded, wanted, kind)]
        held = any(item.dtype.kind == "c" for item in self.captured)
        #: Whether arrays that are given are complex, and so are seen as pairs.
        self._has_parts = held or any(is_pair(t.dtype) for t in given)

    def _which_are_scalars(self) -> list[int]:
        """Results handed out as NumPy's scalars: rank 0, but not gradients of arrays."""
        own = len(self.recorded.function.results)
        shapes = [s[:-1] if n in self._complex else s for n, (s, _) in enumerate(self._makers)]
        found = [n for n, shape in enumerate(shapes) if shape == ()]
        if len(self._makers) - own != len(self.wanted.numbers) or self.kind.seeds == "tangents":
            return found
        kinds = [self.recorded.arguments[n].kind for n in self.wanted.numbers]
        return [n for n in found if n < own or kinds[n - own] is not np.ndarray]

    def __call__(
        self, leaves: list[Any], seeds: Sequence[Array] = (), room: GradientRoom | None = None
    ) -> Any:
        """Runs on the leaves of the arguments; gradients go to ``room`` where there is one."""
        arrays = [
            a if type(a) is np.ndarray else np.asarray(a, numpy_of(g.type.dtype))
            for a, g in zip(leaves, self.recorded.arguments, strict=True)
        ]
        return self.run(arrays, seeds, room)

    def run(
        self, arrays: list[Any], seeds: Sequence[Array] = (), room: GradientRoom | None = None
    ) -> Any:
        """Runs on arrays; what the function has captured is added to the list."""
        arrays += self.captured
        arrays += seeds
        if self._has_parts:
            arrays = [as_parts(a) if a.dtype.kind == "c" else a for a in arrays]
        if self._order is not None:
            arrays = [arrays[n] for n in self._order]
        empty = np.empty
        results: list[Any] = [empty(shape, dtype) for shape, dtype in self._makers]
        if room is not None:
            results = room.taken(results, self._complex, arrays)
        if self.entry.fast(*arrays, *results) is not None:
            arrays = [
                convert(p.name, as_array(p.name, a), p.dtype)
                for p, a in zip(self.entry.given, arrays, strict=True)
            ]
            self.entry.native.call_checked([*arrays, *results])
        for n in self._complex:
            results[n] = as_complex(results[n])
        for n in self._scalars:
            results[n] = results[n][()]
        return self._finish(results if room is None else room.filled(results))


class Transformed:
    """``kind`` of ``function``: called like it, used like a function, method included."""

    __gradc_wrapped__ = True
    __wrapped__: Callable[..., Any]
    kind: Transform
    choice: Choice
    options: Options
    _programs: OrderedDict[Any, list[Program]]
    _plain: dict[Any, Program]
    _compiled: OrderedDict[Any, Entry]
    _bound: dict[int, _Bound]
    _lock: threading.RLock
    _has_options: bool

    def __init__(
        self, function: Callable[..., Any], kind: Transform, choice: Choice, options: Options
    ) -> None:
        put = functools.partial(object.__setattr__, self)
        put("__wrapped__", function)
        put("kind", kind)
        put("choice", choice)
        put("options", options)
        for name in ("__name__", "__qualname__", "__doc__", "__module__"):
            if hasattr(function, name):
                put(name, getattr(function, name))
        put("_programs", OrderedDict())
        put("_plain", {})
        put("_compiled", OrderedDict())
        put("_bound", {})
        put("_lock", threading.RLock())
        put("_has_options", bool(choice.static_argnums or choice.static_argnames))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a transformed function is fixed; make another with {name}=...")

    def __repr__(self) -> str:
        name = getattr(self.__wrapped__, "__qualname__", repr(self.__wrapped__))
        counted = ""
        made = [states[0] for states in self._programs.values() if states]
        if self.kind.passes is not None and made:
            plans = self.kind.passes(made[-1].recorded, made[-1].wanted)
            counted = f": {', '.join(map(str, plans))}"
        return f"<gradc.{self.kind.name} of {name}{counted}>"

    def passes(self, *args: Any, **kwargs: Any) -> Any:
        """Of a Jacobian: how many passes it takes for arguments like these, and how many the other
        mode would.

        For a function whose result is a tree, a tree of such plans. Raises TypeError for other
        transforms.
        """
        if self.kind.passes is None:
            raise TypeError(f"{self!r} is no Jacobian: it takes one pass")
        if kwargs or self._has_options:
            args, kwargs = self._arranged(args, kwargs)
        leaves: list[Any] = []
        structure = flatten((args, kwargs), leaves)
        found = self.program(structure, leaves)
        return rebuild(found.recorded.out, self.kind.passes(found.recorded, found.wanted))

    def __get__(self, owner: object, _kind: type | None = None) -> Transformed:
        """The transform of a method bound to its object, which lives as long as somebody has
        either; what is kept for calls is kept with the object.
        """
        if owner is None:
            return self
        found = self._bound.get(id(owner))
        if found is None or found.owner() is not owner:
            method = types.MethodType(self.__wrapped__, owner)
            try:
                drop = functools.partial(_forget, self._bound, id(owner))
                made = Transformed(WeakMethod(method), self.kind, self.choice, self.options)
                found = self._bound[id(owner)] = _Bound(weakref.ref(owner, drop), made)
            except TypeError:
                return Transformed(method, self.kind, self.choice, self.options)
        return found.held(owner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Most calls bring nothing but arrays, like those of a call before.
        if not kwargs:
            key: list[Any] = []
            for item in args:
                if type(item) is not np.ndarray:
                    break
                key.append(item.shape)
                key.append(item.dtype)
            else:
                found = self._plain.get(tuple(key))
                if found is not None and found.captures.are_current() and current_trace() is None:
                    return found.run([*args])
        elif "out" in kwargs and self.kind.is_loss and "out" not in self._keywords:
            return self._into(args, **kwargs)
        return self.seeded(args, kwargs, None)

    def _into(self, args: tuple[Any, ...], *, out: Any, **kwargs: Any) -> Any:
        """A call whose gradient lies in the arrays of ``out``, a tree of the same structure."""
        if current_trace() is not None:
            raise TypeError("`out` has arrays, so it is for calls outside recorded functions")
        if kwargs or self._has_options:
            args, kwargs = self._arranged(args, kwargs)
        leaves: list[Any] = []
        structure = flatten((args, kwargs), leaves)
        program = self.program(structure, leaves)
        own = len(program.recorded.function.results)
        return program(leaves, room=GradientRoom(out, program.wanted.structure, own))

    def _remember(self, args: tuple[Any, ...], program: Program) -> None:
        """Keeps a program for calls with arrays alone under their shapes and types, which is quick
        to look up.
        """
        if self._has_options or any(type(item) is not np.ndarray for item in args):
            return
        if len(self._plain) >= MOST_FORMS:
            self._plain.clear()
        self._plain[tuple(part for item in args for part in (item.shape, item.dtype))] = program

    def seeded(self, args: tuple[Any, ...], kwargs: dict[str, Any], seeds: Any) -> Any:
        """A call that brings tangents or cotangents, where the transform takes them."""
        if kwargs or self._has_options:
            args, kwargs = self._arranged(args, kwargs)
        leaves: list[Any] = []
        structure = flatten((args, kwargs), leaves)
        outer = current_trace()
        if outer is not None:
            return self._inlined(outer, structure, leaves, seeds)
        program = self.program(structure, leaves)
        if self.kind.seeds is None:
            if not kwargs:
                self._remember(args, program)
            return program(leaves)
        return program(leaves, seed_arrays(program.recorded, program.wanted, self.kind, seeds))

    # --- arguments

    @functools.cached_property
    def _signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self.__wrapped__)
        except (TypeError, ValueError):
            return None

    @functools.cached_property
    def _keywords(self) -> frozenset[str]:
        """Names that the function itself takes; ``out`` among them where it may take any."""
        given = () if self._signature is None else self._signature.parameters.values()
        takes_any = not given or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in given)
        return frozenset((*(p.name for p in given), *(("out",) if takes_any else ())))

    def _positional(self) -> list[str]:
        """Names of the arguments that may come by position."""
        signature = self._signature
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if signature is None:
            return []
        return [p.name for p in signature.parameters.values() if p.kind in kinds]

    def _arranged(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments by name in their places where nothing before them is missing; options marked as
        such.
        """
        moved, rest = list(args), dict(kwargs)
        names = self._positional()
        for name in names[len(args) :]:
            if name not in rest:
                break
            moved.append(rest.pop(name))
        chosen = self.choice
        marked = {n % len(moved) for n in chosen.static_argnums if -len(moved) <= n < len(moved)}
        marked |= {
            n for n, name in enumerate(names[: len(moved)]) if name in chosen.static_argnames
        }
        marked -= {n for n in marked if type(moved[n]) is Static}
        moved = [Static(a) if n in marked else a for n, a in enumerate(moved)]
        rest = {
            name: Static(rest[name]) if name in chosen.static_argnames else rest[name]
            for name in sorted(rest)
        }
        return tuple(moved), rest

    def wanted(self, structure: Structure) -> Wanted:
        """The parameters to differentiate in. Raises DiagnosticError GC0566 for arguments that are
        not there.
        """
        (_, _, args), (_, names, kwargs) = structure[2]
        if self.choice.argnums is None and self.choice.argnames is None:
            numbers: list[int] = list(range(len(args)))
        else:
            numbers = self._numbers(len(args))
        starts = [0]
        for part in (*args, *kwargs):
            starts.append(starts[-1] + leaf_count(part))
        by_name = self._named(names, len(args))
        places = [*numbers, *by_name]
        if len(set(places)) != len(places):
            raise refusal("GC0566", f"argnums {self.choice.argnums} name an argument twice")
        parts = [(*args, *kwargs)[n] for n in places]
        if any(type(part) is Static and type(part.value) is bool for part in parts):
            raise refusal("GC0562", "a truth has no derivative", "give a number: float(flag)")
        leaves = tuple(i for n in places for i in range(starts[n], starts[n + 1]))
        is_single = len(places) == 1 and not isinstance(
            self.choice.argnames if by_name else self.choice.argnums, tuple
        )
        single = is_single and not (self.choice.argnums is None and self.choice.argnames is None)
        return Wanted(leaves, parts[0] if single else (tuple, None, tuple(parts)))

    def _numbers(self, count: int) -> list[int]:
        given = self.choice.argnums
        numbers = given if isinstance(given, tuple) else () if given is None else (given,)
        found = []
        for number in numbers:
            if not -count <= number < count:
                message = f"argnums {number} is not one of the {count} arguments"
                raise refusal("GC0566", message)
            found.append(number % count)
        return found

    def _named(self, keywords: Sequence[str], count: int) -> list[int]:
        """Places of ``argnames`` among positional and then keyword arguments."""
        given = self.choice.argnames
        names = given if isinstance(given, tuple) else () if given is None else (given,)
        known = [*self._positional()[:count], *[""] * count][:count] + list(keywords)
        for name in names:
            if name not in known:
                shown = ", ".join(f"`{n}`" for n in known if n)
                message = f"argnames `{name}` is not one of the arguments given: {shown}"
                raise refusal("GC0566", message)
        return [known.index(name) for name in names]

    def names(self, structure: Structure) -> list[str]:
        """What messages call each leaf."""
        (_, _, args), (_, keywords, kwargs) = structure[2]
        known = self._positional()
        found: list[str] = []
        for number, part in enumerate(args):
            found += paths(part, known[number] if number < len(known) else f"args[{number}]")
        for name, part in zip(keywords, kwargs, strict=True):
            found += paths(part, name)
        return found

    # --- compiled calls

    def program(self, structure: Structure, leaves: list[Any]) -> Program:
        """The compiled form for arguments like these; leaves that are no arrays or numbers become
        arrays.
        """
        kinds: list[Any] = []
        for number, leaf in enumerate(leaves):
            kind = type(leaf)
            if kind is np.ndarray:
                kinds.append((leaf.shape, leaf.dtype))
            elif kind is float or kind is int:
                kinds.append(kind)
            else:
                array = array_of(self.names(structure)[number], leaf)
                leaves[number] = array
                kinds.append((array.shape, array.dtype, _scalar_class(leaf)))
        key = (structure, tuple(kinds))
        found = self._programs.get(key)
        if found is not None:
            for program in found:
                if program.captures.are_current():
                    return program
        with self._lock:
            return self._found_or_made(key, leaves)

    def _found_or_made(self, key: tuple[Any, ...], leaves: list[Any]) -> Program:
        states: list[Program] = self._programs.setdefault(key, [])
        self._programs.move_to_end(key)
        while len(self._programs) > MOST_FORMS:
            self._programs.popitem(last=False)
        changed = None
        for program in states:
            changed = program.captures.changed()
            if changed is None:
                return program
        if len(states) == MOST_STATES - 1:
            message = (
                f"{self!r}: {changed} keeps changing, and each value is recorded again; "
                "pass it as an argument"
            )
            warnings.warn(TraceWarning(message), stacklevel=5)
        made = self._made(key, leaves)
        states.insert(0, made)
        del states[MOST_STATES:]
        return made

    def _made(self, key: tuple[Any, ...], leaves: list[Any]) -> Program:
        structure, kinds = key
        wanted = self.wanted(structure)
        names = self.names(structure)
        arguments = [
            _argument(name, leaf, kind, number in wanted.numbers)
            for number, (name, leaf, kind) in enumerate(zip(names, leaves, kinds, strict=True))
        ]
        statics = _statics(structure)
        before = Captures(self.__wrapped__, statics)
        random = RandomState(before.generators())
        recorded = self._recorded(structure, arguments)
        self._check(recorded, wanted)
        captures = Captures(self.__wrapped__, statics)
        captures.leave_out_written(before)
        self._warn(random, captures, captures.watch(recorded.captured.values()))
        printed = (fingerprint(recorded.function, PLACES), wanted.numbers, kinds, recorded.types)
        entry = self._compiled.get(printed)
        if entry is None:
            derive = functools.partial(_derived, self.kind, recorded, wanted)
            entry = Entry(compile_function(recorded.function, derive, self.options))
            self._compiled[printed] = entry
            while len(self._compiled) > MOST_FORMS:
                self._compiled.popitem(last=False)
        return Program(entry, recorded, wanted, self.kind, captures)

    def _warn(self, random: RandomState, captures: Captures, large: Sequence[str]) -> None:
        if random.has_moved():
            places = ", ".join(captures.draws()) or "the function"
            message = (
                f"{self!r} drew random numbers while it was recorded, and every call will use "
                f"them again: {places}; draw outside and pass them as an argument"
            )
            warnings.warn(TraceWarning(message), stacklevel=6)
        for said in captures.frozen(large):
            warnings.warn(TraceWarning(f"{self!r}: {said}"), stacklevel=6)

    def _recorded(self, structure: Structure, arguments: Sequence[Argument]) -> Recorded:
        found = record(
            self.__wrapped__,
            structure,
            arguments,
            has_aux=self.choice.has_aux,
            is_loss=self.kind.is_loss,
        )
        return replace(found, function=with_loops(found.function))

    # --- inside another recording

    def _inlined(self, outer: Trace, structure: Structure, leaves: list[Any], seeds: Any) -> Any:
        """The derived program becomes part of the outer one."""
        wanted = self.wanted(structure)
        names = self.names(structure)
        values = [
            _lifted(outer, name, leaf, number in wanted.numbers)
            for number, (name, leaf) in enumerate(zip(names, leaves, strict=True))
        ]
        arguments = [
            Argument(name, value.type, _kind_of(leaf))
            for name, value, leaf in zip(names, values, leaves, strict=True)
        ]
        recorded = self._recorded(structure, arguments)
        self._check(recorded, wanted)
        derived = adapted(self.kind, recorded, wanted)
        operands = [*values, *(outer.lift(item) for item in recorded.captured.values())]
        if self.kind.seeds is not None:
            operands += seed_values(outer, recorded, wanted, self.kind, seeds)
        results = inline_function(outer.builder, derived, [outer.stored(v) for v in operands])
        is_complex = complex_results(self.kind, recorded, wanted)
        seen = [
            pair_of_parts(outer.builder, v) if c else v
            for v, c in zip(results, is_complex, strict=True)
        ]
        return self.kind.finish(recorded, wanted, [outer.wrap(v) for v in seen])

    def _check(self, recorded: Recorded, wanted: Wanted) -> None:
        check_complex(self.kind, recorded, wanted, self.choice.holomorphic)


class _Bound:
    """The transform of one object's method, which does not keep the object alive, and the last that
    was handed out, which does.
    """

    def __init__(self, owner: weakref.ref[Any], made: Transformed) -> None:
        self.owner, self._made = owner, made
        self._last: Callable[[], Transformed | None] = lambda: None

    def held(self, owner: object) -> Transformed:
        """The transform with its object: whoever has a method has the object too."""
        found = self._last()
        if found is None:
            found = object.__new__(Transformed)
            vars(found).update(vars(self._made), _owner=owner)
            self._last = weakref.ref(found)
        return found


def _forget(bound: dict[int, Any], key: int, _gone: object) -> None:
    bound.pop(key, None)


def _derived(kind: Transform, recorded: Recorded, wanted: Wanted, _function: Any) -> Any:
    return adapted(kind, recorded, wanted)


def _scalar_class(leaf: Any) -> Any:
    """The class of a scalar of NumPy's or a complex number; False for arrays."""
    return type(leaf) if isinstance(leaf, (np.generic, complex)) else False


def _statics(structure: Structure) -> list[object]:
    """Options that may read something themselves: functions, objects."""
    if type(structure) is Static:
        return [structure.value]
    if isinstance(structure, tuple):
        return [item for part in structure[2] for item in _statics(part)]
    return []


def _argument(name: str, leaf: Any, kind: Any, is_differentiated: bool) -> Argument:
    """What a leaf is for the recorded function; differentiated Python integers are floats."""
    if kind is int or kind is float:
        array = as_array(name, leaf)
        if is_differentiated or kind is float:
            array = array.astype(np.float64)
        return Argument.of(name, array, float if is_differentiated else kind)
    leaf = array_of(name, leaf)
    if is_differentiated and leaf.dtype.kind in "iub":
        message = f"`{name}` holds integers, which have no derivative"
        raise refusal("GC0562", message, f"convert it: {name}.astype(float)")
    return Argument.of(name, leaf, (len(kind) == 3 and kind[2]) or np.ndarray)


def _kind_of(leaf: Any) -> type:
    if isinstance(leaf, Traced):
        return leaf.kind
    return type(leaf) if isinstance(leaf, (int, float, complex, np.generic)) else np.ndarray


def _lifted(outer: Trace, name: str, leaf: Any, is_differentiated: bool) -> Value:
    """A leaf as a value of the outer recording, refused where it has no derivative."""
    if is_differentiated and type(leaf) is int:
        leaf = float(leaf)
    value = outer.lift(leaf)
    if is_differentiated and not value.type.dtype.is_float:
        raise refusal("GC0562", f"`{name}` holds integers, which have no derivative")
    return value


def argument_numbers(given: Any, what: str = "argnums") -> int | tuple[int, ...]:
    """``argnums`` as users write them: any integer, or a sequence of integers. Raises TypeError."""
    try:
        if isinstance(given, bool):
            raise TypeError
        if isinstance(given, (tuple, list, range)):
            return tuple(operator.index(n) for n in given)
        return operator.index(given)
    except TypeError:
        message = f"`{what}` must be a whole number, or a tuple of them, not {given!r}"
        raise TypeError(message) from None
