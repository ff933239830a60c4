"""The words of the language, a module per family. Importing this package fills the table of
words.
"""

from gradc.frontend.words import einsum, elementwise, network, order, reduce, shape, windows

__all__ = ["einsum", "elementwise", "network", "order", "reduce", "shape", "windows"]
