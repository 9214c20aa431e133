"""PyTorch networks to graphs.

Imports `graph` and `networks`, and what they import.
"""
