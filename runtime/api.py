"""The Python interface: what ``import gradc`` offers.

    net = gradc.load("mlp.grad", dims={"H": 64}, precision="f32")
    params = net.init(seed=0)
    f = net.value_and_grad()
    loss, grads = f(params, x=x, y=y)

Non-goals: what the objects do (``runtime.model``); derivatives of NumPy functions
(``runtime.tracing``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gradc.frontend import program as programs
from gradc.runtime.model.compiled import Compiled
from gradc.runtime.model.model import Model
from gradc.runtime.native.arrays import expect
from gradc.runtime.native.shelf import shelf

__all__ = [
    "Compiled",
    "Model",
    "load",
    "loads",
]


def load(
    path: str | os.PathLike[str],
    *,
    dims: Mapping[str, int] | None = None,
    precision: str = "f32",
    entry: str | None = None,
) -> Model:
    """The model in a ``.grad`` file.

    Args:
        dims: values of dimensions, over the defaults of the program.
        precision: what ``float`` means: ``f64``, ``f32``, ``bf16`` or ``f16``.
        entry: which model, where the file declares several.

    Raises:
        DiagnosticError: with everything that is wrong with the program.

    >>> net = load("examples/digits/mlp.grad", precision="f64")
    >>> sorted(net.inputs), sorted(net.params)
    (['x', 'y'], ['fc1.b', 'fc1.w', 'fc2.b', 'fc2.w'])
    """
    expect("path", path, (str, os.PathLike), "the path of a program")
    return Model(programs.load(Path(path), shelf()), entry, dims, precision)


def loads(
    text: str,
    *,
    name: str = "<string>",
    dims: Mapping[str, int] | None = None,
    precision: str = "f32",
    entry: str | None = None,
) -> Model:
    """The model in ``text``; arguments and errors as for ``load``.

    >>> text = '''model m(x: float[3]) -> float {
    ...     param w: float[3] ~ ones
    ...     return sum(w * x)
    ... }'''
    >>> net = loads(text)
    >>> loss, slopes = net.value_and_grad()(net.init(seed=0), x=np.array([1, 2, 3], np.float32))
    >>> float(loss), slopes["w"].tolist()
    (6.0, [1.0, 2.0, 3.0])
    """
    expect("text", text, str, "the text of a program")
    return Model(programs.loads(text, name, shelf=shelf()), entry, dims, precision)
