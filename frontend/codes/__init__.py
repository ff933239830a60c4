"""The codes of the front end's diagnostics, with their long explanations and examples."""
