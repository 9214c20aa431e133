"""Conversion of PyTorch networks to float graphs.

Imports `graph`, `networks` and the packages below them.
"""
