"""Videos upscaled, file to file, with sound, subtitles, chapters and timestamps kept.

Imports `inference`, and what it imports.
"""
