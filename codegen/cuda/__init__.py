"""Kernels for graphics processors: texts, their simulator, their toolchain."""
