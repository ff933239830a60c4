"""Kernel texts run by lockstep lanes over NumPy, with the checks that processors lack."""
