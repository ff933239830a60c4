"""Op definitions: one op, one place, one meaning. Importing this package fills the registry."""

from gradc.ir.ops import (
    activation,
    contraction,
    control,
    convolution,
    elementwise,
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
)

__all__ = [
    "activation",
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
]
