"""Does what a program left for a device: ``python -m tests.support.cuda_replay FOLDER``.

The driver double (``libcuda_double.c``) writes device memory and launches into the folder;
``texts.json`` there has the kernels. They are run in order, in that memory, by the simulator.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from gradc.codegen.cuda.program import Parameter, Text
from gradc.codegen.cuda.simulate.run import text_result
from gradc.codegen.cuda.verbs import MEMORY_BYTES

NUMPY = {
    "f32": np.float32, "f64": np.float64, "i32": np.int32, "u32": np.uint32, "i64": np.int64,
    "u16": np.uint16, "u8": np.uint8,
}  # fmt: skip


def write_texts(folder: Path, texts: dict[str, Text]) -> None:
    """Leaves the kernels for ``replay``."""
    facts = {
        name: {
            "source": text.source,
            "parameters": [[p.name, p.dtype, p.access, p.size] for p in text.parameters],
            "threads": text.threads,
            "shared": text.shared_bytes,
        }
        for name, text in texts.items()
    }
    (folder / "texts.json").write_text(json.dumps(facts), encoding="utf-8")


def read_texts(folder: Path) -> dict[str, Text]:
    """What ``write_texts`` left."""
    facts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    return {
        name: Text(
            name,
            f["source"],
            tuple(Parameter(*p) for p in f["parameters"]),
            f["threads"],
            f["shared"],
        )
        for name, f in facts.items()
    }


def replay(folder: Path) -> None:
    """Runs all that is left to do, in order, and takes it off the list."""
    texts = read_texts(folder)
    memory = np.memmap(folder / "memory", np.uint8, "r+")
    for line in (folder / "launches").read_text().splitlines():
        name, *words = line.split()
        numbers = list(map(int, words))
        if name == "=":
            memory[numbers[0] : numbers[0] + 4].view(np.uint32)[0] = numbers[1]
            continue
        text, (grid, threads, shared, *places) = texts[name], numbers
        assert threads == text.threads and len(places) == len(text.parameters)
        assert shared == text.dynamic_bytes
        arrays = []
        for place, parameter in zip(places, text.parameters, strict=True):
            assert place % MEMORY_BYTES[parameter.dtype] == 0
            raw = memory[place : place + parameter.nbytes]
            arrays.append(raw.view(NUMPY[parameter.dtype]))
        text_result(text, grid, arrays)
    memory.flush()
    (folder / "launches").write_text("")


if __name__ == "__main__":
    replay(Path(sys.argv[1]))
