"""SciPy's functions that are written in Python, answered by rules of our own while a function is
recorded.

NumPy asks ``Traced`` what its functions mean; SciPy's own Python functions ask nobody. So while
anybody records, the code of each that has a rule is exchanged for a call of a ``Hook``: the
function object stays what it is, so it makes no difference how the user's code came by it (``from
scipy.special import logsumexp``, ``stats.norm.logpdf`` bound before). A hook answers calls of the
thread that is recording, if something traced is among the arguments; everything else, other threads
too, runs SciPy's own code. When the last recording ends, each function has its own code back.

An argument that a rule does not name must have its default, or it is refused by name. Rules stand
in modules of their own, which are loaded when SciPy's module is there at a recording: gradc never
imports SciPy.

Non-goals: ufuncs of scipy.special, which NumPy's protocol covers (``ufuncs``); what is in C.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from gradc.runtime.tracing.creation import holds_traced
from gradc.runtime.tracing.pairs import holds_complex
from gradc.runtime.tracing.trace import RECORDING, UFUNCS, Trace, Traced, current_trace, refuse

Rule = Callable[..., Any]

#: The modules of rules, by the module of SciPy's whose functions they answer.
MODULES = {
    f"scipy.{name}": f"gradc.runtime.tracing.scipy_{name}"
    for name in ("special", "linalg", "stats", "signal", "integrate", "spatial")
}
#: The rules by name, ``scipy.special.logsumexp``, ``scipy.stats.rv_continuous.logpdf``.
RULES: dict[str, Rule] = {}

# What changes nothing of the mathematics.
_IGNORED = frozenset(
    [
        *("check_finite", "overwrite_a", "overwrite_b", "overwrite_ab", "overwrite_cb"),
        *("lapack_driver", "workers"),
    ]
)
_MARK = "the hook"


def scipy(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule under names of SciPy's without their first part: ``special.logsumexp``.

    A rule takes the trace and, by name, the parameters of SciPy's function that it knows.
    """

    def add(rule: Rule) -> Rule:
        RULES.update({f"scipy.{name}": rule for name in names})
        return rule

    return add


def with_functions(rule: Rule) -> Rule:
    """Marks a rule that is asked whatever its arguments are, since a function among them may read
    something traced; it returns NotImplemented where SciPy is to answer. It may take ``plain``.
    """
    rule.takes_functions = True  # type: ignore[attr-defined]
    return rule


def refusing(rule: Rule) -> Rule:
    """Marks a rule that only says what to write instead."""
    rule.refuses = True  # type: ignore[attr-defined]
    return rule


class Words:
    """Ufuncs of NumPy's and SciPy's by name, on traced values and numbers."""

    def __init__(self, t: Trace) -> None:
        self._t = t

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *operands: self._t.wrap(UFUNCS[name](self._t, *operands))


def held(x: Any) -> Any:
    """``x`` without its derivative: for what a result does not depend on."""
    trace = current_trace()
    if trace is None or type(x) is not Traced:
        return x
    return trace.wrap(trace.emit("stop_gradient", trace.lift(x)), x.kind)


class Hook:
    """What a function's code calls while somebody records."""

    def __init__(self, name: str, function: types.FunctionType, rule: Rule) -> None:
        self.name, self.function, self.rule = name, function, rule
        self.code = function.__code__
        self.plain = types.FunctionType(
            self.code,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        self.plain.__kwdefaults__ = function.__kwdefaults__
        vars(self.plain).update(vars(function))  # `__wrapped__`, whose signature is meant
        # A parameter called like the trace, ``t``, is written ``t_``.
        self._known = [p.removesuffix("_") for p in list(inspect.signature(rule).parameters)[1:]]
        self._signature: inspect.Signature | None = None
        consts = tuple(self if item == _MARK else item for item in _CODE.co_consts)
        free = self.code.co_freevars  # a function's code has as many as the function has cells
        self._calls = _CODE.replace(co_consts=consts, co_freevars=free, co_name=self.code.co_name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        trace = current_trace()
        asks_always = hasattr(self.rule, "takes_functions")
        if trace is None or not (asks_always or holds_traced([*args, *kwargs.values()])):
            return self.plain(*args, **kwargs)
        given = self._bound(args, kwargs)
        if holds_complex((args, *kwargs.values())):
            raise refuse("GC0560", f"{self.name} of complex arrays cannot be traced")
        found = self.rule(trace, **given)
        return self.plain(*args, **kwargs) if found is NotImplemented else found

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by the names that the rule knows.

        Raises:
            TypeError: as SciPy's function does.
            DiagnosticError: GC0560 for an argument that the rule does not know.
        """
        if self._signature is None:
            self._signature = inspect.signature(self.plain)
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as problem:
            raise TypeError(f"{self.name}: {problem}") from None
        for name, item in bound.arguments.items():
            default = self._signature.parameters[name].default
            is_left = item is default or (type(item) is type(default) and item == default)
            is_known = name in ("self", *self._known) or name in _IGNORED
            if not (is_known or is_left):
                message = f"{self.name} with {name}= cannot be traced"
                raise refuse("GC0560", message, f"leave {name}= out")
        bound.apply_defaults()
        found = {name: bound.arguments[name] for name in self._known if name in bound.arguments}
        return {"t_" if name == "t" else name: item for name, item in found.items()}

    def enter(self) -> None:
        """The function's code becomes a call of this."""
        self.function.__code__ = self._calls

    def leave(self) -> None:
        """The function has its own code back."""
        self.function.__code__ = self.code


def _template(*args: Any, **kwargs: Any) -> Any:
    hook: Any = "the hook"
    return hook(*args, **kwargs)


_CODE = _template.__code__


def function_at(path: str) -> types.FunctionType | None:
    """The Python function behind a name of the rules; None where this SciPy has none."""
    parts = path.split(".")
    found: Any = sys.modules[".".join(parts[:2])]
    for name in parts[2:]:
        is_bound = not isinstance(found, (types.ModuleType, type))
        found = getattr(type(found) if is_bound else found, name, None)
    return found if isinstance(found, types.FunctionType) else None


def present() -> frozenset[str]:
    """Those of SciPy's modules that have rules and are loaded."""
    return frozenset(name for name in MODULES if name in sys.modules)


class _Switch:
    """Puts the hooks in place while anybody records."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._hooks: dict[str, Hook] = {}
        self._entered: dict[str, Hook] = {}
        self._looked_at: frozenset[str] = frozenset()

    def enter(self) -> None:
        """A recording begins."""
        with self._lock:
            self._count += 1
            if present() != self._looked_at:
                self._put()

    def _put(self) -> None:
        self._looked_at = present()
        for module in self._looked_at:
            importlib.import_module(MODULES[module])
        for name, rule in RULES.items():
            is_there = ".".join(name.split(".")[:2]) in self._looked_at
            if name in self._entered or not is_there:
                continue
            if name not in self._hooks:
                function = function_at(name)
                if function is None:
                    continue
                self._hooks[name] = Hook(name, function, rule)
            self._hooks[name].enter()
            self._entered[name] = self._hooks[name]

    def leave(self) -> None:
        """A recording ends."""
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._looked_at = frozenset()
                while self._entered:
                    self._entered.popitem()[1].leave()


_switch = _Switch()
RECORDING.append((_switch.enter, _switch.leave))
