"""What a program is compiled for, as a value."""
