"""Constants of the `.tflite` format, and its generated schema."""

from importlib import import_module
from types import ModuleType

SIGNATURE = "serving_default"
INPUT_NAME = "images"
OUTPUT_NAME = "upscaled"

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3


def schema_module() -> ModuleType:
    """Import the generated module of the `.tflite` schema on first use."""
    return import_module("ai_edge_litert.schema_py_generated")
