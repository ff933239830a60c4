"""NumPy functions as programs: a function is run once on arrays without numbers, which record what
is done to them.
"""
