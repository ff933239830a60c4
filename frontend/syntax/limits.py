"""How large a program may be. Beyond a limit the answer is a diagnostic with its own code, never a
crash.

The figures leave an ample margin over real programs (a GPT of a hundred layers is 2 kB of text) and
keep the time and memory of checking hostile text bounded."""

from typing import Final

MAX_FILE_BYTES: Final = 1 << 20
MAX_TOKENS: Final = 200_000
# Brackets of all kinds, and blocks, that are open at once.
MAX_NESTING: Final = 200
MAX_BLOCKS: Final = 64
MAX_NUMBER_LENGTH: Final = 400
MAX_INTEGER: Final = 2**63 - 1
MAX_NAME_LENGTH: Final = 255
MAX_IMPORT_DEPTH: Final = 16
MAX_IMPORTED_FILES: Final = 256
# Nodes from the root of a syntax tree to a leaf: a level of brackets takes two of them, or four.
MAX_TREE_DEPTH: Final = 400
