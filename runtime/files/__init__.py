"""Programs, data and weights read from files; minibatches of them."""
