"""What people's files have been through, put on training patches as a recipe describes it.

The stages follow an image's way: the lens and the reduction (blur, another kernel), a film that
was scanned (blur, grain, blur), a sensor (noise), a file (JPEG once or twice, or WebP). JPEG and
WebP are the real codecs. Whatever is drawn comes from the generator that is given, so a patch
that has a generator of its own is a pure function of that.

What is left out: video, whose frames need their neighbours (`data.films` makes them once).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from anchorsr.data.effects import (
    FloatArray,
    UInt8Array,
    add_noise,
    blur,
    blur_evenly,
    encode_jpeg,
    encode_webp,
    to_uint8,
)
from anchorsr.data.strengths import (
    CLEAN,
    GREY_NOISE,
    Strengths,
    jpeg_quality,
    jpeg_strength,
    noise_sigma,
    noise_strength,
    webp_strength,
)
from anchorsr.utils.config import require

# LR pixels that a patch is larger while it is degraded: blur reads them, and where a patch lies in
# JPEG's grid of 8×8 is drawn.
MARGIN = 16
_GRID = 8

# Variance, in LR pixels squared, by which each kernel of a reduction blurs more than bicubic.
_KERNELS = {
    Image.Resampling.BICUBIC: 0.0,
    Image.Resampling.BILINEAR: 1 / 6,
    Image.Resampling.BOX: 1 / 12,
    Image.Resampling.LANCZOS: 0.0,
}
# Strengths are drawn as random ** this: strong damage is rarer than weak damage.
_NOISE_RARITY, _JPEG_RARITY = 1.3, 1.2
# H.264 at CRF 28 errs about as much as JPEG 60.
_VIDEO_AS_JPEG = 0.8


@dataclass(frozen=True)
class _Stage:
    """A stage that a part of all patches goes through."""

    probability: float = 0.0

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)


@dataclass(frozen=True)
class BlurRecipe(_Stage):
    """Gaussian blur before the reduction.

    Attributes:
        sigma: Least and largest standard deviation, in LR pixels.
        anisotropic: Share whose two axes differ, in any direction.
    """

    sigma: tuple[float, float] = (0.1, 0.8)
    anisotropic: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("sigma", self.sigma, 0, 4)
        _check_share("anisotropic", self.anisotropic)


@dataclass(frozen=True)
class NoiseRecipe(_Stage):
    """Noise that is independent in every pixel.

    Attributes:
        sigma: Least and largest standard deviation, in levels.
        grey: Share that is the same in the three colours.
        poisson: Share that is a photon count's, with this deviation at level 128.
    """

    sigma: tuple[float, float] = (1.0, 30.0)
    grey: float = 0.25
    poisson: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("sigma", self.sigma, 0.1, 100)
        _check_share("grey", self.grey)
        _check_share("poisson", self.poisson)


@dataclass(frozen=True)
class ScanRecipe(_Stage):
    """A scanned photograph: blur, grain, and blur of both.

    Attributes:
        sigma: Least and largest standard deviation of the grain before it is blurred, in levels.
        blur: Least and largest standard deviation of each blur, in LR pixels.
        grey: Share whose grain is the same in the three colours.
    """

    sigma: tuple[float, float] = (2.0, 30.0)
    blur: tuple[float, float] = (0.3, 0.8)
    grey: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("sigma", self.sigma, 0.1, 100)
        _check_range("blur", self.blur, 0, 4)
        _check_share("grey", self.grey)


@dataclass(frozen=True)
class JPEGRecipe(_Stage):
    """JPEG.

    Attributes:
        quality: Lowest and highest quality.
        full_chroma: Share with 4:4:4, the others having 4:2:0.
        twice: Share that was a JPEG file before, half of them cropped in between.
    """

    quality: tuple[int, int] = (10, 98)
    full_chroma: float = 0.3
    twice: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("quality", self.quality, 1, 100)
        _check_share("full_chroma", self.full_chroma)
        _check_share("twice", self.twice)


@dataclass(frozen=True)
class WebPRecipe(_Stage):
    """Lossy WebP, for patches that do not become JPEG.

    Attributes:
        quality: Lowest and highest quality.
    """

    quality: tuple[int, int] = (10, 95)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("quality", self.quality, 0, 100)


@dataclass(frozen=True)
class DegradationRecipe:
    """A recipe's [degradation]: what part of the patches goes through which stage.

    Attributes:
        clean: Share that goes through nothing; what passes no stage by chance is clean, too.
        other_kernel: Share that is not reduced by bicubic.
    """

    clean: float = 0.0
    blur: BlurRecipe = field(default_factory=BlurRecipe)
    other_kernel: float = 0.0
    scan: ScanRecipe = field(default_factory=ScanRecipe)
    noise: NoiseRecipe = field(default_factory=NoiseRecipe)
    webp: WebPRecipe = field(default_factory=WebPRecipe)
    jpeg: JPEGRecipe = field(default_factory=JPEGRecipe)

    def __post_init__(self) -> None:
        _check_share("clean", self.clean)
        _check_share("other_kernel", self.other_kernel)


def degrade(
    lr: UInt8Array, hr: UInt8Array, recipe: DegradationRecipe, random: np.random.Generator
) -> tuple[UInt8Array, Strengths]:
    """Put on an LR image what a recipe's stages do.

    Args:
        lr: (H, W, 3) RGB, which is `hr` reduced by bicubic.
        hr: (factor · H, factor · W, 3) RGB.
        recipe: The stages.
        random: All that is drawn comes from it.

    Returns:
        The LR image after that, and what it has been through.
    """
    if random.random() < recipe.clean:
        return lr, CLEAN
    reduced, variance = _reduce(lr, hr, recipe, random)
    image, grain, scanned = _scan(reduced.astype(np.float32), recipe.scan, random)
    image, noise = _add_sensor_noise(image, recipe.noise, random)
    stored = {}
    coded = to_uint8(image)
    if random.random() < recipe.webp.probability:
        quality = int(random.integers(*recipe.webp.quality, endpoint=True))
        coded, stored = encode_webp(coded, quality), {"webp": webp_strength(quality)}
    elif random.random() < recipe.jpeg.probability:
        coded, stored = _store_as_jpeg(coded, recipe.jpeg, random)
    strengths = Strengths(noise=noise, grain=grain, blur=math.sqrt(variance + scanned), **stored)
    return coded, strengths


def degrade_like(lr: UInt8Array, strengths: Strengths, random: np.random.Generator) -> UInt8Array:
    """Put on an LR image what these strengths tell of, as nearly as one image can have it.

    Blur is half before grain and half after; in place of video, which needs more than an image,
    stands the JPEG that costs as much.

    Args:
        lr: (H, W, 3) RGB.
        strengths: What the result has been through.
        random: Noise and grain are drawn from it.
    """
    half = strengths.blur / math.sqrt(2)
    image = blur_evenly(lr.astype(np.float32), half)
    if strengths.grain:
        image = add_noise(image, noise_sigma(strengths.grain), random)
    image = blur_evenly(image, half)
    if strengths.noise:
        image = add_noise(image, noise_sigma(strengths.noise), random)
    coded = to_uint8(image)
    if strengths.webp:
        coded = encode_webp(coded, round(100 * (1 - strengths.webp)))
    for strength in (strengths.earlier, _VIDEO_AS_JPEG * strengths.video, strengths.jpeg):
        if strength:
            coded = encode_jpeg(coded, jpeg_quality(strength))
    return coded


def _reduce(
    lr: UInt8Array, hr: UInt8Array, recipe: DegradationRecipe, random: np.random.Generator
) -> tuple[UInt8Array, float]:
    """The LR image, and the variance in LR pixels squared of what blurred it beyond bicubic."""
    blurred = random.random() < recipe.blur.probability
    other = random.random() < recipe.other_kernel
    if not blurred and not other:
        return lr, 0.0
    variance = 0.0
    if blurred:
        factor = hr.shape[0] // lr.shape[0]
        covariance = _draw_covariance(recipe.blur, random)
        rows, columns, both = (factor**2 * value for value in covariance)
        hr = to_uint8(blur(hr.astype(np.float32), (rows, columns, both)))
        variance = (covariance[0] + covariance[1]) / 2
    kernels = list(_KERNELS)[1:] if other else [Image.Resampling.BICUBIC]
    kernel = kernels[int(random.integers(len(kernels)))]
    reduced = np.asarray(Image.fromarray(hr).resize((lr.shape[1], lr.shape[0]), kernel))
    return reduced, variance + _KERNELS[kernel]


def _draw_covariance(recipe: BlurRecipe, random: np.random.Generator) -> tuple[float, float, float]:
    first = second = random.uniform(*recipe.sigma)
    if random.random() < recipe.anisotropic:
        second = random.uniform(*recipe.sigma)
    angle = math.pi * random.random()
    cosine, sine = math.cos(angle), math.sin(angle)
    a, b = first**2, second**2
    return a * cosine**2 + b * sine**2, a * sine**2 + b * cosine**2, (a - b) * cosine * sine


def _scan(
    image: FloatArray, recipe: ScanRecipe, random: np.random.Generator
) -> tuple[FloatArray, float, float]:
    """A scanned image, the strength of its grain, and the variance of its blur."""
    if random.random() >= recipe.probability:
        return image, 0.0, 0.0
    before, after = random.uniform(*recipe.blur), random.uniform(*recipe.blur)
    sigma = _draw_sigma(recipe.sigma, random)
    grey = random.random() < recipe.grey
    image = add_noise(blur_evenly(image, before), sigma, random, grey=grey)
    strength = noise_strength(sigma * (GREY_NOISE if grey else 1))
    return blur_evenly(image, after), strength, before**2 + after**2


def _add_sensor_noise(
    image: FloatArray, recipe: NoiseRecipe, random: np.random.Generator
) -> tuple[FloatArray, float]:
    if random.random() >= recipe.probability:
        return image, 0.0
    sigma = _draw_sigma(recipe.sigma, random)
    grey, poisson = random.random() < recipe.grey, random.random() < recipe.poisson
    applied = sigma / GREY_NOISE if grey else sigma
    return add_noise(image, applied, random, grey=grey, poisson=poisson), noise_strength(sigma)


def _store_as_jpeg(
    image: UInt8Array, recipe: JPEGRecipe, random: np.random.Generator
) -> tuple[UInt8Array, dict[str, float]]:
    full_chroma = random.random() < recipe.full_chroma
    strengths = {}
    top = left = 0
    if random.random() < recipe.twice:
        quality = _draw_quality(recipe.quality, random)
        image = encode_jpeg(image, quality)
        strengths["earlier"] = jpeg_strength(quality)
        if random.random() < 0.5:
            top, left = (int(offset) for offset in random.integers(_GRID, size=2))
    quality = _draw_quality(recipe.quality, random)
    strengths["jpeg"] = jpeg_strength(quality)
    stored = image.copy()  # what a crop would cut off stays as it is: no patch reads that
    cropped = np.ascontiguousarray(image[top:, left:])
    stored[top:, left:] = encode_jpeg(cropped, quality, full_chroma=full_chroma)
    return stored, strengths


def _draw_sigma(limits: tuple[float, float], random: np.random.Generator) -> float:
    low, high = map(noise_strength, limits)
    return noise_sigma(low + (high - low) * random.random() ** _NOISE_RARITY)


def _draw_quality(limits: tuple[int, int], random: np.random.Generator) -> int:
    low, high = jpeg_strength(limits[1]), jpeg_strength(limits[0])
    return jpeg_quality(low + (high - low) * random.random() ** _JPEG_RARITY)


def _check_share(name: str, share: float) -> None:
    require(0 <= share <= 1, f"{name} is in [0, 1]")


def _check_range(name: str, limits: tuple[float, float], least: float, most: float) -> None:
    low, high = limits
    wanted = f"{name} is two numbers from {least:g} to {most:g}, the smaller first"
    require(least <= low <= high <= most, wanted)
