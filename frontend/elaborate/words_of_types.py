"""Types in messages as users write them: `float[B, D]`, not the type that it stands for at the
precision at hand.

Non-goals: types in dumps of the IR, where the very type is what matters.
"""

from __future__ import annotations

import re
from dataclasses import replace

from gradc.ir.diagnostics.diagnostic import Diagnostic
from gradc.ir.tensor.core import DType


def in_users_words(diagnostic: Diagnostic, floating: DType, text: str) -> Diagnostic:
    """``diagnostic`` with `float` and `int` for the types that they are, unless the program names
    those itself.
    """
    spoken = {str(floating): "float", str(DType.I32): "int"}
    words = {a: b for a, b in spoken.items() if not re.search(rf"\b{a}\b", text)}
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
