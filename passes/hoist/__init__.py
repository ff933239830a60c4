"""What a loop computes in every trip and need not."""
