"""Choose the model for an image by its damage: `photo` for damaged images, `quality` for others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.images.image import RasterImage, eight_bits
from anchorsr.inference.estimate import Estimate, estimate_damage
from anchorsr.inference.raster import fill_transparent
from anchorsr.models.registry import (
    AUTO_MODEL,
    CONDITIONED,
    DEFAULT,
    DEFAULT_FACTOR,
    VIDEO,
    list_models,
)

# Below these, `quality` is better: about JPEG quality 96 and WebP quality 92.
_LEAST_JPEG, _LEAST_WEBP = 0.09, 0.08


@dataclass(frozen=True)
class Selection:
    """The model that was taken for an image, and why.

    Attributes:
        model: Its name without the factor, or its file.
        strengths: The strengths it was given.
        why: One line; empty where a person named the model.
    """

    model: str | Path
    strengths: Strengths = CLEAN
    why: str = ""

    def describe(self) -> str:
        """Return one line: the model, its strengths, and why."""
        strengths = self.strengths.describe()
        given = f", {strengths}" if strengths else ""
        return f"model {self.model}{given}{f': {self.why}' if self.why else ''}"

    def as_row(self) -> dict[str, object]:
        """Return what `--json` shows."""
        return {
            "model": str(self.model),
            "strengths": self.strengths.in_units(),
            "why": self.why,
        }


def select_model(image: RasterImage) -> Selection:
    """Choose the model and the strengths for an image, which they are measured on."""
    rgb = image.rgb if image.alpha is None else fill_transparent(image.rgb, image.alpha)
    return _select(estimate_damage(eight_bits(rgb), image.coding))


def select_film_model(estimate: Estimate, factor: int) -> Selection:
    """Choose the model for a film: `video`, or as for an image where that has no such factor.

    Args:
        estimate: How the film is damaged.
        factor: The super-resolution factor.
    """
    if film_model(factor) == VIDEO:
        return Selection(VIDEO, estimate.strengths, estimate.why)
    return _select(estimate)


def film_model(factor: int | None) -> str:
    """Return the name of the model for films that takes strengths, by default for ×3."""
    factors = [model.factor for model in list_models() if model.name == VIDEO]
    return VIDEO if (factor or DEFAULT_FACTOR) in factors else CONDITIONED


def resolve_model(model: str | Path, strengths: Strengths) -> str | Path:
    """Return the model that `auto` stands for: before an image is seen, or with given strengths."""
    if model != AUTO_MODEL:
        return model
    return DEFAULT if strengths == CLEAN else CONDITIONED


def _select(estimate: Estimate) -> Selection:
    if _is_clean(estimate.strengths):
        return Selection(DEFAULT, CLEAN, f"clean ({estimate.why})")
    return Selection(CONDITIONED, estimate.strengths, estimate.why)


def _is_clean(strengths: Strengths) -> bool:
    slight = {"jpeg": _LEAST_JPEG, "webp": _LEAST_WEBP}
    return all(value < slight.get(name, 0) for name, value in strengths.as_table().items())
