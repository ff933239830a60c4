"""Whole programs: passes, kernels, gradients, bisection."""
