"""The tensor IR: types, values, ops, blocks, functions; dimensions, the scalar algebra, text form,
equality.
"""
