"""How fast a model runs.

Imports `evaluation` and `inference`, and what they import.
"""
