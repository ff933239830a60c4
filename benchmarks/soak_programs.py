"""Mutated programs through check, lowering and, where they are right, the compiler: diagnostics and
nothing else.

    python -m benchmarks.soak_programs --count 100000

Programs of the house with bytes, words and parts of their trees exchanged
(``tests.support.fuzz_programs``), and with lines that come from PyTorch, NumPy, JAX, Keras and
Python. One in five of those that are right is compiled with its gradient, called, and the result
looked at.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np

from benchmarks.soak_common import Tally, arguments, report, soak
from gradc.frontend.program import loads
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.model.model import Model
from tests.support.fuzz_programs import MUTATIONS, examine, seeds

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
    lines = rng.choice(seeds()).splitlines()
    for _ in range(rng.randint(1, 3)):
        indent = " " * rng.choice((0, 4, 8))
        lines.insert(rng.randrange(len(lines) + 1), indent + rng.choice(FOREIGN))
    return "\n".join(lines).encode()


def compiled(data: bytes) -> str:
    """Whether a right program computes: its gradient is compiled, called twice, and gives the same
    bits.
    """
    try:
        model = Model(loads(data.decode(), "mutant.grad"))
        sizes = {name: 3 for name, size in model.signature.dims.items() if size is None}
        function = model.lower(sizes).function
        if sum(int(np.prod(v.type.static_shape)) for v in function.block.parameters) > 1 << 20:
            return ""
        if len(function.block.body) > 300:
            return ""
        inputs: dict[str, Any] = {
            name: np.zeros(value.type.static_shape, _numpy(str(value.type.dtype)))
            for name, value in (
                (slot.name, v)
                for slot, v in zip(function.parameters, function.block.parameters, strict=True)
                if slot.name in model.inputs
            )
        }
        call = model.value_and_grad(use_cache=False, threads=1)
        params = model.init(0)
        one, two = (call(params, **inputs) for _ in range(2))
    except DiagnosticError:
        return ""
    same = all(np.array_equal(one[1][n], two[1][n], equal_nan=True) for n in one[1])
    return "" if same else f"two calls differ: {data!r}"


def _numpy(name: str) -> type:
    kinds = {"f32": np.float32, "i32": np.int32, "bool": np.bool_, "i64": np.int64}
    return kinds.get(name, np.float64)


def case(rng: random.Random, tally: Tally) -> str:
    """One mutant."""
    mutate = rng.choice((*MUTATIONS, foreign))
    data = mutate(rng)
    tally.kinds[mutate.__name__] += 1
    reason = examine(data)
    if reason:
        return f"{reason}\n{data.decode(errors='replace')}"
    if rng.random() < 1 / 5 and _is_right(data):
        tally.kinds["compiled"] += 1
        return compiled(data)
    return ""


def _is_right(data: bytes) -> bool:
    try:
        return bool(loads(data.decode(), "mutant.grad").models)
    except (DiagnosticError, UnicodeDecodeError):
        return False


def main() -> int:
    """Runs the soak."""
    options = arguments(__doc__ or "", 100_000)
    tally = soak("programs", case, options.count, options.seed, options.seconds)
    return report(tally, options.json)


if __name__ == "__main__":
    sys.exit(main())
