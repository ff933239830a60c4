"""Text to syntax tree: grammar tables, lexer, parser, tree, printing, limits, syntax errors."""
