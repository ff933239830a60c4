"""Damaged data, weights, folders of runs and cache entries: refused, or read as what they are.

    python -m benchmarks.soak_files --count 10000

Files are damaged in their bytes and in their structure (headers of archives, shapes, types,
lengths, JSON). A run whose folder was damaged is resumed: it ends with the weights of the run that
was left alone, or says why it does not.
"""

from __future__ import annotations

import functools
import io
import json
import random
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.soak_common import Tally, command, soak
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.files.data import load_npz, load_safetensors
from gradc.runtime.files.tensors import save_safetensors
from gradc.runtime.native.cache import ObjectCache, encode
from tests.support.command_line import gradc

PROGRAM = """
dim B, D = 3

model line(x: float[B, D], y: int[B]) -> float {
    param w: float[D] ~ normal(1.0)
    return mean((x @ w - cast(y, float))^2)
}
"""
_ODD_SHAPES = ("(-1,)", "(0, 10**9)", "(True, 2)", "()", "(3,)", "(((", "(2, 3, 4)", "[2]",
    "(1e3,)",
               "(" + "1, " * 70 + ")", str((1 << 62,)), "({},)", "(None,)")  # fmt: skip
_ODD_TYPES = ("<f4", ">f8", "|O", "<U3", "<M8[s]", "f", "<f16", "[('a', '<f4')]", "|b1", "<c8", "x")
_ODD_JSON: tuple[object, ...] = ([], 5, None, "a", {}, {"step": []}, -1, 1e308, {"a": {"b": []}})


@functools.cache
def folder() -> Path:
    """A folder of this process, with a program, data and a finished run."""
    made = Path(tempfile.mkdtemp(prefix="gradc-soak-"))
    (made / "line.grad").write_text(PROGRAM)
    random_numbers = np.random.default_rng(0)
    x = random_numbers.normal(size=(16, 3)).astype(np.float32)
    np.savez(made / "data.npz", x=x, y=np.arange(16, dtype=np.int32) % 2)
    assert gradc(*train(made, "whole", 3)).status == 0
    assert gradc(*train(made, "part", 2)).status == 0
    return made


def train(made: Path, out: str, epochs: int, *extra: str) -> list[str]:
    """The command line of a small run."""
    place = ["--data", str(made / "data.npz"), "--out", str(made / out)]
    how = ["--batch", "5", "--epochs", str(epochs), "--threads", "1"]
    return ["train", str(made / "line.grad"), *place, *how, *extra]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """``data`` with some of its bytes changed, moved, lost or repeated."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        start = rng.randrange(len(found) + 1)
        stop = min(len(found), start + rng.randint(1, 40))
        kind = rng.randrange(5)
        if kind == 0:
            found[start:stop] = b""
        elif kind == 1:
            found[start:stop] = rng.randbytes(stop - start)
        elif kind == 2:
            found[start:start] = found[start:stop]
        elif kind == 3 and start < len(found):
            found[start] ^= 1 << rng.randrange(8)
        elif kind == 4 and rng.random() < 0.3:
            del found[start:]
    return bytes(found)


def npz(rng: random.Random, _tally: Tally) -> str:
    """An archive whose bytes, or whose headers, are not what they should be."""
    stream = io.BytesIO()
    if rng.random() < 0.5:
        save = rng.choice((np.savez, np.savez_compressed))
        save(stream, x=np.arange(20.0), y=np.asfortranarray(np.ones((3, 4), np.int32)))
        data = damaged(stream.getvalue(), rng)
    else:
        shape, kind = rng.choice(_ODD_SHAPES), rng.choice(_ODD_TYPES)
        text = repr({"descr": kind, "fortran_order": rng.random() < 0.5, "shape": 0})
        text = text.replace("'shape': 0", f"'shape': {shape}") + "\n"
        with zipfile.ZipFile(stream, "w") as made:
            version = rng.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x01\x07"))
            length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
            made.writestr("x.npy", b"\x93NUMPY" + version + length + text.encode() + bytes(48))
        data = stream.getvalue()
    return _loaded(load_npz, "odd.npz", data)


def weights(rng: random.Random, _tally: Tally) -> str:
    """A safetensors file that lies."""
    if rng.random() < 0.5:
        path = folder() / "good.safetensors"
        if not path.exists():
            save_safetensors(path, {"a": np.ones((3, 4)), "b": np.arange(5)}, {"m": "1"})
        data = damaged(path.read_bytes(), rng)
    else:
        kind = rng.choice(("F32", "BF16", "F8_E4M3", "F4", "I64", "BOOL", "X", "f32", ""))
        entry: dict[str, object] = {
            "dtype": kind,
            "shape": rng.choice(([4], [2, 2], [], [-1], [1 << 62], "4", [True], [2.0])),
            "data_offsets": rng.choice(([0, 16], [0, 8], [8, 16], [16, 0], [0], None)),
        }
        name = rng.choice(("a", "a\0b", "", "__metadata__", "é" * 50))
        text = json.dumps(rng.choice(({name: entry}, {name: rng.choice(_ODD_JSON)}, [entry])))
        length = rng.choice((len(text), len(text), len(text) + 9, 1 << 63))
        data = struct.pack("<Q", length) + text.encode() + bytes(16)
    return _loaded(load_safetensors, "odd.safetensors", data)


def _loaded(load: Callable[[Path], object], name: str, data: bytes) -> str:
    path = folder() / name
    path.write_bytes(data)
    try:
        load(path)
    except DiagnosticError as found:
        return "" if name in str(found) else f"the file is not named: {found}"
    return ""


def run_folder(rng: random.Random, tally: Tally) -> str:
    """A run of which one or two files are damaged, and which is then resumed."""
    made, out = folder(), folder() / "odd"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(made / "part", out)
    files = sorted(out.iterdir())
    for path in rng.sample(files, rng.randint(1, 2)):
        if path.suffix in (".json", ".jsonl") and rng.random() < 0.5:
            text = json.dumps(rng.choice(_ODD_JSON)) + "\n"
            lines = path.read_text().splitlines(keepends=True)
            lines.insert(rng.randrange(len(lines) + 1), text)
            path.write_text(text if path.suffix == ".json" else "".join(lines))
        elif rng.random() < 0.1:
            path.unlink()
        else:
            path.write_bytes(damaged(path.read_bytes(), rng))
    done = gradc(*train(made, "odd", 3, "--resume"))
    if done.status not in (0, 1) or "internal error" in done.err:
        return f"status {done.status}: {done.err}"
    tally.kinds["resumed" if done.status == 0 else "refused"] += 1
    if done.status == 1:
        return "" if "error[GC" in done.err else f"no diagnostic: {done.err}"
    wanted = (made / "whole" / "params.safetensors").read_bytes()
    return "" if (out / "params.safetensors").read_bytes() == wanted else "other weights"


def entry(rng: random.Random, _tally: Tally) -> str:
    """A cache entry that is damaged counts as absent, and its replacement is whole."""
    cache = ObjectCache(folder() / "cache")
    code = rng.randbytes(200)
    data = encode("ab12", {"name": "f"}, code)
    assert cache.put("ab12", {"name": "f"}, code)
    wrong = damaged(data, rng)
    (folder() / "cache" / "ab12.gco").write_bytes(wrong)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = cache.get("ab12")
        if found is not None and found.code != code:
            return "a damaged entry was believed"
        if (found is None) == (wrong == data):
            return "a whole entry was refused" if wrong == data else "a damaged entry was believed"
        cache.put("ab12", {"name": "f"}, code)
        found = cache.get("ab12")
    return "" if found is not None and found.code == code else "the replacement is not there"


KINDS = {"npz": npz, "weights": weights, "run folder": run_folder, "cache entry": entry}


def case(rng: random.Random, tally: Tally) -> str:
    """One damaged file."""
    kind = rng.choices(list(KINDS), (4, 4, 1, 3))[0]
    tally.kinds[kind] += 1
    return KINDS[kind](rng, tally)


def files(count: int, seed: int, seconds: float, state: Path | None = None) -> Tally:
    """Damages ``count`` files."""
    made = folder()  # compiling is no part of a case
    try:
        return soak("files", case, count, seed, seconds, state)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        folder.cache_clear()


if __name__ == "__main__":
    sys.exit(command(__doc__, 10_000, files))
