"""The intermediate representation (IR) and its exact reference execution.

A graph holds operators over tensors with channels, number type and quantization; `executor`
computes what "exact" means. Imports only `anchorsr.errors`.
"""
