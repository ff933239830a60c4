"""Native CPU code through llvmlite."""
