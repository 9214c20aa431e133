"""The paper's questions: what operators, networks and output stages cost, and what they give.

Imports everything but the command line.
"""
