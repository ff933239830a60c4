"""Tensor IR to kernels in loop IR and a Plan."""
