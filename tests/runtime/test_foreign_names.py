"""Names of PyTorch, NumPy and Keras are answered with a line that compiles, or with an honest
absence.
"""

from __future__ import annotations

import pytest

from gradc.frontend.elaborate.words import WORDS
from gradc.frontend.program import loads
from gradc.frontend.syntax.foreign import FOREIGN, foreign_names
from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError

LINES = sorted({answer.line for answer in FOREIGN.values() if answer.line})


def program(statement: str) -> str:
    return (
        "model m(x: float[4, 3], y: float[4, 3], ids: int[4]) -> float {\n"
        f"    {statement}\n    return sum(x) + sum(y) + sum(cast(ids, float))\n}}"
    )


def found(text: str) -> Diagnostic:
    with pytest.raises(DiagnosticError) as refused:
        loads(text).check()
    return refused.value.diagnostics[0]


@pytest.mark.parametrize("line", LINES)
def test_every_line_that_is_offered_compiles(line: str) -> None:
    is_statement = line.startswith(("use ", "output "))
    made = loads(program(line if is_statement else f"made = {line}\n    output made"))
    assert made.check() is not None


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_a_foreign_name_gets_its_own_answer(name: str) -> None:
    """Never the nearest word: what is offered is the row's line, or that there is none."""
    callables = loads("model m(x: float) -> float { return x }").names.callable_names()
    assert name not in WORDS and name not in callables
    answer = found(program(f"made = {name}(x)\n    output made"))
    assert answer.help == FOREIGN[name].hint(name)
    assert "did you mean" not in answer.help


def test_public_names_of_other_libraries_are_no_slips() -> None:
    """`cdist` is not `cast` and `nn` not `nan`: what has no row is not guessed at."""
    own = {*WORDS, *loads("model m(x: float) -> float { return x }").names.callable_names()}
    assert len(foreign_names()) > 2000
    assert not foreign_names() & {*own, *FOREIGN}
    for name in (*sorted(foreign_names())[::53], "cdist", "conj", "cross", "jit", "kron", "nn"):
        text = "model m(features: float[4, 3]) -> float { return sum(NAME(features)) }"
        answer = found(text.replace("NAME", name))
        wanted = FOREIGN[name].hint(name) if name in FOREIGN else f"gradc has no `{name}`"
        assert answer.help == wanted, name
    # What the program itself has in scope may be meant.
    assert "fold" in foreign_names()
    known = found(program("folds = x\n    z = fold(x)\n    output z"))
    assert known.help == "did you mean `folds`?"


@pytest.mark.parametrize(
    ("statement", "help"),
    [
        ("s = sum(x, dim = 1)\n    output s", "`axis = ...`"),
        ("s = sum(x, keepdim = true)\n    output s", "`keepdims = ...`"),
        ("for i in 3 { break }", "`where`"),
        ("print(x)", "`output"),
        ("x += 1", "`x = x + ...`"),
        ("z = x[[0, 1]]\n    output z", "`stack"),
    ],
)
def test_habits_of_other_languages_get_answers_of_their_own(statement: str, help: str) -> None:
    assert help in found(program(statement)).help


@pytest.mark.parametrize(("name", "meant"), [("sofmax", "softmax"), ("sigmod", "sigmoid")])
def test_slips_of_the_pen_are_still_understood(name: str, meant: str) -> None:
    assert found(program(f"z = {name}(x)\n    output z")).help == f"did you mean `{meant}`?"
