"""Where a gradient can become NaN or infinite."""
