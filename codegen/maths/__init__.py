"""Scalar verbs and vector mathematics, stated once for every backend."""
