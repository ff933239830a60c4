"""Loss and gradient to a training step: accumulation, precision, probes."""
