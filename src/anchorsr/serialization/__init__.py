"""File formats of graphs: `.tflite` (read and written) and `.onnx` (written).

Imports `arrays`, `errors` and `graph`.
"""
