"""Programs as SymPy expressions, and SymPy as an independent differentiator."""
