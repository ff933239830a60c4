"""Domains of numbers that programs are interpreted over: arrays, bf16, dual numbers, straight-line
scalars.
"""
