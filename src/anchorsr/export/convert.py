"""Convert any PyTorch network that upscales images to a model of exact 8-bit integers."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anchorsr.arrays import UInt8Array
from anchorsr.data.pairs import draw_pairs
from anchorsr.errors import DataError, GraphError, RecipeError
from anchorsr.evaluation.evaluate import evaluate_method, float_method
from anchorsr.export.export import ExportedModel, Precision, export_graph
from anchorsr.graph.dequantize import dequantize
from anchorsr.graph.graph import Graph
from anchorsr.images.image import from_array
from anchorsr.images.io import read_image, write_image
from anchorsr.inference.upscaler import Upscaler
from anchorsr.metrics import Score
from anchorsr.models.card import ModelCard
from anchorsr.networks.external import ExternalConfig, ExternalNetwork
from anchorsr.quantization.qat import quantize
from anchorsr.serialization.tflite.writer import needs_size, write_tflite
from anchorsr.training.checkpoint import TrainingRun
from anchorsr.training.machine import Machine
from anchorsr.training.progress import TrainingProgress
from anchorsr.training.recipe import (
    DataRecipe,
    OptimizerRecipe,
    QuantizationRecipe,
    Recipe,
    ScheduleRecipe,
)
from anchorsr.utils.temporary import temporary_folder

if TYPE_CHECKING:
    from torch import nn

Images = str | Path | UInt8Array | Sequence[str | Path | UInt8Array]

# LR pixels a side of a patch in quantization-aware training, at most.
_PATCH = 32
_LEAST_PATCH = 8
# Images that are looked at to find out how large a patch can be.
_LOOKED_AT = 32
# Of an input of this height and width is the file whose size and digest a card holds, where a
# file for every size cannot be written: the size of the Mobile AI challenge.
_SIZE = (360, 640)


@dataclass(eq=False)
class ConvertedModel:
    """A network as a model of 8-bit integers.

    Attributes:
        graph: The integer graph.
        network: The float network that it was made from.
        runs: The records of quantization-aware training, as a card holds them.
        scores: What `evaluate` has measured so far.
    """

    graph: Graph
    network: ExternalNetwork
    runs: dict[str, Any]
    scores: list[Score] = dataclasses.field(default_factory=list)

    @property
    def factor(self) -> int:
        """The super-resolution factor."""
        return self.graph.factor

    @functools.cached_property
    def upscaler(self) -> Upscaler:
        """The model in LiteRT, exact in every byte."""
        return Upscaler.of_graph(self.graph, engine="litert")

    def upscale(self, image: Any) -> Any:
        """Upscale an image, or a batch of images.

        Args:
            image: An array, a Pillow image or a file, as a call of `Upscaler` takes.

        Returns:
            An array; for a Pillow image, a Pillow image.
        """
        return self.upscaler(image)

    def evaluate(
        self,
        folder: str | Path,
        *,
        precision: Literal["int8", "float32"] = "int8",
        border: int | None = None,
    ) -> Score:
        """Measure PSNR and SSIM on a test set.

        Args:
            folder: A folder of images, or one with HR/ and LR_bicubic/X3/ inside.
            precision: The integers, or the network that they were made from.
            border: Pixels cut off each side; by default the factor.

        Raises:
            DataError: The folder is no test set.
        """
        method = self.upscaler.upscale_rgb if precision == "int8" else float_method(self.network)
        score = evaluate_method(
            method,
            precision.removesuffix("32"),
            Path(folder),
            factor=self.factor,
            border=border,
        )
        self.scores.append(score)
        return score

    def export(
        self,
        path: str | Path,
        *,
        size: tuple[int, int] | None = None,
        precision: Precision = "int8",
        overwrite: bool = False,
    ) -> ExportedModel:
        """Write a file, after its own runtime has given the bytes of the integer arithmetic.

        Args:
            path: The file; its suffix, `.tflite` or `.onnx`, is its format.
            size: Height and width, for a file that takes only this size; None for any size.
            precision: As of `export_model`.
            overwrite: Whether to replace an existing file.

        Raises:
            OutputError: The file exists, or has another suffix.
            GraphError: The model cannot have this size.
            ExactnessError: The runtime does not reproduce the integer arithmetic.
            MissingDependencyError: The runtime is not installed.
        """
        target = Path(path)
        graph = self.graph if precision == "int8" else dequantize(self.graph)
        half = precision == "float16"
        data = export_graph(graph, target, size=size, half=half, overwrite=overwrite)
        return ExportedModel(target, self.factor, size, hashlib.sha256(data).hexdigest())

    @property
    def card(self) -> ModelCard:
        """The model card, with the scores so far; its digest is that of the `.tflite`."""
        size = self.graph.fit(*_SIZE) if needs_size(self.graph) else None
        data = write_tflite(self.graph, size=size)
        return ModelCard.of_file(data, self.graph, figures=self.scores, runs=self.runs)


def convert(
    module: nn.Module,
    *,
    images: Images,
    factor: int | None = None,
    maximum: float = 1.0,
    qat: int | Recipe | None = None,
    name: str | None = None,
    machine: Machine = Machine(),
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> ConvertedModel:
    """Convert a trained PyTorch network to a model of 8-bit integers.

    The network is an ordinary module that upscales RGB images by 2, 3 or 4. Its order of channels
    (`nn.PixelShuffle`) and its range become part of the weights. The module itself stays as it is.

    Args:
        module: The network: (N, 3, H, W) to (N, 3, factor · H, factor · W), on [0, maximum].
        images: HR images for calibration and training: a folder, a file, an array (H, W, 3), or a
            list of those. They are reduced by the factor.
        factor: The super-resolution factor; by default what the network does.
        maximum: White in the network's input and output: 1, or 255.
        qat: Quantization-aware training: its number of steps, or a recipe whose `quantization`
            has a schedule; None for calibration alone.
        name: The model's name; by default that of the class, with the factor.
        machine: What quantization-aware training runs on.
        on_progress: Called every few seconds of it.

    Raises:
        GraphError: A part of the network cannot be lowered; the message names the module, the
            reason, and what to use in its place where that is known.
        RecipeError: The network does not upscale images, or not by this factor.
        DataError: There are no images, or none is large enough.
        TrainingError: Training does not converge.

    Example:
        >>> model = anchorsr.convert(network, images="photos/", qat=1_000)
        >>> model.export("network.tflite")
    """
    config = ExternalConfig(factor=factor or 0, maximum=maximum)
    network = ExternalNetwork(copy.deepcopy(module), config).eval()
    name = name or f"{type(module).__name__.lower()}_x{network.factor}"
    with _folders(images) as folders, temporary_folder() as folder:
        recipe = _recipe(network, name, qat, folders)
        run = TrainingRun(Path(folder), recipe, {"step": 0}, network)
        quantized = quantize(
            run, qat=qat is not None, unfinished=True, machine=machine, on_progress=on_progress
        )
    if quantized.graph.factor != network.factor:
        raise GraphError(f"{name} upscales {quantized.graph.factor} times, not {network.factor}")
    graph = dataclasses.replace(quantized.graph, name=name)
    runs = {} if quantized.qat_record is None else {"integer": quantized.qat_record}
    return ConvertedModel(graph, network.cpu(), runs)


def _recipe(
    network: ExternalNetwork, name: str, qat: int | Recipe | None, folders: tuple[str, ...]
) -> Recipe:
    """Return the recipe of quantization: the given one, with these images, or a default."""
    table = {"name": name, **dataclasses.asdict(network.config)}
    if isinstance(qat, Recipe):
        if qat.quantization.schedule is None:
            raise RecipeError(
                "qat: the recipe has no quantization.schedule, which says how long to train"
            )
        data = dataclasses.replace(qat.data, folders=folders)
        return dataclasses.replace(qat, network=table, data=data)
    steps = qat or 0
    if steps < 0 or isinstance(qat, bool):
        raise ValueError(f"qat is a number of steps, a recipe or None, not {qat!r}")
    schedule = ScheduleRecipe(steps=steps, warmup=min(50, steps // 10)) if steps else None
    quantization = QuantizationRecipe(
        schedule=schedule,
        loss="l2",
        optimizer=OptimizerRecipe(learning_rate=2e-4, gradient_clip=0.5),
    )
    return Recipe(
        network=table,
        data=DataRecipe(folders, patch=_patch(network, folders)),
        schedule=ScheduleRecipe(steps=0),
        quantization=quantization,
    )


def _patch(network: ExternalNetwork, folders: tuple[str, ...]) -> int:
    """Return the side of a patch that the images have and that the network takes."""
    paths = [Path(name) for name in folders]
    pairs = draw_pairs(paths, network.factor, patch=1, seed=0, count=_LOOKED_AT)
    largest = max((min(pair.lr.shape[:2]) for pair in pairs), default=0)
    patch: int = min(_PATCH, largest) // network.multiple * network.multiple
    if patch < _LEAST_PATCH:
        needed = max(_LEAST_PATCH, network.multiple) * network.factor
        raise DataError(f"images need at least {needed} pixels a side")
    return patch


@contextmanager
def _folders(images: Images) -> Iterator[tuple[str, ...]]:
    """Yield folders with these images; files and arrays are put into a temporary one."""
    given = [images] if isinstance(images, str | Path | np.ndarray) else list(images)
    with temporary_folder() as folder:
        folders = [str(each) for each in given if _is_folder(each)]
        others = [each for each in given if not _is_folder(each)]
        for index, each in enumerate(others):
            image = from_array(each) if isinstance(each, np.ndarray) else read_image(Path(each))
            write_image(Path(folder, f"{index:06}.png"), image)
        if not given:
            raise DataError("images: none are given")
        yield (*folders, *([str(folder)] if others else []))


def _is_folder(image: str | Path | UInt8Array) -> bool:
    return isinstance(image, str | Path) and Path(image).is_dir()
