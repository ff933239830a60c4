"""Files from strangers: .npz and .safetensors that are damaged, lying or hostile end in a
diagnostic, fast and small.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.files.data import (
    load_npz,
    load_safetensors,
    save_npz,
    write_atomically,
    write_text,
)
from gradc.runtime.files.tensors import save_each, save_safetensors, types_of
from gradc.runtime.training import checkpoint

ARRAYS: dict[str, Any] = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar": np.float64(2.5),
    "empty": np.zeros((0, 3), np.int32),
    "big": np.arange(5, dtype=">i8"),
    "flags": np.array([True, False]),
    "half": np.arange(3, dtype=np.float16),
    "layer.0.w": np.full(2, np.nan),
}


def refused(load: Callable[[Path], object], path: Path, code: str, says: str = "") -> None:
    """``load`` refuses ``path`` with ``code``, naming the file, within two seconds."""
    started = time.perf_counter()
    with pytest.raises(DiagnosticError, match=f"(?s){code}.*{says}") as found:
        load(path)
    assert time.perf_counter() - started < 2
    assert path.name in str(found.value)


# ---- what is written is read


def test_npz_round_trip(tmp_path: Path) -> None:
    save_npz(tmp_path / "a.npz", ARRAYS)
    found = load_npz(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(found[name], array)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as theirs:
        np.testing.assert_array_equal(theirs["w"], ARRAYS["w"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "a.npz", **ARRAYS)
    found = load_npz(tmp_path / "a.npz")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_safetensors_round_trip(tmp_path: Path) -> None:
    arrays = {n: np.asarray(a) for n, a in ARRAYS.items() if n != "big"}
    save_safetensors(tmp_path / "a.safetensors", arrays, {"step": "7"})
    found, metadata = load_safetensors(tmp_path / "a.safetensors")
    assert metadata == {"step": "7"}
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_same_arrays_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        save_npz(tmp_path / name, ARRAYS)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_arrays_that_come_one_by_one_make_the_bytes_of_the_library(tmp_path: Path) -> None:
    arrays = {n: np.ascontiguousarray(a).reshape(a.shape) for n, a in ARRAYS.items()}
    for metadata in ({"step": "7"}, {"": ""}):
        known = dict(metadata)
        save_each(tmp_path / "a.st", types_of(arrays), reversed(arrays.items()), lambda: known)  # noqa: B023
        expected = safetensors.numpy.save(arrays, metadata)
        assert (tmp_path / "a.st").read_bytes() == expected


def test_metadata_is_written_in_one_order(tmp_path: Path) -> None:
    metadata = {name: f"of {name}" for name in ("model", "zeta", "alpha", "µ", "step", "digest")}
    wanted = b""
    for names in itertools.islice(itertools.permutations(metadata), 0, 720, 60):
        save_safetensors(tmp_path / "a.st", ARRAYS, {name: metadata[name] for name in names})
        found = (tmp_path / "a.st").read_bytes()
        assert found == (wanted := wanted or found)
    arrays, read = load_safetensors(tmp_path / "a.st")
    assert read == metadata
    from_library = safetensors.numpy.load_file(tmp_path / "a.st")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        np.testing.assert_array_equal(from_library[name], array)


# ---- hostile npz

NPY = b"\x93NUMPY\x01\x00"


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return NPY + struct.pack("<H", len(text)) + text + body


def archive(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members:
            made.writestr(name, data)
    return path


class Bomb:
    """Unpickling this would create the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_pickles_are_never_read(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    held = np.empty(1, object)
    held[0] = Bomb(mark)
    np.savez(tmp_path / "bomb.npz", allow_pickle=True, x=held)
    refused(load_npz, tmp_path / "bomb.npz", "GC0571", "`x`.*Python objects")
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    archive(tmp_path / "raw.npz", ("x.npy", npy(header, pickle.dumps(Bomb(mark)))))
    refused(load_npz, tmp_path / "raw.npz", "GC0571", "`x`")
    record = "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (1,), }"
    archive(tmp_path / "rec.npz", ("x.npy", npy(record, b"\0" * 12)))
    refused(load_npz, tmp_path / "rec.npz", "GC0571")
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Bomb(mark)))
    refused(load_npz, tmp_path / "bare.npz", "GC0570")
    assert not mark.exists()


F4 = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"
DAMAGED: dict[str, bytes] = {
    "too few bytes": npy(F4 % "(3,)", b"\0" * 8),
    "too many bytes": npy(F4 % "(3,)", b"\0" * 16),
    "an exabyte declared": npy(F4 % "(1152921504606846976,)", b"\0" * 16),
    "a product that overflows": npy(F4 % "(4294967296, 4294967296, 4294967296)", b""),
    "a negative size": npy(F4 % "(-1,)", b"\0" * 4),
    "a size that is no number": npy(F4 % "('x',)", b"\0" * 4),
    "a header that is code": npy("__import__('os').mkdir('executed')"),
    "a header of lists": npy("[1, 2, 3]"),
    "a header without a shape": npy("{'descr': '<f4', 'fortran_order': False}"),
    "an unknown dtype": npy("{'descr': '<q9', 'fortran_order': False, 'shape': (1,), }", b"\0" * 9),
    "a cut header": NPY + struct.pack("<H", 5000) + b"{'descr'",
    "an unknown version": b"\x93NUMPY\x09\x00" + b"\0" * 20,
    "no magic": b"hello world, this is no array",
    "nothing": b"",
}


@pytest.mark.parametrize("what", list(DAMAGED))
def test_damaged_members_are_refused(tmp_path: Path, what: str) -> None:
    path = archive(tmp_path / "d.npz", ("x.npy", DAMAGED[what]))
    refused(load_npz, path, "GC057[01]", "`x`")
    assert not Path("executed").exists()


KINDS: dict[str, Any] = {
    "text": np.array(["a", "b"]),
    "bytes": np.array([b"a"]),
    "complex": np.zeros(2, complex),
    "dates": np.zeros(2, "datetime64[s]"),
    "durations": np.zeros(2, "timedelta64[s]"),
    "records": np.zeros(2, [("a", "f4")]),
    "raw": np.zeros(2, "V8"),
}


@pytest.mark.parametrize("what", list(KINDS))
def test_what_is_not_numbers_is_refused(tmp_path: Path, what: str) -> None:
    np.savez(tmp_path / "k.npz", fine=np.zeros(2), x=KINDS[what])
    refused(load_npz, tmp_path / "k.npz", "GC0571", "`x`")


def test_a_bomb_of_zeros_takes_no_memory(tmp_path: Path) -> None:
    """A small archive that claims hundreds of gigabytes is refused by what it claims."""
    path = archive(tmp_path / "bomb.npz", ("x.npy", npy(F4 % "(1000,)", b"\0" * (1 << 22))))
    data = path.read_bytes()
    assert len(data) < 10_000
    directory = data.index(b"PK\x01\x02")
    claimed = struct.pack("<I", 0xFFFFFFF0)
    lying = bytearray(data)
    lying[directory + 24 : directory + 28] = claimed
    many = tmp_path / "many.npz"
    with zipfile.ZipFile(many, "w") as made:
        for number in range(20):
            info = zipfile.ZipInfo(f"x{number}.npy")
            made.writestr(info, b"")
    text = bytearray(many.read_bytes())
    at = text.find(b"PK\x01\x02")
    while at >= 0:
        text[at + 24 : at + 28] = claimed
        at = text.find(b"PK\x01\x02", at + 4)
    many.write_bytes(bytes(text))
    refused(load_npz, many, "GC0572", "unpacks to")
    path.write_bytes(bytes(lying))
    refused(load_npz, path, "GC0570")


def test_a_member_larger_than_it_declares_is_not_unpacked(tmp_path: Path) -> None:
    """An .npy header that declares little over a member of a gigabyte of zeros: read no further."""
    path = tmp_path / "long.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made,
        made.open("x.npy", "w") as member,
    ):
        member.write(npy(F4 % "(2,)"))
        for _ in range(64):
            member.write(bytes(1 << 22))
    program = (
        "import resource, sys\n"
        "from gradc.runtime.files.data import load_npz\n"
        "from gradc.ir.diagnostics.diagnostic import DiagnosticError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    load_npz(sys.argv[1])\n"
        "except DiagnosticError as found:\n"
        "    assert 'GC0570' in str(found)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 1024


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_is_refused_or_harmless(tmp_path: Path, seed: int) -> None:
    """Bytes flipped, cut or repeated anywhere: arrays or a diagnostic, nothing else."""
    rng = np.random.default_rng(seed)
    stream = io.BytesIO()
    writer = np.savez_compressed if seed % 2 else np.savez
    writer(stream, x=np.arange(20.0), y=np.arange(3))
    data = bytearray(stream.getvalue())
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(len(data)))
        kind = int(rng.integers(3))
        if kind == 0:
            data[at] = int(rng.integers(256))
        elif kind == 1:
            del data[at : at + int(rng.integers(1, 30))]
        else:
            data[at:at] = data[at : at + int(rng.integers(1, 30))]
    for load, name in ((load_npz, "r.npz"), (load_safetensors, "r.safetensors")):
        (tmp_path / name).write_bytes(bytes(data))
        try:
            load(tmp_path / name)
        except DiagnosticError as found:
            assert name in str(found)


def test_repeated_names_in_an_archive_are_refused(tmp_path: Path) -> None:
    one, two = (npy(F4 % "(1,)", struct.pack("<f", x)) for x in (1.0, 2.0))
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(tmp_path / "twice.npz", ("x.npy", one), ("x.npy", two))
    refused(load_npz, tmp_path / "twice.npz", "GC0570", "`x` twice")


# ---- hostile safetensors


def tensors(header: Any, body: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(dtype: str = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


TWICE = (
    b'{"x": {"dtype":"F32","shape":[4],"data_offsets":[0,16]}, "x": '
    b'{"dtype":"I32","shape":[4],"data_offsets":[0,16]}}'
)
LIES: dict[str, bytes] = {
    "empty": b"",
    "shorter than a header": b"\x01\x02",
    "a header of 2^63 bytes": tensors({}, length=1 << 63),
    "a header longer than the file": tensors({}, length=10_000),
    "a header that is no JSON": tensors(b"{'x': 1}"),
    "a header that is a list": tensors([1, 2]),
    "a header that is not UTF-8": tensors(b'{"\xff": 1}'),
    "a deep header": tensors(b"[" * 100_000),
    "a name twice": tensors(TWICE),
    "metadata twice": tensors(b'{"__metadata__": {"a": "1"}, "__metadata__": {"a": "2"}}', b""),
    "metadata of numbers": tensors({"__metadata__": {"a": 1}}, b""),
    "more bytes than there are": tensors({"x": entry(shape=(400,), offsets=(0, 1600))}),
    "fewer bytes than its shape": tensors({"x": entry(offsets=(0, 8))}),
    "overlapping arrays": tensors({"x": entry(), "y": entry(offsets=(8, 24))}, b"\0" * 24),
    "a hole": tensors({"x": entry(offsets=(4, 20))}, b"\0" * 20),
    "bytes left over": tensors({"x": entry()}, b"\0" * 99),
    "offsets the wrong way round": tensors({"x": entry(offsets=(16, 0))}),
    "negative offsets": tensors({"x": entry(offsets=(-16, 0))}),
    "a shape that overflows": tensors({"x": entry(shape=(1 << 62, 1 << 62))}),
    "a negative size": tensors({"x": entry(shape=(-4,))}),
    "an unknown type": tensors({"x": entry(dtype="Q7")}),
    "an entry that is no object": tensors({"x": 5}),
    "an entry without offsets": tensors({"x": {"dtype": "F32", "shape": [4]}}),
}


@pytest.mark.parametrize("what", list(LIES))
def test_lying_safetensors_are_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "l.safetensors"
    path.write_bytes(LIES[what])
    refused(load_safetensors, path, "GC0574")
    refused(checkpoint.load, path, "GC0574")


@pytest.mark.parametrize("load", [load_npz, load_safetensors])
def test_paths_that_cannot_be_read(tmp_path: Path, load: Callable[[Path], object]) -> None:
    refused(load, tmp_path / "absent", "GC0570", "absent")
    (tmp_path / "folder").mkdir()
    refused(load, tmp_path / "folder", "GC0570", "folder")


# ---- writing


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def half(stream: Any) -> None:
        stream.write(b"new, but")
        raise OSError(28, "No space left on device")

    with pytest.raises(DiagnosticError, match=r"GC0573.*No space left"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_writing_where_one_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none" / "a.npz", tmp_path / "file" / "a.npz"):
        with pytest.raises(DiagnosticError, match="GC0573"):
            save_npz(path, {"x": np.zeros(2)})
        with pytest.raises(DiagnosticError, match="GC0573"):
            save_safetensors(path, {"x": np.zeros(2)})


def test_devices_and_links_stay_what_they_are(tmp_path: Path) -> None:
    """A rename onto a device, a pipe or a link would put a plain file in its place."""
    pipe, link = tmp_path / "pipe", tmp_path / "link.npz"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        save_npz(pipe, ARRAYS)
        (tmp_path / "read.npz").write_bytes(os.read(reader, 1 << 20))
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    link.symlink_to("target.npz")
    save_npz(link, ARRAYS)
    assert link.is_symlink()
    for found in (load_npz(tmp_path / "read.npz"), load_npz(tmp_path / "target.npz")):
        assert list(found) == list(ARRAYS)
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(DiagnosticError, match="GC0573"):
        write_text(tmp_path / "full", "x")
    assert Path("/dev/full").is_char_device()
