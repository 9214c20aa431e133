"""Super-resolution networks in PyTorch, one readable file a paper.

`registry` is the table that recipes name them by. Imports `errors` and `utils`.
"""
