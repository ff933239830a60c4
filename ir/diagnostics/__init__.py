"""Source text, diagnostics, and how they are shown."""
