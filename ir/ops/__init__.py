"""Op definitions: one op, one place, one meaning. Importing this package fills the registry."""

# The verbs come first: the order of definition is that of all tables of ops.
from gradc.ir.ops import elementwise

# isort: split
from gradc.ir.ops import (
    activation,
    collective,
    contraction,
    control,
    convolution,
    factor,
    fourier,
    indexing,
    ordering,
    pooling,
    randomness,
    reduction,
    sources,
    special,
    spectral,
    structural,
    touched,
)

__all__ = [
    "activation",
    "collective",
    "contraction",
    "control",
    "convolution",
    "elementwise",
    "factor",
    "fourier",
    "indexing",
    "ordering",
    "pooling",
    "randomness",
    "reduction",
    "sources",
    "special",
    "spectral",
    "structural",
    "touched",
]
