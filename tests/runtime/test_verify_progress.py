"""`gradc verify` says what it is doing where somebody can see it, and nowhere else."""

import io
import json
import sys
from pathlib import Path

import pytest

import gradc
from gradc.runtime.commands import verify
from tests.support.command_line import gradc as gradc_command

PROGRAM = "model m(x: float[2]) -> float { param w: float[2] ~ ones\n return sum(w * x) }\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_every_phase_has_words() -> None:
    told: list[str] = []
    report = gradc.loads(PROGRAM).verify(progress=told.append)
    assert told[0] == "compile"
    assert set(report.seconds) - {"total"} == set(told[1:]) <= set(verify._DONE)


def test_a_terminal_shows_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with verify._shown() as progress:
        assert progress is not None
        progress("plan")
    assert verify._DONE["plan"] in screen.getvalue()


def test_nothing_is_shown_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "m.grad"
    path.write_text(PROGRAM)
    done = gradc_command("verify", str(path), "--sympy", "0", "--json")
    assert done.status == 0
    assert json.loads(done.out)["model"] == "m"
    assert done.err == ""
