"""Programs that were checked before: what is kept of them is what checking finds, nothing is parsed
for it, and whatever changes the program or is wrong with a record leads back to the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradc.frontend import program as programs
from gradc.frontend.program import Program, load, loads
from gradc.frontend.syntax import parse
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.loop.equal import equal
from gradc.runtime.native.cache import ObjectCache
from gradc.runtime.native.shelf import CacheShelf

ROOT = Path(__file__).resolve().parent.parent.parent

# Quotients and products of dimensions, a dimension that another one defines, a state, random
# numbers, starts with draws and arguments, an output, an integer input, layers of the library.
EVERYTHING = """dim N, P = 4, D = N * P, H = 6
model m(x: float[B, D // 2, 2 * D], ids: int[B]) -> float {
    use hidden = dense(2 * D, H)
    param table: float[D, H] ~ normal(0.02)
    param scale: float[H] ~ constant(1.5)
    state seen: float[H] ~ zeros
    h = dropout(hidden(sum(x, axis=1)), 0.1) * scale + table[ids % D]
    output mean_h = mean(h, axis=0)
    if training { state seen = 0.9 * state seen + mean_h }
    return mean(h ^ 2)
}
"""


class Shelf:
    """Records in memory, as JSON."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, ...], str] = {}

    def get(self, *parts: str) -> Any:
        text = self.records.get(parts)
        return None if text is None else json.loads(text)

    def put(self, record: Any, *parts: str) -> None:
        self.records[parts] = json.dumps(record)


def asked(program: Program, dims: dict[str, int], precision: str = "f32") -> tuple[Any, ...]:
    """What a warm start asks a program for."""
    found = program.signature(None, dims, precision), program.parameters(None, dims, precision)
    return (*found, program.dims, program.derived, program.digest)


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forbids parsing from now on."""

    def refuse(*_: object) -> None:
        raise AssertionError("parsed")

    def forbid() -> None:
        monkeypatch.setattr(programs, "parse", refuse)
        monkeypatch.setattr(programs, "_program", refuse)
        monkeypatch.setattr(parse, "grammar", refuse)

    return forbid


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_what_is_kept_is_what_checking_finds(precision: str, no_parser: Callable[[], None]) -> None:
    shelf, dims = Shelf(), {"N": 6}
    fresh = asked(loads(EVERYTHING), dims, precision)
    assert equal(asked(loads(EVERYTHING, shelf=shelf), dims, precision), fresh)
    assert len(shelf.records) == 3
    no_parser()
    assert equal(asked(loads(EVERYTHING, shelf=shelf), dims, precision), fresh)


@pytest.mark.parametrize("name", ["examples/text/gpt.grad", "benchmarks/models/resnet.grad"])
def test_what_is_kept_of_a_network_is_what_checking_finds(
    name: str, no_parser: Callable[[], None]
) -> None:
    shelf = Shelf()
    fresh = asked(load(ROOT / name, shelf), {})
    assert len(shelf.records) == 3
    no_parser()
    assert equal(asked(load(ROOT / name, shelf), {}), fresh)


def test_a_kept_program_still_checks_and_lowers() -> None:
    shelf = Shelf()
    text = EVERYTHING.replace("h = drop", "param idle: float[H] ~ zeros\n    h = drop")
    first = loads(text, shelf=shelf)
    asked(first, {"N": 2})
    kept = loads(text, shelf=shelf)
    asked(kept, {"N": 2})
    assert kept.known is not None and "names" not in vars(kept)
    warnings, dims = first.check(), {"N": 2, "B": 3}
    assert warnings and [w.code for w in kept.check()] == [w.code for w in warnings]
    assert equal(kept.lower(dims=dims).function, first.lower(dims=dims).function)
    assert kept.models == ("m",) and kept.digest == first.digest


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    main, layers, shelf = tmp_path / "main.grad", tmp_path / "layers.grad", Shelf()
    main.write_text('import "layers.grad"\nmodel m(x: float[3]) -> float { return sum(f(x)) }\n')

    def outputs(text: str) -> list[str]:
        layers.write_text(text)
        signature = load(main, shelf).signature()
        return [spec.name for spec in signature.parameters]

    plain = "fn f(x: float[3]) -> float[3] { return 2 * x }\n"
    kept = len(shelf.records)
    assert outputs(plain) == [] and len(shelf.records) == kept + 2
    assert outputs(plain) == [] and len(shelf.records) == kept + 2
    assert outputs(plain + "# more\n") == [] and len(shelf.records) == kept + 4


def test_imports_that_do_not_look_like_imports_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "f.grad").write_text("fn f(x: float[3]) -> float[3] { return 2 * x }\n")
    main, shelf = tmp_path / "main.grad", Shelf()
    main.write_text('dim A; import "f.grad"\nmodel m(x: float[3]) -> float { return sum(f(x)) }')
    assert load(main, shelf).signature().name == "m"
    assert shelf.records == {}


@pytest.mark.parametrize(
    "text", ["model m(x: float[3]) -> float { return x }", "model m(x: float[3] { return 1 }"]
)
def test_what_is_wrong_is_said_again(text: str) -> None:
    shelf, said = Shelf(), []
    for _ in range(2):
        with pytest.raises(DiagnosticError) as found:
            loads(text, shelf=shelf).signature()
        said.append([(d.code, d.span, d.message) for d in found.value.diagnostics])
        assert found.value.sources.get("<string>") is not None
    assert said[0] == said[1]
    with pytest.raises(DiagnosticError, match="must be an integer of at least 0"):
        loads(EVERYTHING, shelf=shelf).signature(dims={"N": -1})
    with pytest.raises(DiagnosticError, match="must be an integer of at least 0"):
        loads(EVERYTHING, shelf=shelf).signature(dims={"N": -1})


@pytest.mark.parametrize("wrong", [{}, [], 7, {"spans": [[]]}, {"types": 3, "spans": []}])
def test_a_record_that_cannot_be_read_counts_as_absent(wrong: Any) -> None:
    shelf = Shelf()
    fresh = asked(loads(EVERYTHING, shelf=shelf), {"N": 6})
    for key in shelf.records:
        shelf.records[key] = json.dumps(wrong)
    assert equal(asked(loads(EVERYTHING, shelf=shelf), {"N": 6}), fresh)
    shelf.records = {k: v for k, v in shelf.records.items() if v != json.dumps(wrong)}
    assert shelf.records  # written anew


def test_damaged_entries_of_the_cache_are_said_and_replaced(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "cache")
    fresh = asked(loads(EVERYTHING, shelf=CacheShelf(cache)), {"N": 6})
    entries = sorted((tmp_path / "cache").glob("*.gco"))
    assert len(entries) == 3
    for entry in entries:
        data = bytearray(entry.read_bytes())
        data[len(data) // 2] ^= 1
        entry.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="damaged"):
        found = asked(
            loads(EVERYTHING, shelf=CacheShelf(ObjectCache(tmp_path / "cache"))), {"N": 6}
        )
    assert equal(found, fresh)
    kept = loads(EVERYTHING, shelf=CacheShelf(ObjectCache(tmp_path / "cache")))
    assert equal(asked(kept, {"N": 6}), fresh) and "files" not in vars(kept)
