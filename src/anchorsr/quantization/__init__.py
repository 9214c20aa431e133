"""Float graphs to integer graphs: post-training quantization and quantization-aware training.

Imports `training` and `lowering`, and what they import.
"""
