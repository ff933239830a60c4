"""Scalar verbs and vector mathematics in LLVM IR."""
