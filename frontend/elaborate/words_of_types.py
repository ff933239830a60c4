"""Types in messages as users write them: `float[B, D]`, not the type that it stands for at the
precision at hand.

Non-goals: types in dumps of the IR, where the very type is what matters.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from gradc.ir.diagnostics.diagnostic import Diagnostic
from gradc.ir.tensor.core import DType


@lru_cache(maxsize=8)
def _words(floating: DType, text: str) -> dict[str, str]:
    """What is said for which type: one search of a text that may have thousands of errors."""
    spoken = {str(floating): "float", str(DType.I32): "int"}
    return {a: b for a, b in spoken.items() if not re.search(rf"\b{a}\b", text)}


def in_users_words(diagnostic: Diagnostic, floating: DType, text: str) -> Diagnostic:
    """``diagnostic`` with `float` and `int` for the types that they are, unless the program names
    those itself.
    """
    words = _words(floating, text)
    if not words:
        return diagnostic
    pattern = re.compile(rf"\b({'|'.join(words)})\b")

    def said(text: str) -> str:
        return pattern.sub(lambda found: words[found[0]], text).replace("float[]", "float")

    return replace(
        diagnostic,
        message=said(diagnostic.message),
        label=said(diagnostic.label),
        labels=tuple(replace(label, text=said(label.text)) for label in diagnostic.labels),
        help=said(diagnostic.help),
        notes=tuple(said(note) for note in diagnostic.notes),
    )
