"""The tensor IR, the loop IR, the Plan, and the op registry. Imports only the standard library and
NumPy.
"""
