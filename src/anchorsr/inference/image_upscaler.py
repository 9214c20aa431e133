"""Upscale images to any size, with the models that fit them."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import overload

from PIL import Image

from anchorsr.data.strengths import CLEAN, Strengths
from anchorsr.engines.selection import AUTO
from anchorsr.images.animation import Animation
from anchorsr.images.image import Pixels, RasterImage
from anchorsr.images.resize import resize_image, without_margin, wrapped
from anchorsr.inference.automatic import Selection, resolve_model, select_model
from anchorsr.inference.kinds import check_kind, upscale_any
from anchorsr.inference.sizes import TargetSize, UpscalePlan, plan_upscale
from anchorsr.inference.upscaler import Upscaler, ready_upscaler
from anchorsr.models.registry import AUTO_MODEL, DEFAULT, list_models


@overload
def upscale(
    image: Image.Image,
    *,
    factor: int | None = None,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    model: str | Path = AUTO_MODEL,
    threads: int | None = None,
    engine: str = AUTO,
    strengths: Strengths = CLEAN,
) -> Image.Image: ...
@overload
def upscale(
    image: Pixels | str | os.PathLike[str],
    *,
    factor: int | None = None,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    model: str | Path = AUTO_MODEL,
    threads: int | None = None,
    engine: str = AUTO,
    strengths: Strengths = CLEAN,
) -> Pixels: ...
def upscale(
    image: Pixels | str | os.PathLike[str] | Image.Image,
    *,
    factor: int | None = None,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    model: str | Path = AUTO_MODEL,
    threads: int | None = None,
    engine: str = AUTO,
    strengths: Strengths = CLEAN,
) -> Pixels | Image.Image:
    """Upscale an image by the model's factor, by any scale, or to any size.

    The model stays loaded for the next call.

    Args:
        image: A uint8 or uint16 array: grey (H, W) or (H, W, 1), RGB (H, W, 3), RGBA (H, W, 4)
            with alpha not premultiplied, or a batch (N, H, W, C) of any of them; a Pillow image;
            or the path of an image file, which is read upright.
        factor: The super-resolution factor of the network; by default that of the file, or 3.
        scale: How many times larger, or smaller if below 1; any number.
        size: Exactly this (height, width) in pixels.
        model: As for `Upscaler`.
        threads: Processor threads; by default all.
        engine: As for `Upscaler`.
        strengths: As for `Upscaler`.

    Returns:
        An array of the same type and layout; for a Pillow image, a Pillow image. A file becomes
        grey (H, W), RGB or RGBA. The array shares no memory with the image.

    Raises:
        ValueError: For an array or Pillow image of any other type or shape, or a size that is not
            two integers.
        ImageError: If the file cannot be read.
        ModelError: For an unknown model, factor or engine.
        OutputError: For an impossible scale or size.

    >>> import numpy
    >>> upscale(numpy.zeros((48, 64, 3), numpy.uint8), size=(100, 130)).shape
    (100, 130, 3)
    """
    try:
        height, width = (None, None) if size is None else (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise ValueError(f"a size is two integers, (height, width), not {size!r}") from None
    check_kind(image)
    target = TargetSize(scale, height, width, stretch=size is not None)
    upscaler = ImageUpscaler(
        model, factor, target, threads=threads, engine=engine, strengths=strengths
    )
    result: Pixels | Image.Image = upscale_any(image, upscaler)
    return result


class ImageUpscaler:
    """Upscales images to a target size, with the networks of one model, or the ones that fit.

    Without a factor, every factor of a shipped model may be used; each is loaded when first needed.

    Args:
        model: As for `Upscaler`.
        factor: As for `Upscaler`.
        target: The size of the results; by default the model's factor.
        threads: As for `Upscaler`.
        engine: As for `Upscaler`.
        strengths: As for `Upscaler`. Later passes see an image that is clean.
        wraps: Whether images are textures whose edges meet, so that the results' edges do too.

    Attributes:
        engine: The engine in use.
        why: One line on why this engine is used.
        wraps: Whether images are textures whose edges meet.
        label: The suffix of results' names, such as `x3`.

    Raises:
        ModelError: As `Upscaler` does.
    """

    def __init__(
        self,
        model: str | Path = AUTO_MODEL,
        factor: int | None = None,
        target: TargetSize = TargetSize(),
        *,
        threads: int | None = None,
        engine: str = AUTO,
        strengths: Strengths = CLEAN,
        wraps: bool = False,
    ) -> None:
        self.wraps = wraps
        self._load = partial(ready_upscaler, threads=threads, engine=engine)
        self._automatic = model == AUTO_MODEL and strengths == CLEAN
        self._model = resolve_model(model, strengths)
        self._strengths = strengths
        first = self._load(self._model, factor, strengths=strengths)
        self.engine, self.why = first.engine, first.why
        shipped = [entry.factor for entry in list_models() if entry.name == self._model]
        self._factors = shipped if factor is None and shipped else [first.factor]
        self.label = target.label(first.factor)
        self._target = TargetSize(scale=first.factor) if target == TargetSize() else target

    def __call__(self, image: RasterImage) -> RasterImage:
        """Upscale an image to the target size.

        Raises:
            OutputError: If the result has too many pixels.
        """
        plan = self.plan(*image.size)
        passed = self.run_passes(image, plan.factors, self.select(image, plan))
        return self.resize(passed, plan)

    def select(self, image: RasterImage, plan: UpscalePlan) -> Selection:
        """Choose the model and the strengths for an image, as `select_model` does for `auto`."""
        if self._automatic and plan.factors:
            return select_model(image)
        return Selection(self._model, self._strengths)

    def plan(self, height: int, width: int) -> UpscalePlan:
        """Plan the passes for an image of this size.

        Raises:
            OutputError: If the result has too many pixels.
        """
        return plan_upscale(height, width, self._target, self._factors)

    def run_passes(
        self, image: RasterImage, factors: Sequence[int], selection: Selection
    ) -> RasterImage:
        """Run the network passes of a plan; resizing to its target is left to `resize`.

        Args:
            image: The image.
            factors: Those of the plan.
            selection: What `select` chose. It is for the first pass, whose result is clean.
        """
        for number, factor in enumerate(factors):
            upscaler = self.upscaler(factor, selection) if number == 0 else self.upscaler(factor)
            if self.wraps:
                margin = upscaler.wrapped_margin
                image = upscaler.upscale_image(wrapped(image, margin))
                image = without_margin(image, margin * factor)
            else:
                image = upscaler.upscale_image(image)
        return image

    def resize(self, image: RasterImage, plan: UpscalePlan) -> RasterImage:
        """Resize the last pass to the target of its plan."""
        return resize_image(image, *plan.target, wraps=self.wraps)

    def animate(
        self, animation: Animation, plan: UpscalePlan, selection: Selection | None = None
    ) -> Animation:
        """Return the animation in the plan's size; each frame is made when it is asked for.

        Args:
            animation: The animation.
            plan: Its plan.
            selection: What `select` chose for the first frame; by default it is asked now.
        """
        chosen = selection or self.select(next(animation.frames()), plan)

        def change(frame: RasterImage) -> RasterImage:
            return self.resize(self.run_passes(frame, plan.factors, chosen), plan)

        return animation.with_frames(plan.target, change)

    def upscaler(self, factor: int, selection: Selection | None = None) -> Upscaler:
        """Return the network of this factor, loading it if need be."""
        if selection is None:
            return self._load(DEFAULT if self._automatic else self._model, factor)
        return self._load(selection.model, factor, strengths=selection.strengths)
