"""PTX of kernel texts by Numba and NVVM.

Nothing is contracted: NVVM is told ``fma=0``, so that products and sums become ``mul.rn`` and
``add.rn``, which ptxas may not fuse; ``div.rn`` and ``sqrt.rn`` are its defaults.

Importing this needs the extra ``cuda``, no driver and no device. numba-cuda's own ``compile`` has
no switch for contraction, so ``compile_text`` repeats its few steps.
Invariants: the same text gives the same PTX (entries have the text's name, mangled names are
renamed in order of appearance).
"""

from __future__ import annotations

import re
import types as python_types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numba_cuda as _numba_cuda  # noqa: F401  (numba.cuda is this package only where it is there)
from numba.cuda import compiler, dispatcher, types
from numba.cuda.core.errors import NumbaPerformanceWarning
from numba.cuda.cudadrv import nvvm
from numba.cuda.extending import register_jitable

from gradc.codegen.cuda.toolchain.assemble import suffix
from gradc.codegen.cuda.toolchain.numba_verbs import TYPES, VERBS


class _Architecture:
    """What Numba asks of a device while it compiles the functions of a text."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.compute_capability = capability


@contextmanager
def _compiling_for(capability: tuple[int, int]) -> Iterator[None]:
    """Inside, Numba compiles a text's own functions without asking a driver for a device."""
    asked = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: _Architecture(capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = asked


_MANGLED = re.compile(r"_ZN?[0-9][A-Za-z0-9_$]*")


def compile_text(
    name: str,
    source: str,
    pointers: tuple[str, ...],
    bounds: tuple[int, int],
    capabilities: Sequence[tuple[int, int]],
) -> tuple[str, ...]:
    """PTX for each of ``capabilities`` of the kernel ``name`` of ``source``, whose parameters point
    to elements ``pointers``, launched by ``bounds[0]`` threads a block, of which a multiprocessor
    has registers for ``bounds[1]`` at least. Numba's part, which takes the time, is done once.

    Raises:
        TypingError (of Numba): if the text says what its vocabulary does not have.
    """
    code = compile(source, f"<{name}>", "exec")
    scope: dict[str, Any] = {**VERBS, "NAN": float("nan"), "INF": float("inf"), "range": range}
    parts = [part for part in code.co_consts if isinstance(part, python_types.CodeType)]
    made = {part.co_name: python_types.FunctionType(part, scope) for part in parts}
    kernel = made.pop(name)
    with warnings.catch_warnings(), _compiling_for(capabilities[0]):
        warnings.simplefilter("ignore", NumbaPerformanceWarning)
        for helper, function in made.items():
            scope[helper] = register_jitable(function)
        return _ptx(name, kernel, pointers, bounds, capabilities)


def _ptx(
    name: str,
    kernel: Callable[..., Any],
    pointers: tuple[str, ...],
    bounds: tuple[int, int],
    capabilities: Sequence[tuple[int, int]],
) -> tuple[str, ...]:
    """The steps of numba-cuda's ``compile`` for a kernel, with ``fma=0``."""
    asked = [(*one, own) if (own := suffix(one)) else one for one in capabilities]
    arguments = tuple(types.CPointer(TYPES[pointer]) for pointer in pointers)
    result = compiler.compile_cuda(
        kernel,
        types.void,
        arguments,
        debug=False,
        lineinfo=False,
        fastmath=False,
        nvvm_options={"opt": 3, "fma": 0},
        cc=asked[0],
    )
    library = result.library
    entry = library.get_function(result.fndesc.llvm_func_name)
    library._entry_name = result.fndesc.llvm_func_name
    compiler.kernel_fixup(entry, False)
    nvvm.set_launch_bounds(entry, bounds if bounds[1] > 1 else bounds[0])
    texts = [str(text) for one in asked for text in library.get_asm_strs(cc=one)]
    return tuple(_renamed(text, result.fndesc.llvm_func_name, name) for text in texts)


def _renamed(text: str, entry: str, name: str) -> str:
    """``text`` with ``name`` for its entry, and counted names for all else that Numba mangles."""
    names: dict[str, str] = {}
    lines = (line for line in text.splitlines() if "_ZN08NumbaEnv" not in line)

    def rename(found: re.Match[str]) -> str:
        word = found[0]
        if word.startswith(entry):  # and its parameters
            return name + word[len(entry) :]
        return names.setdefault(word, f"{name}_{len(names)}")

    return _MANGLED.sub(rename, "\n".join(lines)) + "\n"
