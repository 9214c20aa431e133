"""Shared helpers: atomic files, locks, JSON, the per-user cache, strict configuration.

Imports only `anchorsr.errors`.
"""
