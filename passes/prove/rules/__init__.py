"""Derivative rules and pullbacks: composition, verdicts, refutation."""
