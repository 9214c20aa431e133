"""The damages that models are compared on, each a pure function of an image, a name and a seed.

Training degrades patches at random (`degradation`). Here each degradation is fixed and has a name,
such as `jpeg75`, so that scores of two models are of the same pixels.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from anchorsr.data.degradation import degrade_like
from anchorsr.data.effects import add_noise, blur_isotropic, encode_jpeg, encode_webp, to_uint8
from anchorsr.data.films import FILMS, pan
from anchorsr.data.pairs import Pair
from anchorsr.data.strengths import (
    CLEAN,
    GREY_NOISE,
    Strengths,
    jpeg_strength,
    noise_strength,
    video_strength,
    webp_strength,
)
from anchorsr.errors import DataError, unknown_choice

_PAN_FRAMES, _PAN_SPEED = 12, (1.0, 1.0)
_LEAST_FRAME = 32  # pixels a side


@dataclass(frozen=True)
class Damage:
    """A kind of damage and how much of it.

    Attributes:
        kind: One of `KINDS`; ignored where strengths are given.
        amount: The quality, sigma or CRF of the kind; 0 for kinds without one.
        strengths: Strengths to degrade an image to, in place of one of the kinds.
    """

    kind: str
    amount: int = 0
    strengths: Strengths = CLEAN

    @property
    def name(self) -> str:
        """The name that `parse_damage` reads, or a list of strengths."""
        values = dataclasses.asdict(self.strengths)
        listed = [f"{name} {value:.2f}" for name, value in values.items() if value]
        return ", ".join(listed) or f"{self.kind}{self.amount or ''}"


def parse_damage(name: str) -> Damage:
    """Parse the name of a damage, such as `jpeg75`, `noise5` or `scan`.

    Raises:
        DataError: There is no such damage, or its amount is out of range.
    """
    match = re.fullmatch("([a-z]+(?:264-)?)([0-9]{0,3})", name)
    limits = KINDS[match[1]].amounts if match and match[1] in KINDS else None
    if match is None or limits is None or not limits[0] <= int(match[2] or 0) <= limits[1]:
        raise DataError(unknown_choice("damage", name, map(_describe, KINDS)))
    return Damage(match[1], int(match[2] or 0))


def damage_pair(pair: Pair, damage: Damage, *, seed: int = 0) -> Pair:
    """Damage the LR image of a pair.

    A frame of a film shows a part of the image, to which the HR image is then cut.

    Args:
        pair: A pair whose LR image is clean.
        damage: The damage.
        seed: Another seed gives other noise.

    Returns:
        The damaged pair, with its strengths.

    Raises:
        DataError: The image is too small for a film.
        MissingDependencyError: A film needs PyAV.
    """
    drawn = zlib.crc32(f"{pair.name}/{damage.name}".encode())
    random = np.random.default_rng((seed, drawn))
    if damage.strengths != CLEAN:
        return pair.degraded(degrade_like(pair.lr, damage.strengths, random), damage.strengths)
    return KINDS[damage.kind].apply(pair, damage.amount, random)


@dataclass(frozen=True)
class _Kind:
    apply: Callable[[Pair, int, np.random.Generator], Pair]
    amounts: tuple[int, int] = (0, 0)


def _describe(kind: str) -> str:
    least, most = KINDS[kind].amounts
    return f"{kind}{least} to {kind}{most}" if most else kind


def _clean(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    return pair


def _jpeg(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    return pair.degraded(encode_jpeg(pair.lr, amount), Strengths(jpeg=jpeg_strength(amount)))


def _webp(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    return pair.degraded(encode_webp(pair.lr, amount), Strengths(webp=webp_strength(amount)))


def _noise(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    noisy = to_uint8(add_noise(pair.lr.astype(np.float32), amount, random))
    return pair.degraded(noisy, Strengths(noise=noise_strength(amount)))


def _phone(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    """Add noise of sigma 5, then compress as JPEG 85."""
    noisy = to_uint8(add_noise(pair.lr.astype(np.float32), 5, random))
    strengths = Strengths(noise=noise_strength(5), jpeg=jpeg_strength(85))
    return pair.degraded(encode_jpeg(noisy, 85), strengths)


def _scan(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    """Blur, add grey grain of sigma 11, blur again, then compress as JPEG 88."""
    sigma, radius = 11, 0.5
    image = blur_isotropic(pair.lr.astype(np.float32), radius)
    image = blur_isotropic(add_noise(image, sigma, random, grey=True), radius)
    strengths = Strengths(
        grain=noise_strength(sigma * GREY_NOISE), blur=2**0.5 * radius, jpeg=jpeg_strength(88)
    )
    return pair.degraded(encode_jpeg(to_uint8(image), 88), strengths)


def _twice(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    """Compress as JPEG 80, then as JPEG 70."""
    stored = encode_jpeg(encode_jpeg(pair.lr, 80), 70)
    return pair.degraded(stored, Strengths(jpeg=jpeg_strength(70), earlier=jpeg_strength(80)))


def _h264(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    """Return the last frame of a film that pans one pixel per frame downwards and to the right."""
    least = _PAN_FRAMES - 1 + _LEAST_FRAME
    if min(pair.lr.shape[:2]) < least:
        raise DataError(f"{pair.name} is too small for a film, which needs {least} pixels a side")
    film = pan(pair.lr, FILMS["h264"], amount, frames=_PAN_FRAMES, speed=_PAN_SPEED)
    return pair.cut(*film[-1], Strengths(video=video_strength(amount)))


KINDS: Mapping[str, _Kind] = {
    "clean": _Kind(_clean),
    "jpeg": _Kind(_jpeg, (1, 100)),
    "webp": _Kind(_webp, (1, 100)),
    "noise": _Kind(_noise, (1, 100)),
    "phone": _Kind(_phone),
    "scan": _Kind(_scan),
    "twice": _Kind(_twice),
    "h264-": _Kind(_h264, (1, 51)),
}

NO_DAMAGE = Damage("clean")

# The damages of the tables in docs/experiments.
USUAL = (
    "clean",
    "jpeg90",
    "jpeg75",
    "jpeg50",
    "jpeg30",
    "noise5",
    "phone",
    "scan",
    "twice",
    "h264-28",
)
