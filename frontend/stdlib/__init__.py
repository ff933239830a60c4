"""The standard library of the language: layers, losses, initialisers, optimisers and schedules as
programs.
"""
