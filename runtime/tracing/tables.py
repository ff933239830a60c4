"""Importing this module fills the tables of traceable functions, family by family."""

from gradc.runtime.tracing import (
    complex_functions,
    complexes,
    compose,
    creation,
    fourier,
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
    "complex_functions",
    "complexes",
    "compose",
    "creation",
    "fourier",
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
