"""The loop IR: kernels as loop nests over buffers, their builder, text form, verifier and reference
meaning.
"""
