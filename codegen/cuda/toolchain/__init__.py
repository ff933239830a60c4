"""What makes machine code of kernel texts: Numba, NVVM, nvJitLink, and what reads their work."""
