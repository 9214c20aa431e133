"""Graphs as files: `.tflite` (read and written) and `.onnx` (written).

Imports `errors`, `utils` and `graph`.
"""
