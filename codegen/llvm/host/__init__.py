"""Machine code on this host: loading, the call wrapper, artifacts and headers."""
