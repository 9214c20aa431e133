"""Image files to arrays and back, with their metadata kept valid.

Imports `errors` and `utils`.
"""
