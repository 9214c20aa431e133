"""Random networks of every form that the native kernel runs, and images that reach their limits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph

_IMAGE = ops.Quantization(1.0, 0)
_SIGNED_IMAGE = ops.Quantization(1.0, -128)


def random_graph(seed: int) -> Graph:
    """Make an integer graph from uint8 RGB to uint8 RGB.

    Widths, depths, kernels, zero points, skips and output stages vary. In every third one scales
    are powers of two, so that many values lie halfway between two integers; in every fifth one
    weights reach 127, beyond what AVX2 multiplies safely at once.
    """
    return _Maker(seed).graph()


def random_image(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Make uint8 (1, height, width, 3) in which half of the bytes are 0 or 255."""
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 256, (1, height, width, 3))
    extremes = generator.choice([0, 255], values.shape)
    return np.where(generator.random(values.shape) < 0.5, extremes, values).astype(np.uint8)


class _Maker:
    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._name = f"random{seed}"
        self._halves = seed % 3 == 0
        self._limit = 127 if seed % 5 == 0 else 64
        self._tensors = {"images": ops.TensorType(3, "uint8", _IMAGE)}
        self._operators: list[ops.Operator] = []

    def graph(self) -> Graph:
        factor = int(self._random.integers(1, 5))
        image = self._requantize("images", "image", "int8", _SIGNED_IMAGE)
        name = image
        for level in range(int(self._random.integers(0, 6))):
            name = self._body(name, level)
        outputs = 3 * factor**2
        if self._random.random() < 0.4:
            channels = int(self._random.integers(1, 30))
            name = self._convolve(name, "filters", channels, self._quantization(), relu=False)
            name = self._convolve(
                name, "last", outputs, ops.Quantization(1.0, 0), relu=False, size=1
            )
        else:
            name = self._convolve(name, "last", outputs, ops.Quantization(1.0, 0), relu=False)
        if self._random.random() < 0.8:
            name = self._anchor(image, name, outputs, factor)
        else:  # what was a difference is taken for an image
            name = self._convolve(name, "image_last", outputs, _SIGNED_IMAGE, relu=False, size=1)
        return self._ended(name, factor)

    def _body(self, source: str, level: int) -> str:
        earlier = [
            name
            for name, tensor in self._tensors.items()
            if name.startswith("body") and tensor.channels > 1
        ]
        if earlier and self._random.random() < 0.4:
            other = str(self._random.choice(earlier))
            tensor = self._tensors[other]
            assert tensor.quantization is not None
            scale = tensor.quantization.scale
            before = ops.Quantization(scale, self._zero_point())
            made = self._convolve(source, f"before{level}", tensor.channels, before, relu=True)
            after = ops.Quantization(scale, self._zero_point())
            names = (made, other) if self._random.random() < 0.5 else (other, made)
            return self._add(names, f"body{level}", after)
        channels = int(self._random.integers(1, 41))
        relu = bool(self._random.random() < 0.7)
        if self._random.random() < 0.2:
            quantization = self._quantization()
            made = self._convolve(source, f"raw{level}", channels, quantization, relu=False)
            self._tensors[f"body{level}"] = self._tensors[made]
            self._operators.append(ops.ReLU(made, f"body{level}"))
            return f"body{level}"
        return self._convolve(source, f"body{level}", channels, self._quantization(), relu=relu)

    def _convolve(
        self,
        source: str,
        output: str,
        channels: int,
        quantization: ops.Quantization,
        *,
        relu: bool,
        size: int = 0,
    ) -> str:
        before = self._tensors[source]
        assert before.quantization is not None
        size = size or int(self._random.choice([1, 3, 3, 3]))
        shape = (channels, size, size, before.channels)
        if self._random.random() < 0.5:
            weights = self._random.integers(-self._limit, self._limit + 1, shape)
        else:  # as trained ones are: mostly small
            drawn = self._random.normal(0, self._limit / 4, shape)
            weights = np.clip(np.rint(drawn), -self._limit, self._limit)
        spread = self._limit * 75 * np.sqrt(size * size * before.channels)
        relative = self._random.uniform(0.3, 3.0, channels) * quantization.scale * 60 / spread
        scales = (relative / before.quantization.scale).astype(np.float32)
        if self._halves:
            scales = (2.0 ** np.round(np.log2(scales))).astype(np.float32)
        bias = self._random.normal(0, spread / 2, channels).astype(np.int32)
        self._tensors[output] = ops.TensorType(channels, "int8", quantization)
        made = ops.Conv2D(source, output, weights.astype(np.int8), bias, scales, relu)
        self._operators.append(made)
        return output

    def _anchor(self, image: str, name: str, outputs: int, factor: int) -> str:
        self._tensors["anchor"] = ops.TensorType(outputs, "int8", _SIGNED_IMAGE)
        weight = int(self._random.choice([1, 64]))
        weights = np.tile(weight * np.eye(3, dtype=np.int8), (factor**2, 1))
        scales = np.full(outputs, 1 / weight, np.float32)
        shape = (outputs, 1, 1, 3)
        zeros = np.zeros(outputs, np.int32)
        self._operators.append(ops.Conv2D(image, "anchor", weights.reshape(shape), zeros, scales))
        names = (name, "anchor") if self._random.random() < 0.5 else ("anchor", name)
        return self._add(names, "sum", _SIGNED_IMAGE)

    def _add(self, names: tuple[str, str], output: str, quantization: ops.Quantization) -> str:
        channels = self._tensors[names[0]].channels
        self._tensors[output] = ops.TensorType(channels, "int8", quantization)
        self._operators.append(ops.Add(names, output))
        return output

    def _requantize(
        self, source: str, output: str, kind: str, quantization: ops.Quantization
    ) -> str:
        channels = self._tensors[source].channels
        dtype = "uint8" if kind == "uint8" else "int8"
        self._tensors[output] = ops.TensorType(channels, dtype, quantization)
        self._operators.append(ops.Requantize(source, output))
        return output

    def _ended(self, name: str, factor: int) -> Graph:
        steps = ["space", "bytes"] if self._random.random() < 0.5 else ["bytes", "space"]
        for step in steps:
            if step == "bytes":
                name = self._requantize(name, f"{name}_bytes", "uint8", _IMAGE)
                continue
            tensor = self._tensors[name]
            self._tensors[f"{name}_space"] = ops.TensorType(3, tensor.dtype, tensor.quantization)
            self._operators.append(ops.DepthToSpace(name, f"{name}_space", factor))
            name = f"{name}_space"
        return Graph(self._name, self._tensors, tuple(self._operators), "images", name)

    def _quantization(self) -> ops.Quantization:
        scale = float(self._random.uniform(0.01, 3.0))
        if self._halves:
            scale = float(2.0 ** np.round(np.log2(scale)))
        return ops.Quantization(float(np.float32(scale)), self._zero_point())

    def _zero_point(self) -> int:
        return int(self._random.choice([-128, -128, -1, 0, 17, 127]))
