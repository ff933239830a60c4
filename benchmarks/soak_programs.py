"""Mutated programs through check and, where they are right, lowering and the compiler: diagnostics
and nothing else.

    python -m benchmarks.soak_programs --count 100000 --state FILE

Programs of the house and their parts with bytes, words and branches of their trees exchanged
(``tests.support.fuzz_programs``), and with lines that come from PyTorch, NumPy, JAX, Keras and
Python. Each is parsed and checked, and lowered where it is right; one in ``COMPILED`` of the right
ones with a model is compiled with its gradient and called twice. ``--state`` keeps what was found
and goes on from there. The counts say how many came how far.
"""

from __future__ import annotations

import random
import sys
from functools import partial
from typing import Any

import numpy as np

from benchmarks.soak_common import HANG, Tally, command, soak
from gradc.frontend.program import Program
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.model.model import Model
from tests.support.fuzz_programs import MUTATIONS, looked_at, text_of

COMPILED = 6

FOREIGN = """
import torch
import numpy as np
from jax import grad
class Net(nn.Module):
def forward(self, x):
self.fc1 = nn.Linear(4, 8)
x = torch.relu(x)
x = F.softmax(x, dim=1)
h = x.view(-1, 4)
h = x.unsqueeze(0).permute(0, 2, 1)
h = x.reshape((B, -1))
y = np.dot(x, w)
y = jnp.einsum("bij,bjk->bik", x, x)
y = x.sum(dim=-1, keepdim=True)
y = tf.keras.layers.Dense(8)(x)
loss.backward()
optimizer.step()
with torch.no_grad():
for i in range(10):
while True:
if x > 0:
h += x
h[0] = 1
print(x.shape)
assert x.shape == (3, 4)
try:
except ValueError:
return x, None
lambda x: x + 1
y = [i for i in range(3)]
y = {"a": x}
y = x if training else h
y = x[..., None, ::2]
y = x[:, -1:0:-1]
y = x ** 2 // 3 % 4
y = x @ w.T + b
y = not x
y = f"{x}"
y = 0x1F + 1_000 + 1j
global x
del x
async def f():
@jit
let mut y: f32 = 1.0;
int y = (int) x;
float y[4] = {0};
#include <math.h>
y := x
y <- x
∂L/∂w = ∇L
x → relu → y
""".strip().splitlines()


def foreign(rng: random.Random) -> bytes:
    """A program with lines of another language among its own."""
    lines = text_of(rng).splitlines()
    for _ in range(rng.randint(1, 3)):
        indent = " " * rng.choice((0, 4, 8))
        lines.insert(rng.randrange(len(lines) + 1), indent + rng.choice(FOREIGN))
    return "\n".join(lines).encode()


def compiled(program: Program, rng: random.Random, tally: Tally) -> str:
    """Whether a right program computes: the gradient of one of its models is compiled, called
    twice, and gives the same bits.
    """
    try:
        entry = rng.choice(program.models)
        free = program.signature(entry).dims
        model = Model(program, entry, {n: 3 for n, size in free.items() if size is None})
        function = model.lower().function
        if sum(int(np.prod(v.type.static_shape)) for v in function.block.parameters) > 1 << 20:
            return ""
        if len(function.block.body) > 300:
            return ""
        tally.kinds["compiled"] += 1
        call = model.value_and_grad(use_cache=False, threads=1)
        inputs: dict[str, Any] = {
            slot.name: np.zeros(value.type.static_shape, _numpy(str(value.type.dtype)))
            for slot, value in zip(function.parameters, function.block.parameters, strict=True)
            if slot.name in model.inputs
        }
        params = model.init(0)
        one, two = (call(params, **inputs) for _ in range(2))
        tally.kinds["called"] += 1
    except DiagnosticError:
        return ""
    same = all(np.array_equal(one[1][n], two[1][n], equal_nan=True) for n in one[1])
    return "" if same else f"two calls of `{entry}` differ"


def _numpy(name: str) -> type:
    kinds = {"f32": np.float32, "i32": np.int32, "bool": np.bool_, "i64": np.int64}
    return kinds.get(name, np.float64)


def case(rng: random.Random, tally: Tally) -> str:
    """One mutant."""
    mutate = rng.choice((*MUTATIONS, foreign))
    data = mutate(rng)
    tally.kinds[mutate.__name__] += 1
    wrong, program = looked_at(data, HANG)
    if not wrong and program is not None:
        tally.kinds["right"] += 1
        if program.models and rng.random() < 1 / COMPILED:
            wrong = compiled(program, rng, tally)
    return f"{wrong}\n{data.decode(errors='replace')}" if wrong else ""


if __name__ == "__main__":
    sys.exit(command(__doc__, 100_000, partial(soak, "programs", case)))
