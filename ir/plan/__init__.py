"""The Plan: a program as data, its text form, and its execution with NumPy."""
