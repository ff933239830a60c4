"""The index algebra: what elements of results are, as sums of products, for every shape."""
