"""Tracing: a function written with NumPy becomes a Function of the tensor IR.

The function is run once on ``Traced`` arrays, which record what is done to them. NumPy's own functions reach us
through ``__array_ufunc__`` and ``__array_function__``; what is not supported, and any attempt to branch on or convert
a traced value, is a diagnostic that names the function and what to use instead. Arrays that the function closes
over become parameters of their own, so nothing large is baked into code.

Types follow the caller's arrays by NumPy's rules: float64 stays f64, Python numbers adapt to the array beside them.

Non-goals: Python control flow on values (use ``numpy.where``), mutation of traced arrays.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Self

import numpy as np

from gradc.ir.builder import Builder
from gradc.ir.core import Attr, DType, Span, TensorType, Value
from gradc.ir.diagnostics import DiagnosticError, error
from gradc.ir.dims import Dim
from gradc.ir.registry import TypeRuleError
from gradc.runtime.arrays import Array, as_array, listed
from gradc.runtime.tracing.names import key_of
from gradc.runtime.tracing.refused import instead, named

DTYPES = {
    "float64": DType.F64,
    "float32": DType.F32,
    "float16": DType.F16,
    "int64": DType.I64,
    "int32": DType.I32,
    "uint32": DType.U32,
    "bool": DType.BOOL,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

_WHY_TRACED = (
    "the function is recorded once, without numbers; choose with numpy.where(condition, a, b), and "
    "keep Python's `if` for shapes and options"
)
_LEFT_OVER = "a traced value was used after its function had been recorded"

# A rule takes the trace and the caller's arguments; ufuncs give one value, functions any result.
UfuncRule = Callable[..., Value]
FunctionRule = Callable[..., object]
UFUNCS: dict[str, UfuncRule] = {}
FUNCTIONS: dict[str, FunctionRule] = {}


def dtype_of(name: str, array: Array) -> DType:
    """The element type of an array. Raises DiagnosticError GC0557 for widths that programs do not have."""
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


def user_span() -> Span:
    """The nearest frame outside gradc and NumPy: the user's own code."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if not str(frame.f_globals.get("__name__", "")).startswith(("gradc.", "numpy")):
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

    ``with Trace() as trace:`` records; a trace inside another one may use the other's values, which it captures.
    """

    def __init__(self) -> None:
        self.builder = Builder()
        self.outer = current_trace()
        self.captured: list[tuple[Value, Array | Traced]] = []
        #: The first refusal: it ends the recording even if the function catches it.
        self.refused: DiagnosticError | None = None

    def __enter__(self) -> Self:
        _recording.stack = [*getattr(_recording, "stack", []), self]
        return self

    def __exit__(self, *_: object) -> None:
        _recording.stack = _recording.stack[:-1]

    def argument(self, name: str, type_: TensorType) -> Value:
        """A parameter of the given type."""
        return self.builder.parameter(type_, name)

    def parameter(self, name: str, array: Array) -> Value:
        """A parameter with the shape and type of ``array``."""
        return self.argument(name, TensorType(array.shape, dtype_of(name, array)))

    def raise_refused(self) -> None:
        """Raises the first refusal, if there was one: a bare `except` of the function cannot swallow it."""
        if self.refused is not None:
            raise self.refused

    def emit(self, name: str, *operands: Value, **attributes: Attr) -> Value:
        """One op with one result at the user's line; a refused type becomes a diagnostic."""
        try:
            with self.builder.at(user_span()):
                return self.builder.one(name, *operands, hint="", **attributes)
        except TypeRuleError as problem:
            raise refuse("GC0558", str(problem)) from None

    def special(self, name: str, *operands: Value, order: int = 0) -> Value:
        """A row of the table of special functions at the user's line."""
        with self.builder.at(user_span()):
            return self.builder.function_of(name, *operands, order=order)

    def constant(self, value: float | bool, dtype: DType, shape: tuple[Dim, ...] = ()) -> Value:
        """A splat."""
        return self.emit("constant", value=value, dtype=dtype, shape=shape)

    def capture(self, item: Array | Traced) -> Value:
        """The value of an array that the function closes over; the same array is captured once."""
        for value, known in self.captured:
            if known is item:
                return value
        name = f"captured{len(self.captured)}"
        if isinstance(item, Traced):
            value = self.builder.parameter(item.value.type, name)
        else:
            value = self.parameter(name, item)
        self.captured.append((value, item))
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
            if item.trace is self:
                return item.value
            if item.trace.encloses(self):
                return self.capture(item)
            raise refuse("GC0559", _LEFT_OVER)
        if isinstance(item, (bool, np.bool_)):
            return self.constant(bool(item), DType.BOOL)
        if isinstance(item, np.number):
            return self.constant(item.item(), dtype_of("a constant", np.asarray(item)))
        if isinstance(item, (int, float)):
            return self._number(item, like)
        return self.capture(as_array("a constant", item))

    def _number(self, number: float, like: DType | None) -> Value:
        """A Python number takes the type beside it unless that would lose its fraction."""
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
        """Operands in their common type: Python numbers take the type beside them, everything else counts."""
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
            return item.kind(0) if item.kind in (int, float) else item.dtype
        if isinstance(item, np.generic) or not isinstance(item, (bool, int, float)):
            return as_array("a constant", item).dtype
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
        """The array that stands for ``value`` in the user's function; ``kind`` is the class it has there."""
        return Traced(self, value, kind)


def unsupported(name: str, known: dict[str, Any], how: str = "") -> DiagnosticError:
    """GC0560, with what to write instead where the table of states knows it."""
    module, plain = named(name, hasattr(np, name.split(".")[0]))
    help = "" if how else instead(module, plain)
    help = help or "docs/functions-table.md lists what can be traced"
    return refuse("GC0560", f"{module}.{plain}{how} cannot be traced", help)


class Traced(np.lib.mixins.NDArrayOperatorsMixin):
    """An array whose operations are recorded. It has a shape and a type, but no numbers."""

    def __init__(self, trace: Trace, value: Value, kind: type | None = None) -> None:
        self.trace = trace
        self.value = value
        self._kind = kind

    @property
    def kind(self) -> type:
        """The class that NumPy would give here: an array, one of its scalars, or Python's own number."""
        if self._kind is not None:
            return self._kind
        return np.ndarray if self.value.type.rank else self.dtype.type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.type.static_shape

    @property
    def ndim(self) -> int:
        return self.value.type.rank

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(NAMES[self.value.type.dtype])

    @property
    def T(self) -> object:
        return self._call("transpose")

    def __len__(self) -> int:
        if not self.shape:
            raise refuse("GC0561", "a scalar has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[object]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: object) -> object:
        return self._call("getitem", key)

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: object, **options: object
    ) -> object:
        rule = UFUNCS.get(ufunc.__name__)
        if method != "__call__":
            raise unsupported(f"{ufunc.__name__}.{method}", FUNCTIONS)
        if rule is None or options:
            raise unsupported(
                ufunc.__name__, UFUNCS, f" with {listed(list(options))}" if rule else ""
            )
        trace = self._recorder()
        found = rule(trace, *inputs)
        return tuple(map(trace.wrap, found)) if isinstance(found, tuple) else trace.wrap(found)

    def __array_function__(
        self,
        function: Callable[..., object],
        _types: object,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        return self._apply(key_of(function), args, kwargs)

    def _apply(self, name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        rule = FUNCTIONS.get(name)
        if rule is None:
            raise unsupported(name, FUNCTIONS)
        try:
            return rule(self._recorder(), *args, **kwargs)
        except TypeError as problem:
            detail = str(problem).replace("_function()", "").strip()
            raise refuse(
                "GC0560", f"numpy.{name} cannot be traced with these arguments: {detail}"
            ) from None

    def _recorder(self) -> Trace:
        """The trace that takes what happens to this value now."""
        trace = current_trace()
        if trace is None:
            raise refuse("GC0559", _LEFT_OVER)
        return trace

    def _call(self, name: str, *args: object, **kwargs: object) -> object:
        return self._apply(name, (self, *args), kwargs)

    def __array__(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise refuse("GC0561", "a traced array has no numbers to convert", _WHY_TRACED)

    def __bool__(self) -> NoReturn:
        raise refuse("GC0561", "a traced value cannot decide an `if` or `while`", _WHY_TRACED)

    def __float__(self) -> NoReturn:
        raise refuse("GC0561", "a traced value cannot become a Python number", _WHY_TRACED)

    def __int__(self) -> NoReturn:
        raise refuse("GC0561", "a traced value cannot become a Python number", _WHY_TRACED)

    def __index__(self) -> NoReturn:
        raise refuse("GC0561", "a traced value cannot be an index of Python's own", _WHY_TRACED)

    def __setitem__(self, _key: object, _value: object) -> NoReturn:
        raise refuse("GC0561", "traced arrays cannot be assigned into", "build a new array instead")

    def sum(self, axis: object = None, keepdims: bool = False) -> object:
        return self._call("sum", axis=axis, keepdims=keepdims)

    def mean(self, axis: object = None, keepdims: bool = False) -> object:
        return self._call("mean", axis=axis, keepdims=keepdims)

    def max(self, axis: object = None, keepdims: bool = False) -> object:
        return self._call("max", axis=axis, keepdims=keepdims)

    def min(self, axis: object = None, keepdims: bool = False) -> object:
        return self._call("min", axis=axis, keepdims=keepdims)

    def prod(self, axis: object = None, keepdims: bool = False) -> object:
        return self._call("prod", axis=axis, keepdims=keepdims)

    def var(self, axis: object = None, keepdims: bool = False) -> object:
        return self._call("var", axis=axis, keepdims=keepdims)

    def std(self, axis: object = None, keepdims: bool = False) -> object:
        return self._call("std", axis=axis, keepdims=keepdims)

    def argmax(self, axis: object = None) -> object:
        return self._call("argmax", axis=axis)

    def cumsum(self, axis: object = None) -> object:
        return self._call("cumsum", axis=axis)

    def clip(self, a_min: object = None, a_max: object = None) -> object:
        return self._call("clip", a_min, a_max)

    def squeeze(self, axis: object = None) -> object:
        return self._call("squeeze", axis=axis)

    def swapaxes(self, axis1: int, axis2: int) -> object:
        return self._call("swapaxes", axis1, axis2)

    def flatten(self) -> object:
        return self._call("reshape", -1)

    def copy(self) -> object:
        return self  # nothing can be assigned into it

    def reshape(self, *shape: object) -> object:
        return self._call("reshape", shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: object) -> object:
        return self._call("transpose", (axes[0] if len(axes) == 1 else axes) or None)

    def astype(self, dtype: object) -> object:
        return self._call("astype", dtype)

    def ravel(self) -> object:
        return self._call("reshape", -1)

    def dot(self, other: object) -> object:
        return self._call("dot", other)
