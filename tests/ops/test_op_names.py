"""Where ops are named outside ``ir/ops``: nowhere in tables, and one by one only where a file is
about those ops.

What asks for a property asks the op (``ir/ops/traits.py``, ``ir/ops/registry.py``: ``is_loop``,
``is_product``, ``number_of``, ...). ``python -m tests.support.op_tables --names`` shows all places.
"""

from __future__ import annotations

from collections import Counter

from tests.support.op_tables import VERBS, comparisons, tables

# Files that ask for single ops by name, how often, and why no property of an op would say it.
NAMED = {
    "codegen/symbolic/formulas/expand.py": (
        2,
        "iota: an index of a formula is what it makes; reshape: regrouped names keep their name",
    ),
    "codegen/symbolic/formulas/fold.py": (1, "sigmoid: recognises the word people write"),
    "codegen/symbolic/formulas/verbs.py": (1, "softplus: exponentials of it are taken apart"),
    "ir/domains/index_uses.py": (2, "the three ops of the word one_hot, recognised together"),
    "passes/differentiate/reverse.py": (1, "slice: its pullback is added into a larger sum"),
    "passes/differentiate/window.py": (1, "slice: of a stacked carry"),
    "passes/hazards/places.py": (1, "reshape: how indices go through it"),
    "passes/hazards/relations.py": (1, "reduce_max: the pattern x - max(x)"),
    "passes/hoist/repeats.py": (2, "slice: where it begins may differ from trip to trip"),
    "passes/lower/gemm.py": (1, "reshape: the operand of a product is read through it"),
    "passes/lower/group.py": (3, "fusion: the op that the pass before makes"),
    "passes/lower/plan.py": (2, "fusion, as above; reshape: the one view that needs no kernel"),
    "passes/prove/domains/point.py": (3, "ops whose integers must stay below a size"),
    "passes/prove/rules/refute_rule.py": (1, "max_pool: windows in order of their maxima"),
    "passes/prove/rules/rules.py": (2, "ops whose integers must stay below a size"),
    "passes/recompute/reach.py": (1, "iota: positions are what it makes"),
    "passes/simplify/fold.py": (2, "concat, pad: of one number they are that number, or zero"),
    "runtime/doctor/roles.py": (1, "take: looks rows up, as embeddings do"),
}
# Files that recognise arithmetic (x^2 + y^2, 1 - c^2, log of exp, a guard) or interpret verbs.
ARITHMETIC = {
    "codegen/symbolic/formulas/",
    "passes/hazards/",
    "passes/hoist/sums.py",
    "passes/recompute/reach.py",
    "passes/simplify/late_division.py",
    "passes/simplify/running_sums.py",
    "passes/training/precision.py",
    "runtime/doctor/attention.py",
    "runtime/doctor/roles.py",
    "runtime/reports/",
}
MOST_ARITHMETIC = 81


def test_no_file_keeps_a_table_of_op_names() -> None:
    found = [t for t in tables() if not t.is_of_verbs]
    assert not found, "state what is known of these ops at the ops"


def test_ops_are_named_only_where_a_file_is_about_them() -> None:
    single = Counter(file for file, _, op in comparisons() if op not in VERBS)
    assert single == {file: count for file, (count, _) in NAMED.items()}, (
        "ask the op for a property, or say in NAMED why its name is meant"
    )


def test_verbs_are_named_where_arithmetic_is_recognised() -> None:
    found = [file for file, _, op in comparisons() if op in VERBS]
    assert not [f for f in found if not f.startswith(tuple(ARITHMETIC))]
    assert len(found) <= MOST_ARITHMETIC
