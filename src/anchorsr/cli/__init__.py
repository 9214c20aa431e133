"""The command line: each command parses its options, calls public functions and prints.

The only package that prints. It may import every other package.
"""
