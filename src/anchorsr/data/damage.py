"""The damages that models are compared on: each a function of an image, its name and the seed.

What training draws from ranges (`degradation`) is here one thing with one name, such as `jpeg75`,
so that figures of two models, or of two days, are of the same pixels.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anchorsr.data.degradation import degrade_like
from anchorsr.data.effects import add_noise, blur_evenly, encode_jpeg, encode_webp, to_uint8
from anchorsr.data.films import FILMS, LEAST_SIDE, pan
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
from anchorsr.errors import DataError

UInt8Array = npt.NDArray[np.uint8]

_PAN_FRAMES, _PAN_SPEED = 12, (1.0, 1.0)


@dataclass(frozen=True)
class Damage:
    """A kind of damage and how much of it.

    Attributes:
        kind: One of `KINDS`, or anything where strengths are given.
        amount: What the kind counts in: quality, sigma, CRF; 0 for kinds that have no amount.
        strengths: What an image is to have been through, where that is not one of the kinds.
    """

    kind: str
    amount: int = 0
    strengths: Strengths = CLEAN

    @property
    def name(self) -> str:
        """What `parse_damage` reads, or a list of strengths."""
        told = dataclasses.asdict(self.strengths)
        listed = [f"{name} {value:.2f}" for name, value in told.items() if value]
        return ", ".join(listed) or f"{self.kind}{self.amount or ''}"


def parse_damage(name: str) -> Damage:
    """Return the damage of a name such as `jpeg75`, `noise5` or `scan`.

    Raises:
        DataError: There is no such damage, or none of that amount.
    """
    match = re.fullmatch("([a-z]+(?:264-)?)([0-9]{0,3})", name)
    limits = KINDS[match[1]].amounts if match and match[1] in KINDS else None
    if match is None or limits is None or not limits[0] <= int(match[2] or 0) <= limits[1]:
        raise DataError(f"no damage {name!r}; there are: {', '.join(map(_describe, KINDS))}")
    return Damage(match[1], int(match[2] or 0))


def damage_pair(pair: Pair, damage: Damage, *, seed: int = 0) -> Pair:
    """Damage the LR image of a pair; what it has been through is told in its `strengths`.

    A frame of a film shows a part of the image, which the HR image is cut to.

    Args:
        pair: A pair whose LR image is clean.
        damage: What is done to it.
        seed: Another one draws other noise.

    Raises:
        DataError: The image is too small for a film.
        MissingDependencyError: A film needs PyAV.
    """
    drawn = zlib.crc32(f"{pair.name}/{damage.name}".encode())
    random = np.random.default_rng((seed, drawn))
    if damage.strengths != CLEAN:
        return pair.damaged(degrade_like(pair.lr, damage.strengths, random), damage.strengths)
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
    return pair.damaged(encode_jpeg(pair.lr, amount), Strengths(jpeg=jpeg_strength(amount)))


def _webp(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    return pair.damaged(encode_webp(pair.lr, amount), Strengths(webp=webp_strength(amount)))


def _noise(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    noisy = to_uint8(add_noise(pair.lr.astype(np.float32), amount, random))
    return pair.damaged(noisy, Strengths(noise=noise_strength(amount)))


def _phone(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    """Noise of sigma 5, then JPEG 85."""
    noisy = to_uint8(add_noise(pair.lr.astype(np.float32), 5, random))
    strengths = Strengths(noise=noise_strength(5), jpeg=jpeg_strength(85))
    return pair.damaged(encode_jpeg(noisy, 85), strengths)


def _scan(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    """Blur, grey grain of sigma 11, the same blur, then JPEG 88."""
    sigma, radius = 11, 0.5
    image = blur_evenly(pair.lr.astype(np.float32), radius)
    image = blur_evenly(add_noise(image, sigma, random, grey=True), radius)
    strengths = Strengths(
        grain=noise_strength(sigma * GREY_NOISE), blur=2**0.5 * radius, jpeg=jpeg_strength(88)
    )
    return pair.damaged(encode_jpeg(to_uint8(image), 88), strengths)


def _twice(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    """JPEG 80, then JPEG 70."""
    stored = encode_jpeg(encode_jpeg(pair.lr, 80), 70)
    return pair.damaged(stored, Strengths(jpeg=jpeg_strength(70), earlier=jpeg_strength(80)))


def _h264(pair: Pair, amount: int, random: np.random.Generator) -> Pair:
    """The last frame of a film that moves a pixel down and to the right with each frame."""
    way = _PAN_FRAMES - 1
    if min(pair.lr.shape[:2]) < way + LEAST_SIDE:
        raise DataError(f"{pair.name} is too small for a film: {way + LEAST_SIDE} pixels a side")
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

# What tables are made of (docs/experiments).
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
