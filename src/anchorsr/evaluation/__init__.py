"""How good a method is: scores on test sets, and a page that compares two images.

Imports `inference` and `training`, and what they import.
"""
