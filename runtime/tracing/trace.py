"""Tracing: a function written with NumPy becomes a Function of the tensor IR.

The function is run once on ``Traced`` arrays, which record what is done to them. NumPy's own
functions reach us through ``__array_ufunc__`` and ``__array_function__``; what is not supported,
and any attempt to branch on or convert a traced value, is a diagnostic that names the function and
what to use instead. Arrays that the function closes over become parameters of their own, so nothing
large is baked into code.

Types follow the caller's arrays by NumPy's rules: float64 stays f64, Python numbers adapt to the
array beside them.

Non-goals: Python control flow on values (use ``numpy.where``), mutation of traced arrays.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Self, cast

import numpy as np

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import TypeRuleError
from gradc.ir.tensor.core import Attr, DType, Span, TensorType, Value
from gradc.ir.tensor.dims import Dim
from gradc.runtime.native.arrays import Array
from gradc.runtime.tracing.methods import ArrayMethods
from gradc.runtime.tracing.names import key_of
from gradc.runtime.tracing.pairs import (
    COMPLEX_TYPES,
    Pair,
    array_of,
    holds_complex,
    is_pair,
    parts_together,
    seen,
    stored_type,
)
from gradc.runtime.tracing.refused import instead, named
from gradc.runtime.tracing.views import (
    Part,
    View,
    is_basic_key,
    is_dense,
    memory_of,
    results_of,
    without_out,
)

DTYPES = {
    "float64": DType.F64,
    "float32": DType.F32,
    "float16": DType.F16,
    "int64": DType.I64,
    "int32": DType.I32,
    "uint32": DType.U32,
    "bool": DType.BOOL,
    **COMPLEX_TYPES,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

_WHY_TRACED = (
    "the function is recorded once, without numbers; choose with numpy.where(condition, a, b), and "
    "keep Python's `if` for shapes and options"
)
WHY_NO_NUMBER = (
    "the function is recorded once, without numbers: write it with NumPy's functions, not "
    "math's; an array "
    "that traced values are put into is made inside it, e.g. by np.zeros or np.array"
)
_WHY_NO_BRANCH = (
    "the function is recorded once, without numbers; choose with numpy.where(condition, a, b) or "
    "gradc.cond, "
    "loop with gradc.while_loop, gradc.fori_loop or gradc.scan, and keep Python's `if` for "
    "shapes and options"
)
_COPY = "assign to the array itself, or .copy() first"
_LEFT_OVER = "a traced value was used after its function had been recorded"

# A rule takes the trace and the caller's arguments; ufuncs give one value, functions any result.
UfuncRule = Callable[..., Value]
FunctionRule = Callable[..., object]
UFUNCS: dict[str, UfuncRule] = {}
FUNCTIONS: dict[str, FunctionRule] = {}
# What complex arguments are traced by: the name's own rule (None), or one for them.
WITH_COMPLEX: dict[str, FunctionRule | None] = {}
# What Python and NumPy do to arrays besides calling functions: assignment, ``out=``, methods of
# ufuncs.
PROTOCOLS: dict[str, Callable[..., Any]] = {}
# What is to happen when a recording begins and ends.
RECORDING: list[tuple[Callable[[], None], Callable[[], None]]] = []


def dtype_of(name: str, array: Array) -> DType:
    """The element type of an array. Raises DiagnosticError GC0557 for widths that programs do not
    have.
    """
    found = DTYPES.get(array.dtype.name)
    if found is None:
        help = "convert it to one of " + ", ".join(DTYPES)
        raise refuse("GC0557", f"`{name}` has dtype {array.dtype}, which is not supported", help)
    return found


def refuse(code: str, message: str, help: str = "") -> DiagnosticError:
    """A DiagnosticError that names the line of the traced function that is running."""
    span = user_span()
    made = DiagnosticError([error(code, message, None, help=help, notes=(f"at {span}",))])
    trace = current_trace()
    if trace is not None and trace.refused is None:
        trace.refused = made
    return made


def _unsure() -> DiagnosticError:
    message = "a reshaped array was written, and whether NumPy copies it is not known here"
    return refuse("GC0561", message, _COPY)


class OutOfRange(DiagnosticError, IndexError):
    """An index that is not there: NumPy's IndexError, with the user's line. The function may catch
    it.
    """

    def __init__(self, message: str) -> None:
        super().__init__([error("GC0558", message, None, notes=(f"at {user_span()}",))])


def user_span() -> Span:
    """The nearest frame outside gradc, NumPy and SciPy: the user's own code."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if not str(frame.f_globals.get("__name__", "")).startswith(("gradc.", "numpy", "scipy.")):
            break
        frame = frame.f_back
    line = frame.f_lineno
    return Span(frame.f_code.co_filename, line, 1, line, 1)


_recording = threading.local()  # the traces that this thread is recording, the outermost first


def current_trace() -> Trace | None:
    """The trace that operations are recorded into: the innermost one."""
    stack: list[Trace] = getattr(_recording, "stack", [])
    return stack[-1] if stack else None


class Trace:
    """One function being recorded: the Builder, and what the function takes from around it.

    ``with Trace() as trace:`` records; a trace inside another one may use the other's values, which
    it captures.
    """

    def __init__(self) -> None:
        self.builder = Builder()
        self.outer = current_trace()
        self.captured: list[tuple[Value, Array | Traced]] = []
        self._known: dict[Any, Value] = {}
        #: The first refusal: it ends the recording even if the function catches it.
        self.refused: DiagnosticError | None = None

    def __enter__(self) -> Self:
        _recording.stack = [*getattr(_recording, "stack", []), self]
        for begin, _end in RECORDING:
            begin()
        return self

    def __exit__(self, *_: object) -> None:
        _recording.stack = _recording.stack[:-1]
        for _begin, end in RECORDING:
            end()

    def argument(self, name: str, type_: TensorType) -> Value:
        """A parameter of the given type; complex numbers come as [..., 2] real ones."""
        return seen(self.builder, self.builder.parameter(stored_type(type_), name), type_)

    def stored(self, value: Value) -> Value:
        """A value as one of the IR's: a pair as [..., 2]."""
        return parts_together(self.builder, value) if type(value) is Pair else value

    def parameter(self, name: str, array: Array) -> Value:
        """A parameter with the shape and type of ``array``."""
        return self.argument(name, TensorType(array.shape, dtype_of(name, array)))

    def raise_refused(self) -> None:
        """Raises the first refusal, if there was one: a bare `except` of the function cannot
        swallow it.
        """
        if self.refused is not None:
            raise self.refused

    def emit(self, name: str, *operands: Value, **attributes: Attr) -> Value:
        """One op with one result at the user's line; a refused type becomes a diagnostic."""
        if is_pair(attributes.get("dtype")) or any(type(v) is Pair for v in operands):
            made: Value = PROTOCOLS["complex op"](self, name, operands, attributes)
            return made
        try:
            with self.builder.at(user_span()):
                return self.builder.one(name, *operands, hint="", **attributes)
        except TypeRuleError as problem:
            raise refuse("GC0558", str(problem)) from None

    def special(self, name: str, *operands: Value, order: int = 0) -> Value:
        """A row of the table of special functions at the user's line."""
        if any(type(v) is Pair for v in operands):
            made: Value = PROTOCOLS["complex special"](self, name, operands)
            return made
        with self.builder.at(user_span()):
            return self.builder.function_of(name, *operands, order=order)

    def constant(self, value: complex, dtype: DType, shape: tuple[Dim, ...] = ()) -> Value:
        """A splat."""
        return self.emit("constant", value=cast("Any", value), dtype=dtype, shape=shape)

    def capture(self, item: Array | Traced) -> Value:
        """The value of an array that the function closes over. The same one is captured once."""
        key = memory_of(item)
        if key in self._known:
            return self._known[key]
        name = f"captured{len(self.captured)}"
        if isinstance(item, Traced):
            value = self.argument(name, item.value.type)
        else:
            value = self.parameter(name, item)
        self.captured.append((value, item))
        self._known[key] = value
        return value

    def encloses(self, inner: Trace) -> bool:
        """Whether `inner` is recorded while this trace is."""
        while inner.outer is not None:
            inner = inner.outer
            if inner is self:
                return True
        return False

    def lift(self, item: object, like: DType | None = None) -> Value:
        """Anything an operation may meet, as a value: traced, number, or array."""
        if isinstance(item, Traced):
            if item.origin is self:
                return item.value
            if item.origin.encloses(self):
                return self.capture(item)
            raise refuse("GC0559", _LEFT_OVER)
        if isinstance(item, (bool, np.bool_)):
            return self.constant(bool(item), DType.BOOL)
        if isinstance(item, np.number):
            return self.constant(item.item(), dtype_of("a constant", np.asarray(item)))
        if isinstance(item, (int, float, complex)):
            return self._number(item, like)
        if isinstance(item, (list, tuple)):  # of traced values, perhaps
            return self.lift(PROTOCOLS["joined"](self, item))
        return self.capture(array_of("a constant", item))

    def _number(self, number: complex, like: DType | None) -> Value:
        """A Python number takes the type beside it unless that would lose part of it."""
        if isinstance(number, complex):
            fits = like is not None and like in COMPLEX_TYPES.values()
            return self.constant(number, like if fits and like else COMPLEX_TYPES["complex128"])
        is_whole = isinstance(number, int)
        if like is not None and like is not DType.BOOL and (like.is_float or is_whole):
            return self.constant(number, like)
        return self.constant(number, DType.I64 if is_whole else DType.F64)

    def promote(self, items: Sequence[object]) -> list[Value]:
        """Operands of one operation in their common type and shape, by NumPy's rules."""
        values = self.common(items)
        shape = self.broadcast_shape(values)
        return [self.broadcast(v, shape) for v in values]

    def common(self, items: Sequence[object]) -> list[Value]:
        """Operands in their common type: Python numbers take the type beside them, everything else
        counts.
        """
        items = [
            PROTOCOLS["joined"](self, item) if isinstance(item, (list, tuple)) else item
            for item in items
        ]
        kinds = [self._promotes_as(item) for item in items]
        found = np.result_type(*kinds)
        dtype = DTYPES.get(found.name)
        if dtype is None:
            shown = " and ".join(str(k) for k in kinds)
            raise refuse("GC0557", f"{shown} together are {found}, which is not supported")
        return [self.cast(self.lift(item, dtype), dtype) for item in items]

    def _promotes_as(self, item: object) -> Any:
        """What ``numpy.result_type`` is to see: a dtype, or a Python number, which is weak."""
        if isinstance(item, Traced):
            return item.kind(0) if item.kind in _NUMBERS else item.dtype
        if isinstance(item, np.generic) or not isinstance(item, (bool, int, float, complex)):
            return array_of("a constant", item).dtype
        return np.dtype(bool) if isinstance(item, bool) else type(item)(0)

    def broadcast_shape(self, values: Sequence[Value]) -> tuple[int, ...]:
        """The common shape. Raises DiagnosticError GC0558 if there is none."""
        try:
            return np.broadcast_shapes(*(v.type.static_shape for v in values))
        except ValueError:
            shown = " and ".join(str(v.type) for v in values)
            raise refuse("GC0558", f"shapes do not broadcast: {shown}") from None

    def broadcast(self, value: Value, shape: tuple[int, ...]) -> Value:
        """``value`` stretched to ``shape``, trailing axes aligned."""
        if value.type.shape == shape:
            return value
        dims = tuple(range(len(shape) - value.type.rank, len(shape)))
        return self.emit("broadcast", value, shape=shape, dims=dims)

    def cast(self, value: Value, dtype: DType) -> Value:
        """``value`` in another element type."""
        return value if value.type.dtype is dtype else self.emit("cast", value, dtype=dtype)

    def as_float(self, value: Value) -> Value:
        """``value`` as NumPy's mathematical functions see it: integers and booleans become f64."""
        return value if value.type.dtype.is_float else self.cast(value, DType.F64)

    def wrap(self, value: Value, kind: type | None = None) -> Traced:
        """The array that stands for ``value`` in the user's function; ``kind`` is the class it has
        there.
        """
        return Traced(self, value, kind)


def unsupported(name: str, known: dict[str, Any], how: str = "") -> DiagnosticError:
    """GC0560, with what to write instead where the table of states knows it."""
    module, plain = named(name, hasattr(np, name.split(".")[0]))
    help = "" if how else instead(module, plain)
    help = help or "docs/functions-table.md lists what can be traced"
    return refuse("GC0560", f"{module}.{plain}{how} cannot be traced", help)


class Traced(ArrayMethods, np.lib.mixins.NDArrayOperatorsMixin):
    """An array whose operations are recorded. It has a shape and a type, but no numbers.

    Assignment gives it another value: arguments and results are the function's own arrays. A part
    of it (``y[1:3]``, ``y.T``) is a view: it reads, and where it is a part, writes, the array it is
    of.
    """

    def __init__(self, trace: Trace, value: Value, kind: type | None = None) -> None:
        self.origin = trace
        self._value = value
        self._kind = kind
        self._changes = 0
        self._view: View | None = None
        self._is_dense = value.type.rank <= 1  # NumPy's array would lie in order, row by row

    @property
    def value(self) -> Value:
        """What it stands for now."""
        view = self._view
        if view is not None and view.changes != view.base.changes:
            if view.is_unsure:
                raise _unsure()
            self._value = cast("Traced", view.again(view.base)).value
            view.changes = view.base.changes
        return self._value

    @property
    def changes(self) -> int:
        """How often it, or what it is a view of, was assigned into."""
        return self._changes if self._view is None else self._view.base.changes

    @property
    def kind(self) -> type:
        """The class that NumPy would give here: an array, one of its scalars, or Python's own
        number.
        """
        if self._kind is not None:
            return self._kind
        return np.ndarray if self._value.type.rank else self.dtype.type

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """For isinstance: so that a function takes the branch that it takes with numbers."""
        return self.kind

    @property
    def shape(self) -> tuple[int, ...]:
        return self._value.type.static_shape

    @shape.setter
    def shape(self, _shape: object) -> None:
        raise refuse("GC0561", "the shape of a traced array was set", "write y = y.reshape(...)")

    @property
    def ndim(self) -> int:
        return self._value.type.rank

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(NAMES[self._value.type.dtype])

    @dtype.setter
    def dtype(self, _dtype: object) -> None:
        raise refuse("GC0561", "the type of a traced array was set", "write y = y.astype(...)")

    def _part(self, name: str) -> Any:
        """A view of one part of complex numbers."""
        found = self._call(name)
        if found is not self:
            found._view = View(self, lambda base: base._call(name), None, Part(name))
        return found

    def _set_part(self, item: object, name: str) -> None:
        self.store(PROTOCOLS["set part"](self._recorder(), self, name, item))

    real = property(lambda self: self._part("real"), lambda self, x: self._set_part(x, "real"))
    imag = property(lambda self: self._part("imag"), lambda self, x: self._set_part(x, "imag"))

    @property
    def flat(self) -> Any:
        found = self.origin.wrap(self._call("reshape", -1).value, np.ndarray)
        found._view = View(self, lambda base: base._call("reshape", -1), lambda a: a.reshape(-1))
        return found

    @flat.setter
    def flat(self, item: object) -> None:
        self.flat[...] = item

    def __repr__(self) -> str:
        return f"Traced({self._value.type})"

    def __format__(self, _spec: str) -> str:
        return repr(self)

    def __len__(self) -> int:
        if not self.shape:
            raise refuse("GC0561", "a scalar has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: object) -> Any:
        found = self._call("getitem", key)
        if found.shape and is_basic_key(key):
            # NumPy's part of an array is a view of it; a single element is not.
            again: Any = lambda base: base._call("getitem", key)
            found._view = View(self, again, lambda a: a[key], key)
        return found

    def __setitem__(self, key: object, item: object) -> None:
        self.store(PROTOCOLS["setitem"](self._recorder(), self, key, item))

    def store(self, value: object) -> None:
        """Another value from here on, in what this is a view of as well."""
        assert isinstance(value, Value), "a value of the program is stored"
        if self._recorder() is not self.origin:
            help = "return it from the inner function, or carry it through the loop"
            raise refuse("GC0561", "an array of an outer function was assigned into", help)
        view = self._view
        if view is None:
            self._value = value
            self._changes += 1
            return
        if view.is_unsure:
            raise _unsure()
        if type(view.key) is Part:
            view.base._set_part(self.origin.wrap(value), view.key.name)
        elif view.key is not None:
            view.base[view.key] = self.origin.wrap(value)
        elif view.is_read_only:
            raise refuse("GC0561", "a view that NumPy only lets be read was assigned into", _COPY)
        else:
            view.base.store(PROTOCOLS["put back"](self.origin, view, value))

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: object, **options: object
    ) -> Any:
        if method != "__call__" or options or ufunc.nin != len(inputs):
            return PROTOCOLS["ufunc"](self._recorder(), ufunc, method, inputs, options)
        rule = UFUNCS.get(ufunc.__name__)
        if rule is None:
            raise unsupported(ufunc.__name__, UFUNCS)
        trace = self._recorder()
        if holds_complex(inputs):
            rule = PROTOCOLS["complex ufunc"](ufunc, rule)
        found = rule(trace, *inputs)
        if isinstance(found, tuple):
            return tuple(map(trace.wrap, found))
        made = trace.wrap(found)
        made._is_dense = is_dense(inputs)
        return made

    def __array_function__(
        self,
        function: Callable[..., object],
        _types: object,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> Any:
        return self._apply(key_of(function), args, kwargs)

    def _apply(self, name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        rule = FUNCTIONS.get(name)
        if rule is None:
            raise unsupported(name, FUNCTIONS)
        if holds_complex((args, *kwargs.values())):
            rule = PROTOCOLS["complex function"](name, rule)
        args, out = without_out(name, args, kwargs)
        try:
            found = rule(self._recorder(), *args, **kwargs)
        except TypeError as problem:
            detail = str(problem).replace("_function()", "").strip()
            raise refuse(
                "GC0560", f"numpy.{name} cannot be traced with these arguments: {detail}"
            ) from None
        found = results_of(name, args, kwargs, found)
        return found if out is None else PROTOCOLS["out"](self._recorder(), found, out)

    def _recorder(self) -> Trace:
        """The trace that takes what happens to this value now."""
        trace = current_trace()
        if trace is None:
            raise refuse("GC0559", _LEFT_OVER)
        return trace

    def _call(self, name: str, *args: object, **kwargs: object) -> Any:
        return self._apply(name, (self, *args), kwargs)

    def __getattr__(self, name: str) -> Any:
        """The other methods of arrays are the functions of the same name."""
        if not name.startswith("_") and hasattr(np.ndarray, name):
            if name in FUNCTIONS and name != "resize":  # the method changes the array itself
                return functools.partial(self._call, name)
            raise refuse("GC0560", f"numpy.ndarray.{name} cannot be traced", _WHY_TRACED)
        raise AttributeError(f"'{self.kind.__name__}' object has no attribute '{name}'")

    def __array__(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise PROTOCOLS["no numbers"]()

    def __call__(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise refuse("GC0560", "an array is called like a function", "elements are x[i]")

    def __bool__(self) -> NoReturn:
        raise refuse("GC0561", "a traced value cannot decide an `if` or `while`", _WHY_NO_BRANCH)

    def __float__(self) -> NoReturn:
        raise refuse("GC0561", "a traced value cannot become a Python number", WHY_NO_NUMBER)

    def __complex__(self) -> NoReturn:
        raise refuse("GC0561", "a traced value cannot become a Python number", WHY_NO_NUMBER)

    def __int__(self) -> NoReturn:
        raise refuse("GC0561", "a traced value cannot become a Python number", WHY_NO_NUMBER)

    def __index__(self) -> NoReturn:
        help = (
            "numpy.take(a, i) looks a traced index up in an array; name the argument in "
            "static_argnums or static_argnames if it is an option"
        )
        raise refuse("GC0561", "a traced value cannot be an index of Python's own", help)

    def __hash__(self) -> int:
        return id(self)


_NUMBERS = (int, float, complex)


def _is_number(item: object) -> bool:
    return type(item) in _NUMBERS or (type(item) is Traced and item.kind in _NUMBERS)


def _python_number(name: str) -> Callable[..., Any]:
    """An operator of NumPy's mixin that keeps Python's numbers Python's: their type gives way to
    that beside them.
    """
    operate = getattr(np.lib.mixins.NDArrayOperatorsMixin, name)

    @functools.wraps(operate)
    def operator(self: Traced, *other: Any) -> Any:
        found = operate(self, *other)
        if type(found) is Traced and _is_number(self) and all(map(_is_number, other)):
            found._kind = {"f": float, "c": complex}.get(found.dtype.kind, int)
        return found

    return operator


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
for _name in ("neg", "pos", "abs", *_BINARY, *(f"r{name}" for name in _BINARY)):
    setattr(Traced, f"__{_name}__", _python_number(f"__{_name}__"))
