"""Importing this module fills the tables of traceable functions, family by family."""

from gradc.runtime.tracing import (
    compose,
    functions,
    grids,
    linalg,
    ordering,
    products,
    reductions,
    shapes,
    statistics,
    ufuncs,
)

__all__ = [
    "compose",
    "functions",
    "grids",
    "linalg",
    "ordering",
    "products",
    "reductions",
    "shapes",
    "statistics",
    "ufuncs",
]
