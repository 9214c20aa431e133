"""Degrade training patches as a recipe says.

The stages are in the order in which images get them: lens and reduction (blur, another kernel), a
scanned film (blur, grain, blur), a sensor (noise), a file (JPEG once or twice, or WebP). JPEG and
WebP are the real codecs. All random numbers come from the generator that is given, so a patch with
its own generator is a pure function of that.

Left out: video, whose frames need their neighbours (`data.films`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from anchorsr.arrays import UInt8Array
from anchorsr.data.effects import (
    FloatArray,
    add_noise,
    blur,
    blur_isotropic,
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

# LR pixels that are cut around a patch before it is degraded: blur reads them, and the position of
# the patch in the 8×8 grid of JPEG is random.
MARGIN = 16
_GRID = 8

# Variance, in LR pixels squared, by which each reduction kernel blurs more than bicubic.
_KERNELS = {
    Image.Resampling.BICUBIC: 0.0,
    Image.Resampling.BILINEAR: 1 / 6,
    Image.Resampling.BOX: 1 / 12,
    Image.Resampling.LANCZOS: 0.0,
}
# Strengths are drawn as random ** this: strong degradation is rarer than weak.
_NOISE_RARITY, _JPEG_RARITY = 1.3, 1.2
# The error of H.264 at CRF 28 is about that of JPEG 60.
_VIDEO_AS_JPEG = 0.8


@dataclass(frozen=True)
class _Stage:
    """A stage of degradation.

    Attributes:
        probability: Fraction of the patches that goes through it.
    """

    probability: float = 0.0

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)


@dataclass(frozen=True)
class BlurRecipe(_Stage):
    """Gaussian blur before the reduction.

    Attributes:
        sigma: Least and largest standard deviation, in LR pixels.
        anisotropic: Fraction with a second deviation along the other axis, in any direction.
    """

    sigma: tuple[float, float] = (0.1, 0.8)
    anisotropic: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("sigma", self.sigma, 0, 4)
        _check_share("anisotropic", self.anisotropic)


@dataclass(frozen=True)
class NoiseRecipe(_Stage):
    """Noise that is independent between pixels.

    Attributes:
        sigma: Least and largest standard deviation, in levels.
        grey: Fraction that is the same in the three channels.
        poisson: Fraction with Poisson noise, of this deviation at level 128.
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
    """A scanned photograph: blur, grain, and blur again.

    Attributes:
        sigma: Least and largest standard deviation of the grain before it is blurred, in levels.
        blur: Least and largest standard deviation of each blur, in LR pixels.
        grey: Fraction whose grain is the same in the three channels.
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
    """JPEG compression.

    Attributes:
        quality: Lowest and highest quality.
        full_chroma: Fraction with 4:4:4 chroma; the rest has 4:2:0.
        twice: Fraction that is compressed twice, half of it cropped in between.
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
    """Lossy WebP compression; its patches are not compressed as JPEG.

    Attributes:
        quality: Lowest and highest quality.
    """

    quality: tuple[int, int] = (10, 95)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("quality", self.quality, 0, 100)


@dataclass(frozen=True)
class DegradationRecipe:
    """The stages of degradation and how many patches go through each.

    Attributes:
        clean: Fraction that is not degraded at all. Of the rest, patches that go through no stage
            by chance are clean, too.
        blur: Before the reduction.
        other_kernel: Fraction that is not reduced by bicubic.
        scan: A scanned photograph.
        noise: Of a sensor.
        webp: Before `jpeg`, which it rules out.
        jpeg: The last stage.
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
    """Degrade an LR image at random.

    Args:
        lr: (H, W, 3) uint8 RGB: `hr` reduced by bicubic.
        hr: (factor · H, factor · W, 3) uint8 RGB.
        recipe: The stages.
        random: Where all random numbers come from.

    Returns:
        The degraded LR image, and the strengths of its degradation.
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
    """Degrade an LR image to given strengths.

    Half of the blur is applied before grain, half after it. Video needs more than one image; JPEG
    with about the same error replaces it.

    Args:
        lr: (H, W, 3) uint8 RGB.
        strengths: Those of the result.
        random: Where noise and grain come from.
    """
    half = strengths.blur / math.sqrt(2)
    image = blur_isotropic(lr.astype(np.float32), half)
    if strengths.grain:
        image = add_noise(image, noise_sigma(strengths.grain), random)
    image = blur_isotropic(image, half)
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
    """Reduce `hr`; returns also the variance, in LR pixels squared, of the blur beyond bicubic."""
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
    """Return the scanned image, the strength of its grain, and the variance of its blur."""
    if random.random() >= recipe.probability:
        return image, 0.0, 0.0
    before, after = random.uniform(*recipe.blur), random.uniform(*recipe.blur)
    sigma = _draw_sigma(recipe.sigma, random)
    grey = random.random() < recipe.grey
    image = add_noise(blur_isotropic(image, before), sigma, random, grey=grey)
    strength = noise_strength(sigma * (GREY_NOISE if grey else 1))
    return blur_isotropic(image, after), strength, before**2 + after**2


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
    stored = image.copy()  # no patch reads what the crop cuts off
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
