"""Whether the gradient is the gradient: the ladder of proofs and its report."""
