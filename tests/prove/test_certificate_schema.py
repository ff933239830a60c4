"""Certificates match their published schema, and what was tampered with is said plainly and refused
with status 3.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gradc.passes.prove.report import KINDS, SCHEMA, Status
from gradc.runtime.cli import main

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
NET = """dim B, D = 4, H = 3
fn cube(x: float[B, H]) -> float[B, H] {
    return x * x * x
    pullback(ct) { return FACTOR * x * x * ct }
}
model net(x: float[B, D], y: int[B]) -> float {
    use fc1 = dense(D, H)
    use fc2 = dense(H, 3)
    return mean(cross_entropy(fc2(cube(fc1(x))), y))
}
"""
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "certificate.schema.json").read_text("utf-8"))
    return found


def faults(data: Any, rule: dict[str, Any], at: str = "$") -> Iterator[str]:
    """Where ``data`` does not match ``rule``: the words of JSON Schema that the certificate's
    schema uses.
    """
    assert set(rule) <= {
        *("$schema", "title", "description", "type", "additionalProperties", "required"),
        *("properties", "items", "enum", "const", "pattern", "minimum"),
    }
    if "const" in rule and data != rule["const"]:
        yield f"{at} is {data!r}"
    if "enum" in rule and data not in rule["enum"]:
        yield f"{at} is {data!r}"
    names = rule.get("type", [])
    allowed = tuple(t for n in ([names] if isinstance(names, str) else names) for t in _TYPES[n])
    if allowed and (
        not isinstance(data, allowed) or (isinstance(data, bool) and bool not in allowed)
    ):
        yield f"{at} is a {type(data).__name__}"
        return
    if isinstance(data, str) and not re.search(rule.get("pattern", ""), data):
        yield f"{at} is {data!r}"
    if isinstance(data, (int, float)) and data < rule.get("minimum", data):
        yield f"{at} is {data!r}"
    if isinstance(data, list):
        for number, item in enumerate(data):
            yield from faults(item, rule.get("items", {}), f"{at}[{number}]")
    if isinstance(data, dict):
        yield from (f"{at} lacks {n}" for n in rule.get("required", []) if n not in data)
        known, others = rule.get("properties", {}), rule.get("additionalProperties", True)
        for name, item in data.items():
            if name in known:
                yield from faults(item, known[name], f"{at}.{name}")
            elif others is False:
                yield f"{at} has {name}"
            elif isinstance(others, dict):
                yield from faults(item, others, f"{at}.{name}")


Written = Callable[..., tuple[Path, Path, int]]
_MADE: dict[tuple[str, ...], tuple[Path, int]] = {}


@pytest.fixture
def written(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """``written(factor, *flags)``: the program, a certificate of it to do what one likes with, and
    the status; each is verified once, whoever asks.
    """

    def made(factor: str = "3", *flags: str) -> tuple[Path, Path, int]:
        asked = (factor, *flags)
        if asked not in _MADE:
            folder = tmp_path_factory.mktemp("certified")
            (folder / "net.grad").write_text(NET.replace("FACTOR", factor), encoding="utf-8")
            command = ["verify", str(folder / "net.grad"), "--json", str(folder / "cert.json")]
            _MADE[asked] = folder, main([*command, *flags])
        folder, status = _MADE[asked]
        copy = tmp_path / "cert.json"
        shutil.copy(folder / "cert.json", copy)
        return folder / "net.grad", copy, status

    return made


@pytest.mark.parametrize(
    "factor, status, flags",
    [
        ("3", 0, ()),
        ("3", 0, ("--numbers",)),
        ("3", 0, ("--budget", "1MiB", "--points", "2")),
        ("2", 3, ()),
    ],
)
def test_certificates_match_the_schema(
    factor: str, status: int, flags: tuple[str, ...], written: Written
) -> None:
    _, cert, found = written(factor, *flags)
    data = json.loads(cert.read_text(encoding="utf-8"))
    assert found == status
    assert data["ok"] == (status == 0)
    assert list(faults(data, schema())) == []


def test_the_schema_is_about_these_certificates(written: Written) -> None:
    rule = schema()["properties"]
    assert rule["schema"]["const"] == SCHEMA
    row = rule["verdicts"]["items"]["properties"]
    assert row["kind"]["enum"] == list(KINDS)
    assert row["status"]["enum"] == [s.value for s in Status]
    _, cert, _ = written()
    data = json.loads(cert.read_text(encoding="utf-8"))
    for spoil in ({"ok": "yes"}, {"seed": -1}, {"extra": 1}, {"dims": {"B": 1.5}}):
        assert list(faults({**data, **spoil}, schema()))
    assert list(faults({n: x for n, x in data.items() if n != "seed"}, schema()))


def _status(data: dict[str, Any]) -> None:
    data["verdicts"][0]["status"] = "PROVED (all shapes)"


def _detail(data: dict[str, Any]) -> None:
    data["verdicts"][0]["detail"] += "; honestly"


def _plan(data: dict[str, Any]) -> None:
    data["plan_digest"] = "0" * 40


def _budget(data: dict[str, Any]) -> None:
    data["options"]["budget"] = "4096"


@pytest.mark.parametrize(
    "tamper, said",
    [
        (_status, "now PROVED (error bound)"),
        (_detail, "own digest is not that of its contents"),
        (_plan, "plan digest is "),
        (_budget, "own digest is not that of its contents"),
    ],
)
def test_tampering_is_named(
    tamper: Callable[[dict[str, Any]], None],
    said: str,
    written: Written,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, cert, _ = written()
    data = json.loads(cert.read_text(encoding="utf-8"))
    tamper(data)
    cert.write_text(json.dumps(data), encoding="utf-8")
    assert main(["verify", str(path), "--replay", str(cert)]) == 3
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "old, new, said",
    [("dense(H, 3)", "dense(H, 4)", "program digest is"), ("x * x * x", "x * x", "REFUTED")],
)
def test_a_changed_model_is_named(
    old: str,
    new: str,
    said: str,
    written: Written,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, cert, _ = written()
    path = tmp_path / "net.grad"
    path.write_text(whole.read_text("utf-8").replace(old, new), encoding="utf-8")
    assert main(["verify", str(path), "--replay", str(cert)]) == 3
    shown = capsys.readouterr().out
    assert "source digest is" in shown
    assert said in shown


def test_a_refuted_certificate_replays_as_refuted_in_a_fresh_process(
    written: Written, tmp_path: Path
) -> None:
    path, cert, status = written("2")
    assert status == 3
    command = [sys.executable, "-m", "gradc", "verify", str(path), "--replay", str(cert)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "differs" not in done.stdout


def test_certify_keeps_the_budget(tmp_path: Path) -> None:
    path, out = tmp_path / "net.grad", tmp_path / "out"
    path.write_text(NET.replace("FACTOR", "3"), encoding="utf-8")
    flags = ["-D", "B=2", "--certify", "--budget", "1MiB", "--emit", "object", "-o", str(out)]
    assert main(["compile", str(path), *flags]) == 0
    cert = json.loads((out / "net.certificate.json").read_text(encoding="utf-8"))
    assert cert["options"]["budget"] == str(1 << 20)
    assert cert["dims"]["B"] == 2


def test_certify_writes_no_object_for_what_is_refuted(tmp_path: Path) -> None:
    path, out = tmp_path / "net.grad", tmp_path / "out"
    path.write_text(NET.replace("FACTOR", "2"), encoding="utf-8")
    flags = ["-D", "B=2", "--certify", "--emit", "object", "-o", str(out)]
    assert main(["compile", str(path), *flags]) == 3
    assert [p.name for p in out.iterdir()] == ["net.certificate.json"]
