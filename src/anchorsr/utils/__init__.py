"""Files, locks, JSON, the per-user cache and strict configuration: what every package may use.

Imports only `anchorsr.errors`.
"""
