"""Our own engine: one small kernel in C for networks of this project's kind, exact by construction.

`packing` brings a graph into the kernel's form, `library` calls it, `engine` makes an engine of it.
`docs/kernel.md` explains the C files. Imports `graph` and `serialization`, and what they import.
"""
