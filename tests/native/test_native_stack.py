"""What a call puts on stacks: a few kilobytes of frames, read off the machine code of every
example.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradc.codegen.llvm import driver
from gradc.codegen.llvm.host import jit
from gradc.codegen.llvm.isa import available, select
from gradc.ir.plan.plan import Repeat, Step
from tests.place.test_plan_examples import FILES, plan_for
from tests.support.native_plans import bare, ready

KERNELS = 4096  # what docs/native.md says of all frames of kernels that are on a stack together
SETS = [name for name in ("sse2", "avx2", "avx512") if name in available()]
pytestmark = pytest.mark.skipif(not SETS, reason="reads x86-64 assembly")


def frames(assembly: str) -> dict[str, int]:
    """Bytes that each function takes from the stack: what it subtracts from rsp, and what it
    pushes.
    """
    found: dict[str, int] = {}
    name = ""
    for line in assembly.splitlines():
        if label := re.match(r'"?([A-Za-z_][\w.$]*)"?:', line):
            name = label[1]
            found[name] = 8  # the return address
        elif taken := re.match(r"\s+subq\s+\$(\d+), %rsp", line):
            found[name] += int(taken[1])
        elif re.match(r"\s+pushq\s", line):
            found[name] += 8
        assert not re.match(r"\s+(subq|andq|leaq).*%r[a-ds0-9]\w*, %rsp", line), f"{name}: {line}"
    return found


def depth(steps: tuple[Step, ...]) -> int:
    return max((1 + depth(s.body) for s in steps if isinstance(s, Repeat)), default=0)


# Every example on one of the sets in turn, the large ones on all.
LARGE = ("gpt", "cnn", "lstm")
PAIRS = [
    (path, isa)
    for n, path in enumerate(FILES)
    for m, isa in enumerate(SETS)
    if path.stem in LARGE or n % len(SETS) == m
]


@pytest.mark.parametrize(("path", "isa"), PAIRS, ids=lambda x: getattr(x, "stem", x))
def test_frames_are_small(path: Path, isa: str) -> None:
    plan = plan_for(path)
    if plan is None:
        return
    plan = ready(bare(plan), 2, isa)
    found = frames(jit.assembly(driver.generate(plan, select(isa)).text, select(isa)))
    entry, walk = found.pop(plan.name), found.pop("gradc.walk")
    # An adapter, a kernel, a tile or an epilogue, and vector mathematics below that.
    deepest = sum(sorted(found.values())[-4:])
    assert deepest + walk * (1 + depth(plan.steps)) <= KERNELS
    most = max(len(kernel.buffers) for kernel in plan.kernels)
    assert entry <= 8 * (len(plan.ports) + most) + 256


def test_the_reader_of_frames_sees_what_is_there() -> None:
    text = "f:\n\tpushq\t%rbx\n\tsubq\t$128, %rsp\ng:\n\tretq\n"
    assert frames(text) == {"f": 144, "g": 8}
    with pytest.raises(AssertionError):
        frames("f:\n\tsubq\t%rax, %rsp\n")
