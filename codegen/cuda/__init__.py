"""CUDA kernels as Numba source text."""
