"""The shipped model files with their cards, and `registry`, which finds them.

Imports `graph` and `serialization`, and what they import.
"""
