"""Loop IR and Plan to code: LLVM for CPUs; programs to formulas: SymPy and notation."""
