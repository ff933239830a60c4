"""Diagnostics as the front end uses them: the data lives in ``ir.diagnostics``, shared by every
layer.
"""

from gradc.ir.diagnostics.diagnostic import (
    MAX_DIAGNOSTICS,
    Diagnostic,
    DiagnosticError,
    Label,
    Report,
    Severity,
    closest,
    did_you_mean,
    error,
    in_text_order,
    warning,
)

__all__ = [
    "MAX_DIAGNOSTICS",
    "Diagnostic",
    "DiagnosticError",
    "Label",
    "Report",
    "Severity",
    "closest",
    "did_you_mean",
    "error",
    "in_text_order",
    "warning",
]
