"""Gradients as formulas in index and matrix notation."""
