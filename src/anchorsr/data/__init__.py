"""Training and test data: image pairs, the bicubic that makes them, downloads, synthetic images.

Imports `errors`, `utils` and `images`.
"""
