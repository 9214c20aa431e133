"""The command line. Each command parses its options, calls public functions and prints.

The only package that prints.
"""
