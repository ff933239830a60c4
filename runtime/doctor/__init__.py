"""The doctor: why a training fails, by measuring and by training beside it with one change."""
