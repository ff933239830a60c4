"""The public names of other libraries, for `frontend/foreign_names.txt`: none of them is a slip of
the pen.

    python -m tests.support.foreign_names        # needs torch, jax and scipy; writes the file

What gradc has under the same name (but for case), or answers in `frontend/syntax/foreign.py`, is
left out.
"""

from __future__ import annotations

import builtins
from importlib import import_module
from pathlib import Path

from gradc.frontend.elaborate.words import WORDS
from gradc.frontend.program import loads
from gradc.frontend.syntax.foreign import FOREIGN

FILE = Path(__file__).resolve().parent.parent.parent / "frontend" / "foreign_names.txt"
MODULES = (
    "numpy", "numpy.linalg", "numpy.random", "numpy.fft", "scipy.special", "scipy.linalg",
    "scipy.signal", "scipy.stats", "torch", "torch.Tensor", "torch.nn", "torch.nn.functional",
    "torch.linalg", "torch.special", "torch.optim", "torch.autograd", "torch.fft", "jax",
    "jax.numpy", "jax.nn", "jax.lax", "jax.random", "jax.scipy.special",
)  # fmt: skip
# Of Keras, TensorFlow and Flax, which are not asked: what is not called so anywhere else.
OTHERS = """
Activation Adam Adamax Bidirectional Conv1DTranspose Conv2DTranspose Conv3D Cropping2D
DepthwiseConv2D GaussianNoise GlobalAveragePooling1D GlobalMaxPooling1D Lambda Masking Nadam
Permute RMSprop RepeatVector Reshape SGD SeparableConv2D Sequential SpatialDropout2D TimeDistributed
UpSampling2D ZeroPadding2D assign categorical constant_initializer fit gather_nd global_norm
glorot_uniform he_uniform kl_divergence lecun_normal one_hot_encode reduce_all reduce_any
reduce_logsumexp reduce_max reduce_min reduce_prod reduce_std reduce_variance scatter_nd
sigmoid_cross_entropy sparse_softmax truncated_normal
"""
# Words of the language, types and constants have answers of their own.
OWN = {"False", "None", "True", "bool", "checkpoint", "dim", "float", "inf", "int", "nan", "pi"}
OWN |= {"scan", "truncate"}
LONGEST = 24


def attributes(path: str) -> list[str]:
    """The public names of a module or a class."""
    try:
        found = import_module(path)
    except ImportError:
        outer, _, inner = path.rpartition(".")
        found = getattr(import_module(outer), inner)
    return dir(found)


def names() -> list[str]:
    """All of them, in order."""
    known = {
        *OWN,
        *WORDS,
        *FOREIGN,
        *loads("model m(x: float) -> float { return x }").names.callable_names(),
    }
    folded = {name.lower() for name in known}
    found = {name for module in MODULES for name in attributes(module)}
    found |= {*dir(builtins), *OTHERS.split()}
    return sorted(
        name
        for name in found
        if name.isascii()
        and len(name) <= LONGEST
        # An underscore at the end is PyTorch's mark of what is done in place.
        and not name.startswith("_")
        and not name.endswith("_")
        and not name.endswith(("Error", "Warning", "Exception"))
        and name.lower() not in folded
    )


if __name__ == "__main__":
    FILE.write_text("\n".join(names()) + "\n", encoding="utf-8")
