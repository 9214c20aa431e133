"""What is done with models: list, measure, export."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from anchorsr.commands.options import (
    AsJson,
    Engine,
    Factor,
    Force,
    OptionalFactor,
    Threads,
    parse_size,
    print_scores,
)
from anchorsr.engines import ENGINES
