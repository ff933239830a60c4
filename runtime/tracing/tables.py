"""Importing this module fills the tables of traceable functions, family by family."""

from gradc.runtime.tracing import functions, products, reductions

__all__ = ["functions", "products", "reductions"]
