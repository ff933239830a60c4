"""What users run: models, compiled functions, command line, cache, training, reports."""
