"""What each scalar verb means in NumPy: read by the array domains and by the reference meaning of
kernels.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

_erf = np.frompyfunc(math.erf, 1, 1)


def _shift(shift: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        width = np.asarray(a).dtype.itemsize * 8
        return shift(a, np.bitwise_and(b, np.asarray(width - 1, np.asarray(b).dtype)))

    return apply


def _gate(ct: Any, p: Any) -> Any:
    return np.where(np.equal(ct, 0), np.zeros((), np.asarray(ct).dtype), np.multiply(ct, p))


def _mulhi(a: Any, b: Any) -> Any:
    wide = np.asarray(a).astype(np.uint64) * np.asarray(b).astype(np.uint64)
    return (wide >> np.uint64(32)).astype(np.uint32)


NUMPY_VERBS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "pow": np.power,
    "max": np.maximum,
    "min": np.minimum,
    "gate": _gate,
    "fma": lambda a, b, c: np.add(np.multiply(a, b), c),
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "round": np.rint,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: np.reciprocal(np.sqrt(x)),
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "tanh": np.tanh,
    "erf": lambda x: np.asarray(_erf(x)).astype(np.asarray(x).dtype),
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "bitand": np.bitwise_and,
    "bitor": np.bitwise_or,
    "bitxor": np.bitwise_xor,
    "shl": _shift(np.left_shift),
    "shr": _shift(np.right_shift),
    "mulhi": _mulhi,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_not": np.logical_not,
    "select": np.where,
    "stop_gradient": lambda x: x,
}
