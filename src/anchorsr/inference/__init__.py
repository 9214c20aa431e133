"""Upscale images and folders of images with a model.

Imports `images`, `engines` and `models`, and what they import.
"""
