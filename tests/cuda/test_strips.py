"""Products of strips as kernel texts: the CPU's bits, a proof over a prime field, masks that skip
rectangles, and barriers that are missed.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import gradc
from gradc.codegen.cuda.printer.plans import print_plan, target
from gradc.codegen.cuda.program import Launch, Program, Text
from gradc.codegen.cuda.simulate.memory import Pointer
from gradc.codegen.cuda.simulate.run import Device
from gradc.codegen.cuda.simulate.shadow import SimulationError
from gradc.ir.target.target import Processors
from gradc.passes.recompute import cutting
from gradc.passes.recompute import tile as tiling
from tests.support.cuda_programs import differing, plan_of, unproved
from tests.support.memory_subjects import Subject, of_model

FEW = target("sm_90", Processors(3, 228 << 10, 65536, 2048, 227 << 10))
ONE = target("sm_90", Processors(1, 228 << 10, 65536, 2048, 227 << 10))


def attention(queries: int, keys: int, size: int, mask: str) -> Subject:
    """Loss and gradients of attention with a mask over rows i and columns j."""
    kept = re.sub(r"\bi\b", f"iota({queries})[:, None]", mask)
    kept = re.sub(r"\bj\b", f"iota({keys})[None, :]", kept)
    text = f"""
model m() -> float {{
    param q: float[2, {queries}, {size}] ~ normal(1.0)
    param k: float[2, {keys}, {size}] ~ normal(1.0)
    param v: float[2, {keys}, {size}] ~ normal(1.0)
    return mean(scaled_attention(q, k, v, {kept})^2)
}}
"""
    return of_model("m gradient", gradc.loads(text))


def strips(program: Program) -> list[str]:
    return [t.source for t in program.texts if "strips of" in t.source]


# Rows by groups of threads; rows and columns that none takes, by ones; several leaves of k; a strip
# that only dynamic shared memory holds.
CASES = {
    "window": (64, 96, 20, "(i + 20 >= j) and (i - j < 30)"),
    "ragged": (48, 50, 6, "i + 20 > j"),
    "leaves": (16, 260, 4, "j <= i + 100"),
    "long": (16, 560, 4, "j <= i + 500"),
    "many": (48, 50, 6, "i + 20 > j"),
}


@pytest.mark.parametrize("case", CASES)
def test_strips_have_the_bits_of_the_cpu_and_are_proved(case: str) -> None:
    """A thread has two rows of a strip, or four where there are many for every processor."""
    one, on = attention(*CASES[case]), ONE if case == "many" else FEW
    plan = plan_of(one, on)
    program = print_plan(plan, on)
    assert len(strips(program)) == 2
    assert ["line_2" in source for source in strips(program)] == [case in ("window", "many")] * 2
    assert ["dynamic(" in source for source in strips(program)] == [case == "long"] * 2
    assert not differing(one, program, plan)
    is_slow = case in ("leaves", "long")  # as long as all the others
    assert is_slow or not unproved(plan, program)


def test_rectangles_that_a_mask_empties_are_not_multiplied() -> None:
    """Both sides of a window are asked for."""
    one = attention(*CASES["window"])
    program = print_plan(plan_of(one, FEW), FEW)
    for source in strips(program):
        (kept,) = re.findall(r"if (.*) >= 0\).*:\n", source)
        assert kept.count(">= 0") == 1


def test_tiles_of_long_rows_are_strips_of_all_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a processor's tiles of one head each, all heads go together, with its bits."""
    monkeypatch.setattr(tiling, "LEAST", 1)
    monkeypatch.setattr(tiling, "TILE", 16 * 48 * 4)
    for name in ("LEAST_ROWS", "ROWS", "STRIP_ROWS"):
        monkeypatch.setattr(cutting, name, 16)
    one = attention(32, 48, 4, "i + 16 >= j")
    plan = plan_of(one, FEW)
    program = print_plan(plan, FEW)
    assert all(isinstance(step, Launch) for step in program.steps)
    assert len(strips(program)) == 4  # forward and gradients of two tiles
    assert not differing(one, program, plan)


def test_a_mask_in_memory_skips_nothing() -> None:
    text = """
model m(mask: bool[48, 48]) -> float {
    param q: float[2, 48, 8] ~ normal(1.0)
    return mean(scaled_attention(q, q, q, mask)^2)
}
"""
    one = of_model("m gradient", gradc.loads(text))
    plan = plan_of(one, FEW)
    program = print_plan(plan, FEW)
    assert strips(program) and "keeps nothing" not in "".join(strips(program))
    assert not differing(one, program, plan)


def test_parts_of_dynamic_memory_that_meet_are_found() -> None:
    """A part that begins too early, at no multiple of 16 bytes, or has elements too few."""
    program = print_plan(plan_of(attention(*CASES["long"]), FEW), FEW)
    text = next(t for t in program.texts if "dynamic(" in t.source)
    places = list(re.finditer(r"dynamic\(f32, (\d+), (\d+)\)", text.source))
    assert len(places) == 4 and text.dynamic_bytes > 48 << 10
    for place in places:
        size, at = map(int, place.groups())
        changes = [(size, at + 4, "alignment"), (size, text.dynamic_bytes, "launch")]
        changes += [(size, at - 16, "launch")] if at else []
        for count, begin, kind in changes:
            other = f"dynamic(f32, {count}, {begin})"
            source = text.source.replace(place[0], other, 1)
            with pytest.raises(SimulationError) as found:
                run_alone(replace(text, source=source), 1)
            assert found.value.kind == kind


@pytest.mark.parametrize("which", [0, 1])
def test_every_barrier_is_needed(which: int) -> None:
    """In the strips of scores, then those of their gradients; all stages of slices are used."""
    one = attention(64, 96, 36, "(i + 20 >= j) and (i - j < 30)")
    plan = plan_of(one, FEW)
    program = print_plan(plan, FEW)
    text = [t for t in program.texts if "strips of" in t.source][which]
    number = program.texts.index(text)
    launches = [s for s in program.steps if isinstance(s, Launch) and s.text == number]
    lines = text.source.split("\n")
    barriers = [n for n, line in enumerate(lines) if line.strip() == "barrier()"]
    for at in barriers:
        source = "\n".join([*lines[:at], *lines[at + 1 :]])
        with pytest.raises(SimulationError, match="race"):
            run_alone(replace(text, source=source), launches[0].grid)
    assert len(barriers) > 2
    run_alone(text, launches[0].grid)


def run_alone(text: Text, grid: int) -> None:
    """One launch on arrays of its own."""
    device, pointers = Device(), []
    for p in text.parameters:
        words = np.full(p.nbytes, 0x3F, np.uint8)
        space = device.space(p.name, words, True)
        pointers.append(Pointer(p.name, space, 0, p.dtype, p.size, p.access))
    device.launch(text, grid, pointers)
