"""Models, their checks, binding of dimensions, initial values and optimisers: all of them need the
words.
"""

import gradc.frontend.words  # noqa: F401  (fills the table of words)
