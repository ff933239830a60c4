"""Three kernel texts as people read them: a row kernel with its folds, a product by tiles, an
optimiser's step on four neighbours a thread. The simulator runs what is shown.
"""

from __future__ import annotations

import pytest

from gradc.codegen.cuda.printer.plans import print_plan
from gradc.codegen.cuda.program import Program
from tests.cuda.test_products import outcome
from tests.cuda.test_products import plan_of as product_plan
from tests.support.cuda_programs import TARGET, differing, plan_of
from tests.support.golden_files import check_golden
from tests.support.memory_subjects import subject


def kernel(program: Program, name: str) -> str:
    """The text of a kernel without the functions that it calls."""
    (text,) = (t for t in program.texts if t.name == name)
    return text.source[text.source.index(f"def {name}(") :]


def test_a_row_kernel(pytestconfig: pytest.Config) -> None:
    one = subject("examples/worked/w11.grad normalised gradient")
    plan = plan_of(one)
    program = print_plan(plan, TARGET)
    check_golden("cuda/rows.txt", kernel(program, "k0_rows"), pytestconfig)
    assert not differing(one, program, plan)


def test_a_product_by_tiles(pytestconfig: pytest.Config) -> None:
    plan = product_plan(20, 32, 16, False, True)
    program = print_plan(plan, TARGET)
    check_golden("cuda/product.txt", kernel(program, "product"), pytestconfig)
    assert outcome(plan, program)


def test_a_step_of_an_optimiser(pytestconfig: pytest.Config) -> None:
    one = subject("examples/digits/mlp.grad mlp step")
    plan = plan_of(one)
    program = print_plan(plan, TARGET)
    found = [t.name for t in program.texts if "four neighbours" in t.source]
    check_golden("cuda/step.txt", kernel(program, found[-1]), pytestconfig)
    assert not differing(one, program, plan)
