"""The canonical form of a program, and the editor's grammar."""
