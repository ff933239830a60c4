"""Matrix products: blocking, packing, register tiles."""
