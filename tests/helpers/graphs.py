"""Small random networks of the ABPN kind, and a plain reference executor to compare with.

The executor is written straight from the arithmetic in words, with int64 sums, and shares no
code with the package: what it and a runtime agree on is not agreed on by construction.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph

SIZES = [(1, 1), (1, 7), (13, 11), (31, 17), (64, 48)]

IMAGE = ops.Quantization(1.0, 0)
SIGNED_IMAGE = ops.Quantization(1.0, -128)


def image(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Random bytes, a third of them black or white, as uint8 (1, height, width, channels)."""
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 256, (1, height, width, channels), dtype=np.int64)
    extremes = generator.choice([0, 255], values.shape)
    mask = generator.random(values.shape) < 1 / 3
    return np.where(mask, extremes, values).astype(np.uint8)


def _float32(value: float) -> float:
    return float(np.float32(value))


def integer_graph(
    seed: int,
    *,
    factor: int = 3,
    channels: int = 8,
    depth: int = 2,
    colors: int = 3,
    weight_limit: int = 64,
    hidden_zero_point: int = -128,
    quantize_last: bool = True,
) -> Graph:
    """A random integer network: weights within the limit, scales such that few values clip.

    quantize_last: depth-to-space before the conversion to uint8, or after it.
    """
    generator = np.random.default_rng(seed)
    tensors = {
        "images": ops.TensorType(colors, "uint8", IMAGE),
        "image": ops.TensorType(colors, "int8", SIGNED_IMAGE),
    }
    operators: list[ops.Operator] = [ops.Requantize("images", "image")]

    def convolve(
        source: str, output: str, out: int, quantization: ops.Quantization, relu: bool
    ) -> None:
        before = tensors[source]
        assert before.quantization is not None
        weights = generator.integers(
            -weight_limit, weight_limit + 1, (out, 3, 3, before.channels), dtype=np.int8
        )
        # The sum of n products has about this many standard deviations of a byte in it.
        spread = weight_limit * 75 * np.sqrt(9 * before.channels)
        relative = generator.uniform(0.5, 2.0, out) * quantization.scale * 60 / spread
        scales = (relative / before.quantization.scale).astype(np.float32)
        bias = generator.normal(0, spread / 2, out).astype(np.int32)
        tensors[output] = ops.TensorType(out, "int8", quantization)
        operators.append(ops.Conv2D(source, output, weights, bias, scales, relu))

    name = "image"
    for level in range(depth):
        scale = _float32(generator.uniform(0.01, 3.0))
        quantization = ops.Quantization(scale, hidden_zero_point)
        convolve(name, f"hidden{level}", channels, quantization, relu=True)
        name = f"hidden{level}"
    out = colors * factor**2
    convolve(name, "residual", out, ops.Quantization(1.0, 0), relu=False)
    tensors["anchor"] = ops.TensorType(out, "int8", SIGNED_IMAGE)
    operators.append(
        ops.Conv2D(
            "image",
            "anchor",
            anchor_weights(colors, factor).astype(np.int8),
            np.zeros(out, np.int32),
            np.ones(out, np.float32),
        )
    )
    tensors["sum"] = ops.TensorType(out, "int8", SIGNED_IMAGE)
    operators.append(ops.Add(("residual", "anchor"), "sum"))
    if quantize_last:
        tensors["large"] = ops.TensorType(colors, "int8", SIGNED_IMAGE)
        operators.append(ops.DepthToSpace("sum", "large", factor))
        operators.append(ops.Requantize("large", "upscaled"))
    else:
        tensors["bytes"] = ops.TensorType(out, "uint8", IMAGE)
        operators.append(ops.Requantize("sum", "bytes"))
        operators.append(ops.DepthToSpace("bytes", "upscaled", factor))
    tensors["upscaled"] = ops.TensorType(colors, "uint8", IMAGE)
    return Graph(f"random{seed}", tensors, tuple(operators), "images", "upscaled")


def float_graph(seed: int, *, factor: int = 3, channels: int = 8, colors: int = 3) -> Graph:
    """A random float network of the same kind, over images in 0..255, clipped at the end."""
    generator = np.random.default_rng(seed)
    out = colors * factor**2
    widths = {"images": colors, "hidden": channels, "residual": out, "anchor": out, "sum": out}
    tensors = {name: ops.TensorType(width, "float32") for name, width in widths.items()}
    tensors["large"] = tensors["upscaled"] = ops.TensorType(colors, "float32")

    def convolve(source: str, output: str, relu: bool) -> ops.Conv2D:
        shape = (widths[output], 3, 3, widths[source])
        weights = generator.normal(0, 1 / np.sqrt(9 * widths[source]), shape).astype(np.float32)
        bias = generator.normal(0, 10, widths[output]).astype(np.float32)
        return ops.Conv2D(source, output, weights, bias, relu=relu)

    anchor = anchor_weights(colors, factor).astype(np.float32)
    operators: tuple[ops.Operator, ...] = (
        convolve("images", "hidden", True),
        convolve("hidden", "residual", False),
        ops.Conv2D("images", "anchor", anchor, np.zeros(out, np.float32)),
        ops.Add(("residual", "anchor"), "sum"),
        ops.DepthToSpace("sum", "large", factor),
        ops.Clip("large", "upscaled", 0.0, 255.0),
    )
    return Graph(f"float{seed}", tensors, operators, "images", "upscaled")


def convolutions(graph: Graph) -> list[ops.Conv2D]:
    return [operator for operator in graph.operators if isinstance(operator, ops.Conv2D)]


def anchor_weights(colors: int, factor: int) -> np.ndarray:
    """Zeros and ones that repeat every pixel factor² times: (out, 1, 1, colors)."""
    return np.tile(np.eye(colors), (factor**2, 1)).reshape(-1, 1, 1, colors)


def reference_run(graph: Graph, images: np.ndarray) -> np.ndarray:
    """What the graph means, for `images` of its input's type, (1, H, W, C)."""
    values = {graph.input: images}
    for operator in graph.operators:
        sources = [(values[name], graph.tensors[name]) for name in operator.inputs]
        target = graph.tensors[operator.output]
        if isinstance(operator, ops.Conv2D):
            made = _reference_conv(operator, *sources[0], target)
        elif isinstance(operator, ops.DepthToSpace):
            made = _reference_depth_to_space(sources[0][0], operator.block)
        elif isinstance(operator, ops.Clip):
            made = np.clip(sources[0][0], operator.low, operator.high).astype(np.float32)
        elif isinstance(operator, ops.Concat):
            made = np.concatenate([source for source, _ in sources], axis=-1)
        elif isinstance(operator, ops.Minimum):
            made = np.where(sources[0][0] > operator.bound, operator.bound, sources[0][0])
            made = made.astype(target.dtype)
        elif isinstance(operator, ops.ReLU):
            zero = 0 if target.quantization is None else target.quantization.zero_point
            made = np.where(sources[0][0] < zero, zero, sources[0][0]).astype(target.dtype)
        elif target.quantization is None:
            made = sum(source for source, _ in sources)
        else:
            # Only sums and conversions between equal scales are exact, and only they occur.
            real = sum(
                source.astype(np.int64) - _quantization(tensor).zero_point
                for source, tensor in sources
            )
            assert all(
                _quantization(tensor).scale == _quantization(target).scale for _, tensor in sources
            )
            made = _saturated(real + target.quantization.zero_point, target)
        values[operator.output] = made
    return values[graph.output]


def _quantization(tensor: ops.TensorType) -> ops.Quantization:
    assert tensor.quantization is not None
    return tensor.quantization


def _saturated(values: np.ndarray, target: ops.TensorType) -> np.ndarray:
    info = np.iinfo(target.dtype)
    return np.clip(values, info.min, info.max).astype(target.dtype)


def _reference_conv(
    conv: ops.Conv2D, values: np.ndarray, source: ops.TensorType, target: ops.TensorType
) -> np.ndarray:
    integer = source.quantization is not None
    kind = np.int64 if integer else np.float64
    centered = values.astype(kind) - (_quantization(source).zero_point if integer else 0)
    out, tall, wide, _ = conv.weights.shape
    _, height, width, _ = values.shape
    around = ((0, 0), (tall // 2, tall // 2), (wide // 2, wide // 2), (0, 0))
    padded = np.pad(centered, around)
    sums = np.zeros((1, height, width, out), kind) + conv.bias
    for row in range(tall):
        for column in range(wide):
            window = padded[:, row : row + height, column : column + width]
            sums += window @ conv.weights[:, row, column].T.astype(kind)
    if not integer:
        return np.maximum(sums, 0 if conv.relu else -np.inf).astype(np.float32)
    assert conv.weight_scales is not None
    scale, zero_point = _quantization(target).scale, _quantization(target).zero_point
    product = np.float32(_quantization(source).scale) * conv.weight_scales
    scaled = sums.astype(np.float32) * (product / np.float32(scale))
    rounded = np.rint(scaled).astype(np.int64) + zero_point
    return _saturated(np.maximum(rounded, zero_point) if conv.relu else rounded, target)


def _reference_depth_to_space(values: np.ndarray, block: int) -> np.ndarray:
    large = np.empty(
        (1, values.shape[1] * block, values.shape[2] * block, values.shape[3] // block**2),
        values.dtype,
    )
    for row in range(block):
        for column in range(block):
            first = (row * block + column) * large.shape[3]
            large[:, row::block, column::block] = values[..., first : first + large.shape[3]]
    return large


def with_power_of_two_scales(graph: Graph) -> Graph:
    """The same graph with scales that make many sums end exactly between two integers."""
    tensors = {}
    for name, tensor in graph.tensors.items():
        scale = 2.0 ** np.round(np.log2(_quantization(tensor).scale))
        quantization = ops.Quantization(float(scale), _quantization(tensor).zero_point)
        tensors[name] = replace(tensor, quantization=quantization)
    operators = []
    for operator in graph.operators:
        if isinstance(operator, ops.Conv2D):
            assert operator.weight_scales is not None
            scales = (2.0 ** np.round(np.log2(operator.weight_scales))).astype(np.float32)
            operator = replace(operator, weight_scales=scales)
        operators.append(operator)
    return replace(graph, tensors=tensors, operators=tuple(operators))


def run_litert(data: bytes, images: np.ndarray) -> np.ndarray:
    """Through the interpreter, resized if the file's size is another."""
    interpreter = Interpreter(model_content=data, num_threads=2)
    index = interpreter.get_input_details()[0]["index"]
    if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
        interpreter.resize_tensor_input(index, images.shape, strict=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def assert_equal_graphs(left: Graph, right: Graph) -> None:
    """Every name, type, operator, weight, bias and scale is the same."""
    assert left.name == right.name
    assert (left.input, left.output) == (right.input, right.output)
    assert dict(left.tensors) == dict(right.tensors)
    assert len(left.operators) == len(right.operators)
    for one, other in zip(left.operators, right.operators, strict=True):
        assert type(one) is type(other)
        for field in fields(one):
            mine, theirs = getattr(one, field.name), getattr(other, field.name)
            if isinstance(mine, np.ndarray):
                assert mine.dtype == theirs.dtype
                np.testing.assert_array_equal(mine, theirs)
            else:
                assert mine == theirs
