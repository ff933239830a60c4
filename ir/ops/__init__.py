"""Op definitions: one op, one place, one meaning."""
