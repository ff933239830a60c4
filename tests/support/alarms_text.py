"""Right programs of the kinds that raised false alarms once, in the language. ``python -m
tests.support.alarms_text FIRST LAST [--state FILE]``.

Each draws from: exp of gathered parameters beside inner reductions, values read whole and in
another shape, row sums of different lengths, carries that no trip changes, masks with -inf whose
class labels may meet, derived dimensions. The whole of `gradc verify` is asked, but for SymPy;
nothing may be refuted or undecided.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

from gradc.passes.prove.report import Verdict
from gradc.runtime.api import loads
from tests.support.counted import alarm_count


def _gathered(pick: random.Random) -> str:
    by = pick.choice(("exp(w[a])", "w[a]", "exp(w[a]) * w[a]", "tanh(w[a])"))
    inner = pick.choice(("sum(q, axis = 1)", "mean(q^2, axis = 1)", "max(q, axis = 1)"))
    return f"{pick.choice(('mean', 'sum'))}({by} * {inner})"


def _whole(pick: random.Random) -> str:
    value = pick.choice(
        ("mean(exp(q * g), axis = 0)", "logsumexp(q * g, axis = 0)", "sum(q * g, axis = 0)")
    )
    other = pick.choice((f"sum(reshape({value}, [K, 1])^2)", f"sum(reshape({value}, [1, K]) * g)"))
    return f"sum({value}) + {other}"


def _rows(pick: random.Random) -> str:
    inner = pick.choice(("", "tanh"))
    return f"sum({inner}(sum(v, axis = 1)) + sum(q, axis = 1))"


def _carried(pick: random.Random) -> str:
    return pick.choice(
        ("sum(looped(q, g))", "sum(looped(q, g)^2)", "mean(looped(tanh(q), exp(g)))")
    )


def _masked(pick: random.Random) -> str:
    where = pick.choice(("iota(K) == 0", "iota(K) >= K - 1"))
    return f"mean(cross_entropy(where({where}, -inf, q * g), y))"


def _derived(pick: random.Random) -> str:
    axis = pick.choice((1, 2))
    return f"sum(tanh(sum(reshape(x * u, [B, N, P]), axis = {axis})))"


PARTS: tuple[Callable[[random.Random], str], ...] = (
    _gathered, _whole, _rows, _carried, _masked, _derived,
)  # fmt: skip


def text_of(seed: int) -> str:
    """Program number ``seed``."""
    pick = random.Random(seed)
    parts = [make(pick) for make in pick.sample(PARTS, pick.choice((1, 2, 3)))]
    sizes = (
        f"dim B = {pick.choice((1, 2, 3))}, K = {pick.choice((2, 3, 5))}, N = 2, P = 3, D = N * P"
    )
    return f"""{sizes}
fn looped(q: float[B, K], g: float[K]) -> float[B, K] {{
  v = scan a in q carry e = g, h = g {{ yield a * e + h
    h = tanh(h * a) }}
  return v }}
model m(q: float[B, K], x: float[B, D], a: int[B], y: int[B]) -> float {{
  param w: float[4] ~ normal(1)
  param g: float[K] ~ normal(1)
  param v: float[B, 5] ~ normal(1)
  param u: float[D] ~ ones
  return {" + ".join(parts)} + 0.0 * sum(w) * sum(g) * sum(v) * sum(u) }}
"""


def verified(seed: int) -> list[Verdict]:
    """All verdicts on program number ``seed``."""
    return loads(text_of(seed)).verify(sympy=0).verdicts


if __name__ == "__main__":
    sys.exit(alarm_count(__doc__, verified))
