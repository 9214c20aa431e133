"""Image files to arrays and back, with the metadata that stays true.

Imports `errors` and `utils`.
"""
