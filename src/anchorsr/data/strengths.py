"""Strengths of degradation, as numbers that a conditioned network takes.

Each strength is 0 for none and about 1 for the strongest in use: JPEG quality 10, noise of sigma
30, CRF 40. Most are logarithmic, so that equal steps look equally large.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anchorsr.errors import DataError, unknown_choice

_WORST_STEP = 5.0  # of JPEG quality 10, relative to the tables of the standard's annex K
_WORST_SIGMA = 30.0
_LEAST_CRF, _WORST_CRF = 10.0, 40.0


@dataclass(frozen=True)
class Strengths:
    """The degradation of one image.

    Attributes:
        jpeg: The last JPEG compression, by `jpeg_strength`.
        earlier: A JPEG compression before that one, by `jpeg_strength`.
        webp: Lossy WebP, by `webp_strength`.
        video: H.264 and similar codecs, by `video_strength`.
        noise: Noise that is independent between pixels, by `noise_strength`.
        grain: Noise that was blurred afterwards, by its `noise_strength` before the blur.
        blur: Standard deviation of all blur beyond that of bicubic reduction, in LR pixels.
    """

    jpeg: float = 0.0
    earlier: float = 0.0
    webp: float = 0.0
    video: float = 0.0
    noise: float = 0.0
    grain: float = 0.0
    blur: float = 0.0

    def as_table(self) -> dict[str, float]:
        """Return the strengths that are not zero, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}

    def in_units(self) -> dict[str, float]:
        """Return the strengths that are not zero, by name, in the units of `parse_strengths`."""
        return {name: round(_INVERSES[name](value), 2) for name, value in self.as_table().items()}

    def describe(self) -> str:
        """Return what `parse_strengths` reads; empty without any."""
        return ",".join(f"{name}={value:g}" for name, value in self.in_units().items())

    def select(self, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the strengths of these names, (len(names),) float32."""
        return np.array([getattr(self, name) for name in names], np.float32)

    def only(self, names: Sequence[str]) -> Strengths:
        """Return the strengths of these names; the others are zero."""
        return Strengths(**{name: getattr(self, name) for name in names})


CLEAN = Strengths()
STRENGTHS = tuple(field.name for field in dataclasses.fields(Strengths))


def jpeg_strength(quality: int) -> float:
    """Return the strength of a libjpeg quality, 1 to 100."""
    step = 50 / quality if quality < 50 else 2 - quality / 50
    return math.log2(1 + 4 * step) / math.log2(1 + 4 * _WORST_STEP)


def jpeg_quality(strength: float) -> int:
    """Return the nearest JPEG quality, 1 to 100, that has this strength."""
    step = float(((1 + 4 * _WORST_STEP) ** strength - 1) / 4)
    return max(1, min(100, round(50 / step if step > 1 else 50 * (2 - step))))


def noise_strength(sigma: float) -> float:
    """Return the strength of noise of a standard deviation in levels (of 255).

    The noise is independent between the channels. Noise that is the same in all of them counts as
    `GREY_NOISE` times stronger, as it is in luma.
    """
    return math.log2(1 + sigma / 2) / math.log2(1 + _WORST_SIGMA / 2)


def noise_sigma(strength: float) -> float:
    """Return the standard deviation, in levels (of 255), of noise of this strength."""
    return float(2 * ((1 + _WORST_SIGMA / 2) ** strength - 1))


def webp_strength(quality: int) -> float:
    """Return the strength of a lossy WebP quality, 0 to 100."""
    return 1 - quality / 100


def video_strength(crf: float) -> float:
    """Return the strength of an x264 constant rate factor, to which other codecs are mapped."""
    return min(max((crf - _LEAST_CRF) / (_WORST_CRF - _LEAST_CRF), 0.0), 1.0)


# Standard deviation of independent noise of the three channels, relative to that of its luma.
GREY_NOISE = 1 / math.hypot(0.299, 0.587, 0.114)


def parse_strengths(texts: str | Sequence[str]) -> Strengths:
    """Parse strengths such as `jpeg=75`, in customary units.

    Args:
        texts: One text or several; each is one strength, or several with commas between. `jpeg`,
            `earlier` and `webp` are qualities, `video` is a CRF, `noise` and `grain` are standard
            deviations in levels, `blur` is one in LR pixels.

    Raises:
        DataError: A name is unknown or repeated, or a number is out of range.
    """
    values: dict[str, float] = {}
    given = [texts] if isinstance(texts, str) else texts
    for text in (part for each in given for part in each.split(",")):
        name, _, number = text.strip().partition("=")
        if name not in _SCALES:
            raise DataError(unknown_choice("strength", name, _SCALES))
        if name in values:
            raise DataError(f"the strength {name} is given twice")
        scale, least, most = _SCALES[name]
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not least <= amount <= most:
            raise DataError(f"{name} is a number from {least:g} to {most:g}, not {number!r}")
        values[name] = scale(amount)
    return Strengths(**values)


def _jpeg_scale(quality: float) -> float:
    return jpeg_strength(round(quality))


# For each strength: its scale, and the least and the greatest number.
_SCALES: Mapping[str, tuple[Callable[[float], float], float, float]] = {
    "jpeg": (_jpeg_scale, 1, 100),
    "earlier": (_jpeg_scale, 1, 100),
    "webp": (lambda quality: webp_strength(round(quality)), 0, 100),
    "video": (video_strength, 0, 51),
    "noise": (noise_strength, 0, 100),
    "grain": (noise_strength, 0, 100),
    "blur": (float, 0, 4),
}

# The inverses of these scales.
_INVERSES: Mapping[str, Callable[[float], float]] = {
    "jpeg": jpeg_quality,
    "earlier": jpeg_quality,
    "webp": lambda strength: 100 * (1 - strength),
    "video": lambda strength: _LEAST_CRF + strength * (_WORST_CRF - _LEAST_CRF),
    "noise": noise_sigma,
    "grain": noise_sigma,
    "blur": float,
}
