"""Smaller programs with the same meaning: rules, folding, CSE, DCE, views."""
