"""What a recorded function read from around itself, and whether that is still so.

A function is recorded once; what it reads besides its arguments is part of the record. ``Captures``
finds what its code can read by name: closure cells, globals, attributes of ``self`` and of the
user's other objects, elements of lists and dictionaries among these, through every function of the
user's that it can call. ``changed`` names the first thing that is no longer what it was, and the
caller records anew. Arrays that meet a traced value are operands, read at each call.

What cannot be seen: names made at run time (``getattr(x, name)``), files, clocks, C extensions,
what an iterator has left, and changes in place of large arrays from which NumPy alone computed
something; the last two, and draws of random numbers, are warned about.

Invariants: everything compared is kept alive, so identity means the same object; values are
compared after the recording, so what the function itself changes while it is recorded (a counter, a
log) does not count.
"""

from __future__ import annotations

import collections
import contextvars
import dis
import functools
import os
import random
import sys
import types
from array import array as Numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

# Arrays up to so many bytes are compared by their contents where only NumPy itself read them.
SMALL = 1024
# Elements of containers looked at, all together.
MOST = 20_000
_LIBRARIES = {*sys.stdlib_module_names, "numpy", "scipy", "gradc", "jax", "torch", "autograd"}
_LIBRARIES -= {"__main__"}
_MAPPINGS = (dict, collections.UserDict, collections.ChainMap, types.MappingProxyType)
_CONTAINERS = (
    *(list, tuple, set, frozenset, bytearray, collections.deque, collections.UserList, Numbers),
)
_CACHED = type(functools.cache(len))
_ENVIRONMENT = {"environ", "getenv", "environb"}
_BY_TEXT = {"getattr", "attrgetter", "globals", "vars"}
# What of a class runs when an object is made or shown.
_MAKING = {"__init__", "__new__", "__post_init__", "__repr__", "__str__", "__del__", "__reduce__"}
_ATOMS = (int, float, complex, str, bytes, type(None), np.generic)
_MISSING = object()


class TraceWarning(UserWarning):
    """Something was frozen when a function was recorded that may have been meant to change."""


def is_library(name: object) -> bool:
    """Whether a module belongs to Python or to an installed library, whose code is not the
    user's.
    """
    return _is_installed(str(name).partition(".")[0])


@functools.cache
def _is_installed(root: str) -> bool:
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return root in _LIBRARIES or "site-packages" in file or "dist-packages" in file


class Captures:
    """The things that ``function`` reads by name, with their values now."""

    def __init__(self, function: object, more: Iterable[object] = ()) -> None:
        walk = _Walk()
        walk.visit(function)
        for item in more:
            walk.visit(item)
        walk.attributes()
        self._walk = walk
        self._cells = [(cell, _content(cell)) for cell in walk.cells.values()]
        self._items = [(d, k, d.get(k, _MISSING)) for d, k in walk.items.values()]
        self._lists = [(s, tuple(s)) for s in walk.lists.values()]
        self._dicts = [(d, tuple(d), tuple(d.values())) for d in walk.dicts.values()]
        self._arrays: list[tuple[np.ndarray[Any, Any], bytes]] = []

    def leave_out_written(self, before: Captures) -> None:
        """No longer compares what differs from ``before``: what the function itself wrote while it
        was recorded.
        """
        cells = {id(cell): value for cell, value in before._cells}
        self._cells = [(c, v) for c, v in self._cells if same(cells.get(id(c), v), v)]
        items = {(id(mapping), key): value for mapping, key, value in before._items}
        self._items = [(d, k, v) for d, k, v in self._items if same(items.get((id(d), k), v), v)]
        lists = {id(items): elements for items, elements in before._lists}
        self._lists = [(s, v) for s, v in self._lists if same(lists.get(id(s), v), v)]
        dicts = {id(d): (keys, values) for d, keys, values in before._dicts}
        self._dicts = [
            (d, k, v) for d, k, v in self._dicts if same(dicts.get(id(d), (k, v)), (k, v))
        ]

    @property
    def arrays(self) -> list[np.ndarray[Any, Any]]:
        """The arrays among them."""
        return list(self._walk.arrays.values())

    def watch(self, operands: Iterable[object]) -> list[str]:
        """Compares small arrays by contents, but for ``operands``, which each call reads; the names
        of the large ones.
        """
        known = {id(item) for item in operands}
        large = []
        for array in self.arrays:
            if id(array) in known:
                continue
            if array.nbytes <= SMALL:
                self._arrays.append((array, array.tobytes()))
            else:
                large.append(self._walk.named(array))
        return large

    def are_current(self) -> bool:
        """Whether everything is the very object that was read."""
        try:
            for cell, value in self._cells:
                if cell.cell_contents is not value:
                    return False
        except ValueError:
            return False
        for mapping, key, value in self._items:
            if mapping.get(key, _MISSING) is not value:
                return False
        for items, elements in self._lists:
            if len(items) != len(elements):
                return False
            for a, b in zip(items, elements, strict=True):
                if a is not b:
                    return False
        return self._contents_are_current()

    def _contents_are_current(self) -> bool:
        for mapping, keys, values in self._dicts:
            if len(mapping) != len(keys) or any(
                k not in mapping or mapping[k] is not v for k, v in zip(keys, values, strict=True)
            ):
                return False
        return all(array.tobytes() == data for array, data in self._arrays)

    def changed(self) -> str | None:
        """What is no longer equal to what was read, in words; None if all is."""
        for cell, value in self._cells:
            if not same(_content(cell), value):
                return self._walk.labels[id(cell)]
        for mapping, key, value in self._items:
            if not same(mapping.get(key, _MISSING), value):
                return self._walk.labels[id(mapping), key]
        for items, elements in self._lists:
            if not same(tuple(items), elements):
                return self._walk.labels[id(items)]
        for mapping, keys, values in self._dicts:
            if tuple(mapping) != keys or not same(tuple(mapping.values()), values):
                return self._walk.labels[id(mapping)]
        for array, data in self._arrays:
            if array.tobytes() != data:
                return self._walk.named(array)
        return None

    def draws(self) -> list[str]:
        """The names by which the code reaches random numbers."""
        return self._walk.random_names()

    def frozen(self, large: Iterable[str]) -> list[str]:
        """What later changes will not be seen of, in words: iterators, and the arrays named."""
        moved = [
            f"{name} is an iterator, of which the function takes while it is recorded alone: "
            "pass its items as arguments"
            for name in self._walk.iterators
        ]
        return moved + [
            f"NumPy alone read {name} while the function was recorded; later changes in place "
            "will not be seen: pass it as an argument"
            for name in large
        ]

    def generators(self) -> list[np.random.Generator]:
        """Generators that the function may draw from."""
        return list(self._walk.generators.values())


def same(a: object, b: object) -> bool:
    """Whether two things are one object, or equal immutable values of one type."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex()
    return isinstance(a, _ATOMS) and bool(a == b)


def _is_data(value: object) -> bool:
    """Whether an attribute of a class is a value, and not a function or a descriptor."""
    return not callable(value) and not hasattr(type(value), "__get__")


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def code_of(function: object) -> types.CodeType | None:
    """The code of a Python function or method; None for anything else."""
    found = getattr(function, "__code__", None)
    return found if isinstance(found, types.CodeType) else None


class _Slots(dict[str, Any]):
    """The attributes of an object that has slots for them, read as they are now."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def __getitem__(self, name: str) -> Any:
        return getattr(self._owner, name)

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute, or ``default`` where the slot is empty."""
        return getattr(self._owner, name, default)


class _Current(_Slots):
    """What a variable of the context holds, as its one item."""

    def __getitem__(self, name: str) -> Any:
        return self._owner.get(_MISSING)

    def get(self, name: str, default: Any = None) -> Any:
        """What it holds now."""
        return self._owner.get(_MISSING)


class _Walk:
    """Everything that the code of a function can reach by name."""

    def __init__(self) -> None:
        self.cells: dict[int, types.CellType] = {}
        self.items: dict[tuple[int, str], tuple[Mapping[str, Any], str]] = {}
        self.lists: dict[int, Any] = {}
        self.dicts: dict[int, Any] = {}
        self.arrays: dict[int, np.ndarray[Any, Any]] = {}
        self.generators: dict[int, np.random.Generator] = {}
        self.iterators: list[str] = []
        self.labels: dict[Any, str] = {}
        self.codes: list[types.CodeType] = []
        self._names: set[str] = set()
        self._owners: list[tuple[object, str]] = []
        self._done: set[int] = set()
        self._kept: list[object] = []
        self._count = 0
        self._slots: dict[int, _Slots] = {}

    def visit(self, value: object, label: str = "") -> None:
        """Looks at one value that the function can reach."""
        if isinstance(value, (*_ATOMS, bool)) or id(value) in self._done or self._count > MOST:
            return
        kind = type(value)
        if kind.__module__.startswith("gradc.") and not hasattr(kind, "__gradc_wrapped__"):
            return  # our own, traced values among them
        self._done.add(id(value))
        self._kept.append(value)
        self._count += 1
        if isinstance(value, np.ndarray):
            self.arrays[id(value)] = value
            self.labels[id(value)] = label
        elif kind in (list, tuple, set, frozenset, dict):
            self._container(value, label)
        elif isinstance(value, (*_CONTAINERS, *_MAPPINGS)):
            self._container(value, label)  # a `deque`, a `defaultdict`, a class of the user's
            self._object(value, label)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self.visit(value.__func__, label)
            self.visit(value.__self__, label)
        elif isinstance(value, functools.partial):
            for item in (value.func, value.args, value.keywords):
                self.visit(item, label)
        elif isinstance(value, np.random.Generator):
            self.generators[id(value)] = value
            self.labels[id(value)] = label
        elif isinstance(value, contextvars.ContextVar):
            self._item(self._slots.setdefault(id(value), _Current(value)), value.name, label)
        elif isinstance(value, Iterator):
            self.iterators.append(label)
        elif hasattr(kind, "__gradc_wrapped__"):
            for item in (getattr(value, "__wrapped__", None), *getattr(value, "reads", ())):
                self.visit(item, label)
        elif isinstance(value, _CACHED):
            self.visit(value.__wrapped__, label)
        else:
            self._object(value, label)

    def _container(self, value: Any, label: str) -> None:
        self.labels[id(value)] = label
        if isinstance(value, _MAPPINGS):
            self.dicts[id(value)] = value
            for key, item in list(value.items()):
                self.visit(item, f"{label}[{key!r}]")
            return
        if not isinstance(value, (tuple, frozenset)):
            self.lists[id(value)] = value
        for number, item in enumerate(list(value)):
            self.visit(item, f"{label}[{number}]")

    def _function(self, function: types.FunctionType) -> None:
        names = function.__globals__
        if is_library(names.get("__name__")):
            return
        code = function.__code__
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if id(cell) not in self.cells:
                self.cells[id(cell)] = cell
                self.labels[id(cell)] = self._place(name, code)
                self.visit(_content(cell), self._place(name, code))
        for item in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self.visit(item, f"a default of `{function.__name__}`")
        for inner in _codes(code):
            self.codes.append(inner)
            self._names.update(inner.co_names)
            written: list[str] = []
            if _BY_TEXT & set(inner.co_names):  # getattr(options, "rate"), globals()["RATE"]
                written = [c for c in inner.co_consts if type(c) is str and c.isidentifier()]
                self._names.update(written)
            for name in (*inner.co_names, *written):
                if name in names:
                    self._item(names, name, self._place(name, inner))
                elif name.partition(".")[0] in sys.modules:  # imported inside the function
                    self.visit(sys.modules.get(name), self._place(name, inner))
            if _ENVIRONMENT & set(inner.co_names):
                self.dicts[id(os.environ)] = os.environ
                self.labels[id(os.environ)] = "the environment (`os.environ`)"

    def _item(self, mapping: dict[str, Any], name: str, label: str) -> None:
        key = (id(mapping), name)
        value = mapping[name]
        if key in self.items or (isinstance(value, types.ModuleType) and is_library(name)):
            return
        if isinstance(value, types.ModuleType) and is_library(value.__name__):
            return
        self.items[key] = (mapping, name)
        self.labels[key] = label
        self.visit(value, label)

    def _object(self, value: object, label: str) -> None:
        """An object of a class of the user's: the attributes that the code names."""
        if isinstance(value, types.ModuleType):
            if not is_library(value.__name__):
                self._owners.append((value, label))
            return
        kind = value if isinstance(value, type) else type(value)
        if is_library(kind.__module__) or kind.__module__ == "builtins":
            # A library's code is none of ours, but what its objects hold is the user's: the
            # options of an `argparse.Namespace`, the coefficients of an estimator.
            if kind is not value and isinstance(getattr(value, "__dict__", None), dict):
                self._owners.append((value, label))
            return
        self._owners.append((value, label))
        if not isinstance(value, type):
            # Calls, indices, operators: nothing in the code names them.
            for base in kind.__mro__:
                if not is_library(base.__module__):
                    for name, item in list(vars(base).items()):
                        if name.startswith("__") and name not in _MAKING:
                            self.visit(item if isinstance(item, types.FunctionType) else None)

    def attributes(self) -> None:
        """Attributes of the objects found, by the names found, until nothing is new."""
        seen: set[tuple[int, str]] = set()
        is_new = True
        while is_new and self._count <= MOST:
            is_new = False
            for owner, label in list(self._owners):
                for name in sorted(self._names):
                    if (id(owner), name) not in seen:
                        seen.add((id(owner), name))
                        is_new = self._attribute(owner, name, label) or is_new

    def _attribute(self, owner: object, name: str, label: str) -> bool:
        before = self._count, len(self._owners), len(self._names)
        own = getattr(owner, "__dict__", {})
        if isinstance(owner, type):
            found = [vars(kind) for kind in owner.__mro__ if name in vars(kind)]
            if found:
                if _is_data(found[0][name]):
                    self._rebound((vars(owner), found[0]), name, self._of(name, owner, label))
                self.visit(found[0][name], self._of(name, owner, label))
        elif isinstance(own, dict) and name in own:
            self._item(own, name, self._of(name, owner, label))
        elif isinstance(getattr(type(owner), name, None), types.MemberDescriptorType):
            if hasattr(owner, name):
                slots = self._slots.setdefault(id(owner), _Slots(owner))
                self._item(slots, name, self._of(name, owner, label))
        else:
            self._of_class(type(owner), name, label, own)
        return before != (self._count, len(self._owners), len(self._names))

    def _of_class(self, kind: type, name: str, place: str, own: Any) -> None:
        for base in kind.__mro__:
            if name in vars(base) and not is_library(base.__module__):
                found = vars(base)[name]
                if isinstance(found, property):
                    found = found.fget
                elif isinstance(found, (staticmethod, classmethod)):
                    found = found.__func__
                elif _is_data(found):
                    # Of the class: rebound there, or hidden by one of the object's own.
                    self._rebound((own, vars(base)), name, self._of(name, kind, place))
                self.visit(found, place)
                return

    def _rebound(self, mappings: Iterable[Any], name: str, label: str) -> None:
        for whose in mappings:
            self.items[id(whose), name] = (whose, name)
            self.labels[id(whose), name] = label
            self._kept.append(whose)

    def named(self, value: object) -> str:
        """The name of something found, with the line that reads it."""
        return self.labels.get(id(value), "") or "an array"

    def _of(self, name: str, owner: object, label: str) -> str:
        return f"`{name}` of {label or type(owner).__name__}{self._line(name)}"

    def _line(self, name: str) -> str:
        found = next((code for code in self.codes if name in code.co_names), None)
        return "" if found is None else f" ({found.co_filename}:{line_of(name, found)})"

    def _place(self, name: str, code: types.CodeType) -> str:
        line = line_of(name, code)
        return f"`{name}` ({code.co_filename}:{line})"

    def random_names(self) -> list[str]:
        """Where the code mentions random numbers."""
        found = []
        for code in self.codes:
            for name in ("random", "default_rng", "rand", "randn", "normal", "uniform", "choice"):
                if name in code.co_names:
                    found.append(self._place(name, code))
                    break
        return found or [self.labels[key] for key in self.generators]


def line_of(name: str, code: types.CodeType) -> int:
    """The first line of ``code`` that reads ``name``."""
    for step in dis.get_instructions(code):
        if step.argval == name and step.positions is not None and step.positions.lineno:
            return step.positions.lineno
    return code.co_firstlineno


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """``code`` and the functions written inside it."""
    yield code
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield from _codes(item)


class RandomState:
    """The state of the generators that a function may draw from, to see whether it did."""

    def __init__(self, generators: Iterable[np.random.Generator]) -> None:
        self._generators = list(generators)
        self._before = self._now()

    def _now(self) -> list[object]:
        found: list[object] = [random.getstate()]
        if "numpy.random" in sys.modules:
            kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
            found.append((kind, keys.tobytes(), place, has_gauss, gauss))  # type: ignore[union-attr]
        found += [repr(g.bit_generator.state) for g in self._generators]
        return found

    def has_moved(self) -> bool:
        """Whether numbers were drawn since."""
        return self._now() != self._before
