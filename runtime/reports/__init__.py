"""What is said of a model: verification, diagnosis, memory, the whiteboard."""
