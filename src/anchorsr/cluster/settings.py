"""Everything that a worker has to know beside the images."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anchorsr.cluster.addresses import Address
from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.engines.selection import AUTO
from anchorsr.inference.image_upscaler import ImageUpscaler
from anchorsr.inference.pipeline import FileOptions
from anchorsr.inference.sizes import TargetSize
from anchorsr.models.registry import AUTO_MODEL


@dataclass(frozen=True)
class Settings:
    """The options of `upscale`, and where images and results are.

    Attributes:
        source: The folder, list or table.
        target: The folder of the results.
        suffix: The suffix of all results, with its dot; None for that of each image.
        files: How files are read and written.
        threads: The threads of each worker.
        model: As for `ImageUpscaler`, and so are the others.
    """

    source: Address
    target: Address
    suffix: str | None = None
    files: FileOptions = field(default_factory=FileOptions)
    threads: int = 1
    model: str = AUTO_MODEL
    factor: int | None = None
    size: TargetSize = field(default_factory=TargetSize)
    strengths: Strengths = CLEAN
    engine: str = AUTO
    wraps: bool = False

    def upscaler(self) -> ImageUpscaler:
        """Load the model.

        Raises:
            ModelError: As `ImageUpscaler` does.
        """
        return ImageUpscaler(
            self.model,
            self.factor,
            self.size,
            threads=self.threads,
            engine=self.engine,
            strengths=self.strengths,
            wraps=self.wraps,
        )

    def of_results(self) -> dict[str, Any]:
        """Return the options that change results, as a table for JSON.

        A model file is named by its digest, since another one can have its place later.
        """
        model = self.model
        if Path(model).is_file():
            model = f"{Path(model).name} {hashlib.sha256(Path(model).read_bytes()).hexdigest()}"
        return {
            "model": model,
            "factor": self.factor,
            "size": dataclasses.asdict(self.size),
            "strengths": self.strengths.describe(),
            "wrap": self.wraps,
            "format": self.suffix,
            "quality": self.files.quality,
            "lossless": self.files.lossless,
        }
