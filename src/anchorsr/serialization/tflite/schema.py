"""What the writer and the reader of `.tflite` files both need to know of the format."""

from importlib import import_module
from types import ModuleType

SIGNATURE = "serving_default"
INPUT_NAME = "images"
OUTPUT_NAME = "upscaled"

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3


def schema_module() -> ModuleType:
    """The generated module of the `.tflite` schema, imported when it is first wanted."""
    return import_module("ai_edge_litert.schema_py_generated")
