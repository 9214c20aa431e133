"""Images and folders of images upscaled by a model.

Imports `images`, `engines` and `models`, and what they import.
"""
