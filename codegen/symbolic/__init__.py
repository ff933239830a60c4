"""Programs as SymPy expressions and printed formulas."""
