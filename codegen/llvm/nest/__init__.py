"""Loop nests as explicit vectors."""
