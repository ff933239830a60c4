"""Importing this module fills the tables of traceable functions, family by family."""

from gradc.runtime.tracing import (
    compose,
    creation,
    functions,
    grids,
    indexing,
    linalg,
    ordering,
    products,
    protocols,
    reductions,
    shapes,
    statistics,
    ufuncs,
)

__all__ = [
    "compose",
    "creation",
    "functions",
    "grids",
    "indexing",
    "linalg",
    "ordering",
    "products",
    "protocols",
    "reductions",
    "shapes",
    "statistics",
    "ufuncs",
]
