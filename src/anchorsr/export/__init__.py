"""Model files for devices, written and verified.

Imports `evaluation` and `quantization`, and what they import.
"""
