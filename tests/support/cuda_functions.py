"""The functions of kernel texts, each in a text of one element a thread: for the simulator, and for
a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradc.codegen.cuda.functions import function_texts
from gradc.codegen.cuda.program import Access, Parameter, Text
from gradc.codegen.cuda.simulate.run import text_result

Array = npt.NDArray[Any]
THREADS = 128


def each_text(name: str, kind: str, blocks: int) -> Text:
    """``y[i] = name(x0[i], ...)`` of ``kind``, on ``THREADS blocks`` elements."""
    count = blocks * THREADS
    names = ["x0", "x1"] if name == "pow" else ["x0"]
    loads = ", ".join(f"load({n}, i)" for n in names)
    functions = function_texts([(name, kind)])
    lines = [
        *(text.source for text in functions),
        f"def each({', '.join(names)}, y):",
        f"    i = {THREADS} * block() + thread()",
        f"    store(y, i, {name}_{kind}({loads}))",
    ]
    access: dict[str, Access] = {"y": "write"}
    parameters = tuple(Parameter(n, kind, access.get(n, "read"), count) for n in (*names, "y"))
    source = "\n".join(lines) + "\n"
    return Text("each", source, parameters, THREADS, functions=tuple(f.name for f in functions))


def simulated(name: str, kind: str, operands: Sequence[Array]) -> Array:
    """The function ``name`` of each element."""
    count = len(operands[0])
    blocks = -(-count // THREADS)
    padded = [np.resize(x, blocks * THREADS) for x in operands]
    result = np.empty_like(padded[0])
    text_result(each_text(name, kind, blocks), blocks, [*padded, result])
    return result[:count]
