"""Text to tensor IR: grammar, syntax tree, names, shapes, diagnostics, lowering."""
