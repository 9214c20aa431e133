"""Super-resolution networks in PyTorch, one readable file per paper.

`registry` lists the names that recipes use. A new network is a file here and a line there. Imports
`errors`, `graph` and `utils`.
"""
