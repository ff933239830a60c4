"""Text to tensor IR: grammar, syntax tree, names, shapes, diagnostics, lowering.

The way in is ``gradc.frontend.program``: ``load`` and ``loads`` give a ``Program``, which checks
and lowers.
"""
