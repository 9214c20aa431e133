"""Training and test data: image pairs, bicubic resizing, downloads, synthetic and blurred images.

Imports `errors`, `utils` and `images`.
"""
