"""The shipped model files with their cards; `registry` finds them.

Imports `graph` and `serialization`, and what they import.
"""
