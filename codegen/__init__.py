"""Loop IR and Plan to code: LLVM for CPUs, Numba text for CUDA, SymPy for formulas."""
