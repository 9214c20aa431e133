"""The float training loop: a recipe in, weights and a record out.

Imports `data`, `networks` and `models`, and what they import.
"""
