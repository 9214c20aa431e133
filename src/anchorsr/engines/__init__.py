"""The runtimes that execute a model file, and the choice between them.

Imports `graph` and `serialization`, and what they import.
"""
