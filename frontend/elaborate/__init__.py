"""Syntax tree to tensor IR: names, shapes, calls, loops, regions; one elaborator checks and
lowers.
"""
