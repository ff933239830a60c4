"""Timing, side by side with other frameworks."""
