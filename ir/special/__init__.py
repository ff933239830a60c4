"""Special functions as compositions of verbs, with their coefficients and errors."""
