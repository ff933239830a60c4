"""The object cache: what is stored comes back; whatever is damaged or not ours counts as absent."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gradc.runtime.native.cache import SUFFIX, Json, ObjectCache, decode, encode, make_key

KEY = make_key("a program", b"its flags")
HEADER: dict[str, Json] = {"name": "f", "ports": [["x", [2, 3]]], "arena_bytes": 64}
CODE = bytes(random.Random(1).randrange(256) for _ in range(700))


@pytest.fixture
def cache(tmp_path: Path) -> ObjectCache:
    return ObjectCache(tmp_path / "cache")


def _file(cache: ObjectCache) -> Path:
    (path,) = cache.directory.glob(f"*{SUFFIX}")
    return path


def test_what_is_stored_comes_back(cache: ObjectCache) -> None:
    assert cache.get(KEY) is None
    assert cache.put(KEY, HEADER, CODE)
    entry = cache.get(KEY)
    assert entry is not None
    assert entry.code == CODE
    assert entry.header == {**HEADER, "key": KEY}
    assert cache.directory.stat().st_mode & 0o777 == 0o700
    assert _file(cache).stat().st_mode & 0o777 == 0o600


def test_keys_depend_on_every_part_and_on_their_borders() -> None:
    keys = {make_key("ab", "c"), make_key("a", "bc"), make_key("abc"), make_key("ab", "c", "")}
    assert len(keys) == 4
    assert make_key("ab", "c") == make_key(b"ab", b"c")


def test_every_single_flipped_bit_of_the_frame_is_found() -> None:
    data = encode(KEY, HEADER, CODE)
    assert decode(data, KEY).code == CODE
    rng = random.Random(2)
    places = [*range(200), *(rng.randrange(200, len(data)) for _ in range(200))]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        with pytest.raises(ValueError):
            decode(bytes(damaged), KEY)


def test_every_truncation_and_extension_is_found() -> None:
    data = encode(KEY, HEADER, CODE)
    for length in [*range(64), *range(64, len(data), 37), len(data) - 1]:
        with pytest.raises(ValueError):
            decode(data[:length], KEY)
    with pytest.raises(ValueError):
        decode(data + b"\0", KEY)


def test_an_entry_under_another_name_is_refused() -> None:
    with pytest.raises(ValueError):
        decode(encode(KEY, HEADER, CODE), make_key("another"))


def test_a_damaged_entry_is_absent_warns_once_and_is_replaced(cache: ObjectCache) -> None:
    cache.put(KEY, HEADER, CODE)
    path = _file(cache)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert cache.get(KEY) is None
    assert cache.get(KEY) is None  # silently now: warnings are errors in these tests
    assert cache.put(KEY, HEADER, CODE)
    entry = cache.get(KEY)
    assert entry is not None and entry.code == CODE


def test_a_directory_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    cache = ObjectCache(open_to_all)
    with pytest.warns(RuntimeWarning, match="written by others"):
        assert not cache.put(KEY, HEADER, CODE)
    assert list(open_to_all.iterdir()) == []
    assert "written by others" in cache.info().problem


def test_a_linked_directory_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    cache = ObjectCache(tmp_path / "link")
    with pytest.warns(RuntimeWarning, match="not a directory"):
        assert not cache.put(KEY, HEADER, CODE)
    assert cache.get(KEY) is None


def test_a_linked_or_foreign_entry_is_not_read(cache: ObjectCache, tmp_path: Path) -> None:
    cache.put(KEY, HEADER, CODE)
    path = _file(cache)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.warns(RuntimeWarning, match="cannot read"):
        assert cache.get(KEY) is None
    path.unlink()
    elsewhere.rename(path)
    path.chmod(0o666)
    assert cache.get(KEY) is None
    path.chmod(0o600)
    assert cache.get(KEY) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_not_used(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 12345, 12345)
    assert ObjectCache(theirs).problem() == "belongs to another user"


def test_a_file_in_the_way_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    cache = ObjectCache(tmp_path / "file" / "cache")
    assert cache.get(KEY) is None
    assert not cache.put(KEY, HEADER, CODE)


def test_info_and_clear(cache: ObjectCache) -> None:
    assert cache.info().entries == 0
    for number in range(3):
        cache.put(make_key(str(number)), HEADER, CODE)
    info = cache.info()
    assert info.entries == 3
    assert info.nbytes == sum(p.stat().st_size for p in cache.directory.iterdir())
    assert cache.clear() == 3
    assert cache.info().entries == 0


def test_the_least_recently_used_entry_goes_first(tmp_path: Path) -> None:
    size = len(encode(KEY, HEADER, CODE))
    cache = ObjectCache(tmp_path / "cache", limit=3 * size)
    keys = [make_key(str(number)) for number in range(4)]
    for age, key in enumerate(keys[:3]):
        cache.put(key, HEADER, CODE)
        os.utime(cache.directory / f"{key}{SUFFIX}", (1000 + age, 1000 + age))
    assert cache.get(keys[0]) is not None  # a use makes it the youngest
    cache.put(keys[3], HEADER, CODE)
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]


def test_a_directory_with_room_is_not_looked_through_at_every_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that fills up never holds more than its limit."""
    looks, size = [0], len(encode(KEY, HEADER, CODE))
    files = ObjectCache._files

    def counted(cache: ObjectCache) -> list[tuple[str, os.stat_result]]:
        looks[0] += 1
        return files(cache)

    monkeypatch.setattr(ObjectCache, "_files", counted)
    wide = ObjectCache(tmp_path / "wide")
    for number in range(50):
        wide.put(make_key(str(number)), HEADER, CODE)
    assert looks == [1]
    narrow = ObjectCache(tmp_path / "narrow", limit=20 * size)
    for number in range(50):
        narrow.put(make_key(str(number)), HEADER, CODE)
        held = sum(p.stat().st_size for p in narrow.directory.iterdir())
        assert held == min(number + 1, 20) * size


_FILLER = """
import sys
from pathlib import Path
from gradc.runtime.native.cache import ObjectCache, make_key
cache = ObjectCache(Path(sys.argv[1]))
code = bytes(range(256)) * 200
for round in range(40):
    key = make_key(str(round))
    entry = cache.get(key)
    if entry is None:
        cache.put(key, {"round": round}, code)
        entry = cache.get(key)
    assert entry is not None and entry.code == code and entry.header["round"] == round
"""


def test_eight_processes_fill_a_cold_cache_together(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", _FILLER, str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    for process in processes:
        _, problems = process.communicate(timeout=120)
        assert process.returncode == 0, problems
    names = sorted(p.name for p in (tmp_path / "cache").iterdir())
    assert len(names) == 40 and all(name.endswith(SUFFIX) for name in names)
