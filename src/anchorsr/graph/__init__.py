"""The intermediate representation (IR) and its exact reference execution.

A graph holds operators over tensors with channels, data type and quantization. `executor` defines
what "exact" means. Imports `arrays` and `errors`.
"""
