"""The driver double: ``libcuda_double.c`` compiled by the system's cc, with the simulator behind
its launches, so that whatever runs on a device runs here, checked.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc.codegen.cuda.backend as cuda_backend
from gradc.codegen.cuda.program import Program, Text
from gradc.codegen.cuda.runner.driver import LIBRARY
from gradc.codegen.cuda.simulate.run import text_result
from gradc.codegen.cuda.toolchain.assemble import architecture
from gradc.codegen.cuda.toolchain.build import Built
from gradc.codegen.cuda.verbs import MEMORY_BYTES

SOURCE = Path(__file__).parent / "libcuda_double.c"
DTYPES = {
    "f32": np.float32, "f64": np.float64, "i32": np.int32, "u32": np.uint32, "i64": np.int64,
    "u16": np.uint16, "u8": np.uint8,
}  # fmt: skip
_Hook = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.c_size_t,
)
Arrays = list[np.ndarray[Any, Any]]


@cache
def library() -> Path | None:
    """The compiled double; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"gradc-double-{os.getuid()}-{digest}"
    path = folder / "libcuda.so.1"
    if not path.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        fresh = folder / f"new-{os.getpid()}.so"
        asked = [compiler, "-shared", "-fPIC", "-O1", "-pthread", "-Wl,-soname,libcuda.so.1"]
        subprocess.run([*asked, "-o", str(fresh), str(SOURCE)], check=True, timeout=60)
        fresh.rename(path)
    return path


class Double:
    """The double in use."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.double_log.restype = ctypes.c_char_p
        for name in ("taken", "blocks", "launched", "graph_launches"):
            getattr(self.library, f"double_{name}").restype = ctypes.c_size_t
        self.programs: dict[bytes, dict[str, Text]] = {}  # by what machine code begins with
        self._numbers = itertools.count()  # ranks are threads
        self.fault: Exception | None = None
        self.run: Callable[[Text, int, Arrays], object] = text_result
        self._hook = _Hook(self._launched)
        self.library.double_hook(self._hook)
        self.library.double_reset()
        self.devices(1)
        self.limit(1 << 40)

    def _launched(
        self, tag: bytes, name: bytes, grid: int, threads: int, shared: int, packed: Any, size: int
    ) -> int:
        """One kernel, on memory of the host."""
        try:
            text = self.programs[tag][name.decode()]
            assert threads == text.threads and size == 8 * len(text.parameters)
            assert shared == text.dynamic_bytes
            arrays = []
            for n, parameter in enumerate(text.parameters):
                raw = (ctypes.c_uint8 * parameter.nbytes).from_address(packed[n])
                bits = np.ctypeslib.as_array(raw)
                assert packed[n] % MEMORY_BYTES[parameter.dtype] == 0
                arrays.append(bits.view(DTYPES[parameter.dtype]))
            self.run(text, grid, arrays)
        except Exception as fault:  # noqa: BLE001  (C cannot raise: the test does)
            self.fault = fault
            return 1
        return 0

    @property
    def log(self) -> list[str]:
        """The calls of the driver so far."""
        found: bytes = self.library.double_log()
        return found.decode().split()

    def reset(self) -> None:
        """Forgets the log."""
        self.library.double_reset()

    def fail(self, call: str, status: int) -> None:
        """Makes the next ``call`` fail."""
        self.library.double_fail(call.encode(), status)

    def devices(self, count: int) -> None:
        """How many devices there are from now on."""
        self.library.double_devices(count)

    def limit(self, nbytes: int) -> None:
        """How much memory the device has."""
        self.library.double_limit(ctypes.c_size_t(nbytes))

    def count(self, what: str) -> int:
        """``taken`` bytes, ``blocks`` in use, kernels ``launched``, ``graph_launches``."""
        return int(getattr(self.library, f"double_{what}")())

    def build(self, program: Program, capability: tuple[int, int]) -> Built:
        """Takes the place of the toolchain: the machine code is the double's, for any texts."""
        code = b"\x7fELF of the double, %d" % next(self._numbers)
        self.programs[code] = {text.name: text for text in program.texts}
        stripped = Program.from_json(program.to_json())
        return Built(stripped, architecture(capability), code + b"\0")


@contextmanager
def doubled() -> Iterator[Double]:
    """Inside, the double is this process's driver and its toolchain."""
    path = library()
    if path is None:
        pytest.skip("there is no C compiler")
    double, patch = Double(path), pytest.MonkeyPatch()
    patch.setenv(LIBRARY, str(path))
    patch.setattr(cuda_backend, "build", double.build)
    try:
        yield double
    finally:
        patch.undo()
        gc.collect()  # what programs hold on the device is given back
        double.devices(0)  # the library stays loaded, and is found by its name
        if double.fault is not None:
            raise double.fault
