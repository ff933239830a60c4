"""The tensor IR: types, values, ops, blocks, functions, their text form and meaning."""
