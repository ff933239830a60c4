"""Methods of arrays that are not the functions of the same name, for traced ones.

Non-goals: everything else of ``ndarray``, which ``Traced`` looks up in the tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class ArrayMethods:
    """What ``Traced`` has besides operators and functions."""

    @property
    def size(self: Any) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def itemsize(self: Any) -> int:
        return int(self.dtype.itemsize)

    @property
    def nbytes(self: Any) -> int:
        return int(self.size * self.itemsize)

    @property
    def T(self: Any) -> Any:
        return self._call("transpose")

    @property
    def mT(self: Any) -> Any:
        return self._call("swapaxes", -1, -2)

    def reshape(self: Any, *shape: object, order: str = "C") -> Any:
        options = {} if order == "C" else {"order": order}
        return self._call("reshape", shape[0] if len(shape) == 1 else shape, **options)

    def transpose(self: Any, *axes: object) -> Any:
        return self._call("transpose", (axes[0] if len(axes) == 1 else axes) or None)

    def astype(
        self: Any,
        dtype: object,
        _order: str = "K",
        _casting: str = "unsafe",
        _subok: bool = True,
        copy: bool = True,
        **_options: object,
    ) -> Any:
        return self._call("astype", dtype, copy=copy)

    def conj(self: Any) -> Any:
        return np.conjugate(self)

    conjugate = conj

    def flatten(self: Any, order: str = "C") -> Any:
        return self.copy().reshape(-1, order=order)

    def copy(self: Any, order: str = "C") -> Any:
        made = self._recorder().wrap(self._recorder().lift(self), self._kind)
        made._is_dense = made._is_dense or order == "C"
        return made

    __copy__ = copy

    def __deepcopy__(self: Any, _memo: object) -> Any:
        return self.copy()

    def clip(self: Any, min: object = None, max: object = None, *rest: Any, **options: Any) -> Any:
        return self._call("clip", min, max, *rest, **options)

    def fill(self: Any, value: object) -> None:
        self[...] = value

    def sort(self: Any, axis: int = -1, *rest: Any, **options: Any) -> None:
        self.store(self._call("sort", axis, *rest, **options).value)

    def partition(self: Any, kth: Any, axis: int = -1, *rest: Any, **options: Any) -> None:
        self.store(self._call("partition", kth, axis, *rest, **options).value)

    def compress(self: Any, condition: Any, *rest: Any, **options: Any) -> Any:
        return self._apply("compress", (condition, self, *rest), options)

    def item(self: Any, *places: Any) -> Any:
        """One element as a number of Python's own kind."""
        if not places and self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        found = self[places] if len(places) > 1 else self.reshape(-1)[places[0] if places else 0]
        return self._recorder().wrap(found.value, _number_of(self.dtype))

    def tolist(self: Any) -> Any:
        """Elements as numbers of Python's own kind, in lists."""
        return self.item() if not self.shape else [part.tolist() for part in self]

    def __round__(self: Any, digits: int | None = None) -> Any:
        return np.round(self, digits or 0)

    def __floor__(self: Any) -> Any:
        return np.floor(self)

    def __ceil__(self: Any) -> Any:
        return np.ceil(self)

    def __trunc__(self: Any) -> Any:
        return np.trunc(self)


def _number_of(dtype: Any) -> type:
    return {"f": float, "c": complex, "b": bool}.get(dtype.kind, int)
