"""`gradc fmt`: keeps the program and its comments, is idempotent, and looks as the golden file
says.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradc.frontend.format.format import WIDTH, format_text
from gradc.frontend.syntax.diagnostics import DiagnosticError
from gradc.frontend.syntax.parse import parse_text
from gradc.frontend.syntax.unparse import unparse
from tests.support.golden_files import check_golden
from tests.support.syntax_trees import TreeMaker

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(
    path
    for folder in ("tests/programs", "examples", "frontend/stdlib")
    for path in (ROOT / folder).rglob("*.grad")
)

MESSY = """

dim   B,D=784 ,H  =  128# sizes
# the network


model   mlp( x : float[B,D] ,y:int[ B ] )->float
{
  # layers
    use fc1=dense(D,4 * H)   # first
    use a_longer_name = dense( 4*H , H )    # second



    z=-x ^ 2*( a+b )@w.T ; k = - 1 - -1
    if training{z=z }else{
       z= 2* z }   # both
    if training { z = z
    }
    # between
    else { z = x }
    t = x[ : , 1: , :: 2,None,... ]
    for b in blocks{checkpoint{h=b(h)}}
    hs,gs=scan x in xs , t in iota( T ) carry h=zeros([ B,H ]),c=0.0 truncate 8*2{
        yield h,c}
    e = { }
}
""".replace(
    "    e = { }\n", "    checkpoint {\n\n    }\n    return f(not a , axis=( 0, 1, ), k=( 1, ))\n"
)

LONG = """fn f(x: float) -> float {
    y = softmax(where(causal_mask(T), einsum("bqnd,bknd->bnqk", queries, \
keys) / sqrt(D // N), -inf), axis = -1)
    z = some_function(first_argument, second_argument, third_argument, fourth = argument, fifth = 5)
    v = g(aaaaaaaaaaaaaaaaaaaaaaaaaaaa * bbbbbbbbbbbbbbbbbbbbbbbbbbb + \
cccccccccccccccccccccccccc / dddddd - eeeee)
    w = (
        a, # the first
        # alone
        b
        # the last
    )
    u = [ # opening
        1, 2, 3]
    r = g(a +  # why
        b)
    return aaaaaaaaaaaaaaaaaaaaaaaaaaaa * bbbbbbbbbbbbbbbbbbbbbbbbbbb + \
cccccccccccccccccccccccccc / dddddd - eee
}
"""


def comments(text: str) -> list[str]:
    """The comments that ``sprinkled`` put in, in order."""
    return re.findall(r"# (?:own|end) \d+", text)


def sprinkled(text: str, rng: random.Random) -> str:
    """``text`` with comments and blank lines between and behind its lines."""
    lines: list[str] = []
    count = 0
    for line in text.split("\n"):
        if rng.random() < 0.1:
            lines.append(" " * rng.randint(0, 6) + f"# own {count}")
            count += 1
        if rng.random() < 0.1:
            lines += [""] * rng.randint(1, 3)
        if line and rng.random() < 0.2:
            line += f" # end {count}"
            count += 1
        lines.append(line)
    return "\n".join(lines)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_random_trees_survive_printing_and_formatting(seed: int) -> None:
    tree = TreeMaker(random.Random(seed), size=3).program()
    text = unparse(tree)
    assert parse_text(text) == tree
    formatted = format_text(text)
    assert parse_text(formatted) == tree
    assert format_text(formatted) == formatted


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_comments_and_blank_lines_survive(seed: int) -> None:
    rng = random.Random(seed)
    tree = TreeMaker(rng, size=3).program()
    text = sprinkled(format_text(unparse(tree)), rng)
    formatted = format_text(text)
    assert parse_text(formatted) == tree
    assert comments(formatted) == comments(text)
    assert format_text(formatted) == formatted
    assert "\n\n\n" not in formatted


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_program_of_the_house_survives(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    formatted = format_text(text, path.name)
    assert parse_text(formatted) == parse_text(text)
    assert format_text(formatted) == formatted
    words = re.sub(r"[\s,]+", "", text)
    assert re.sub(r"[\s,]+", "", formatted) == words


@pytest.mark.parametrize("name", ["messy", "long"])
def test_looks_as_it_should(name: str, request: pytest.FixtureRequest) -> None:
    text = {"messy": MESSY, "long": LONG}[name]
    formatted = format_text(text)
    assert parse_text(formatted) == parse_text(text)
    assert format_text(formatted) == formatted
    check_golden(f"format/{name}.grad", formatted, request.config)


def test_only_what_cannot_be_broken_is_longer_than_a_line() -> None:
    long_lines = [line for line in format_text(LONG).split("\n") if len(line) > WIDTH]
    assert [line.split()[0] for line in long_lines] == ["return"]


@pytest.mark.parametrize("ends", ["\r\n", "\r"])
def test_line_ends_and_the_mark_at_the_start_become_plain(ends: str) -> None:
    text = "\ufeffdim B\n\nfn f(x: float) -> float {\n    return x\n}\n"
    assert format_text(text.replace("\n", ends)) == text[1:]


def test_empty_programs() -> None:
    assert format_text("") == ""
    assert format_text("\n\n  \n") == ""
    assert format_text("#  kept as it is  \n\n\n# too") == "#  kept as it is\n\n# too\n"


def test_declarations_with_blocks_stand_apart_and_dims_need_not() -> None:
    text = (
        "dim A\ndim B\n# about f\nfn f(x: float) -> float {\nreturn x\n}\n"
        "fn g(x: float) -> float { return x }"
    )
    assert format_text(text) == (
        "dim A\ndim B\n\n# about f\nfn f(x: float) -> float {\n    return x\n}\n\n"
        "fn g(x: float) -> float { return x }\n"
    )


def test_a_program_that_does_not_parse_is_refused() -> None:
    with pytest.raises(DiagnosticError) as caught:
        format_text("fn f(x: float) { return }")
    assert caught.value.diagnostics[0].code == "GC0107"
