"""The domains of numbers that proofs evaluate programs in."""
