"""Theorems for every shape, in an algebra of indices."""
