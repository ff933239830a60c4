"""Models and what is compiled from them."""
