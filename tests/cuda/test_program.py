"""Programs of kernel texts as data: manifests that come back, launches that do not fit."""

import json
from dataclasses import replace

import pytest

from gradc.codegen.backend import Signature
from gradc.codegen.cuda.program import (
    Counted,
    Launch,
    Parameter,
    Place,
    Program,
    Repeat,
    Resolved,
    Text,
    print_program,
)
from gradc.codegen.cuda.verbs import FUNCTIONS, TEXT_VERBS
from gradc.ir.plan.plan import Port
from gradc.ir.tensor.algebra import VERBS
from gradc.ir.tensor.core import DType, Role


def program() -> Program:
    parameters = (Parameter("x", "f32", "read", 8), Parameter("y", "f32", "write", 8))
    text = Text("twice", "def twice(x, y):\n    ...\n", parameters, 32)
    times = Launch(0, 2, (Place("port", 0, 0, (32,), (0,)), Place("arena", 0, 0, (0,), (32,))))
    port = Port("x", Role.INPUT, (4, 8), DType.F32, "in", 0)
    signature = Signature("p", (port,), 128, 1, 1, 1, "sm_90")
    return Program((text,), (Repeat(4, (times,), Place("arena", 0, 120)),), 128, signature)


def test_a_manifest_comes_back_without_sources() -> None:
    made = program()
    back = Program.from_json(json.loads(json.dumps(made.to_json())))
    assert back == replace(made, texts=tuple(replace(t, source="") for t in made.texts))


def test_addresses_follow_the_counters_of_repeats() -> None:
    found = list(program().unrolled())
    counts = [step.value for step in found if isinstance(step, Counted)]
    places = [step.places for step in found if isinstance(step, Resolved)]
    assert counts == [0, 1, 2, 3]
    assert [(x[2], y[2]) for x, y in places] == [(0, 0), (32, 32), (64, 0), (96, 32)]


@pytest.mark.parametrize("change", ["grid", "offset", "trips", "arguments"])
def test_launches_that_do_not_fit_are_refused(change: str) -> None:
    made = program().to_json()
    (repeat,) = made["steps"]
    (launch,) = repeat["body"]
    if change == "grid":
        launch["grid"] = 0
    elif change == "offset":
        launch["arguments"][1][2] = 100
    elif change == "trips":
        repeat["trips"] = 5
    else:
        launch["arguments"].pop()
    with pytest.raises(ValueError, match="twice"):
        Program.from_json(made)


def test_every_verb_of_the_algebra_is_an_instruction_or_a_function() -> None:
    assert not set(FUNCTIONS) & set(TEXT_VERBS)
    assert set(VERBS) == (set(VERBS) & set(TEXT_VERBS)) | set(FUNCTIONS)


def test_a_program_is_shown_with_its_launches() -> None:
    shown = print_program(program())
    assert "repeat 4, counter at arena + 120:" in shown
    assert "twice[2](port 0 + 0 + 32 t0, arena + 0 + 32 (t0 & 1))" in shown
    assert "def twice(x, y):" in shown
