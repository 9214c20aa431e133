"""Which tensors share a scale, which have a fixed one, and that LiteRT accepts the ratios."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from anchorsr.graph import operators as ops
from anchorsr.graph.graph import Graph
from anchorsr.quantization.calibration import (
    IMAGE,
    KEEPS_VALUES,
    RESIDUAL,
    _tie_avoiding,
    choose_quantization,
    observe_ranges,
    tensor_roles,
)
from anchorsr.quantization.ptq import apply_quantization, clip_limits, quantize_graph
from helpers.float_graphs import FloatChain, anchored, with_every_operator
from helpers.graphs import image

IMAGES = [image(seed, 17, 14)[0] for seed in range(2)]


def scales(graph: Graph, **ranges: tuple[float, float]) -> dict[str, ops.Quantization]:
    """Choose quantization for these ranges, and (-1, 1) for all other tensors."""
    every = {name: ranges.get(name, (-1.0, 1.0)) for name in graph.tensors}
    return choose_quantization(graph, every)


def test_an_operator_that_keeps_numbers_has_one_scale_in_and_out() -> None:
    integer = quantize_graph(with_every_operator(), IMAGES)
    kept = [op for op in integer.operators if isinstance(op, KEEPS_VALUES)]
    assert len({type(op) for op in kept}) == 7  # Clip is not one of them: it vanishes in integers
    for operator in kept:
        if not isinstance(operator, ops.Requantize):
            names = (*operator.inputs, operator.output)
            assert len({integer.tensors[name].quantization for name in names}) == 1


def test_tensors_side_by_side_get_the_union_of_their_ranges() -> None:
    chain = FloatChain()
    chain.convolve("images", "a", 4)
    chain.convolve("images", "b", 4)
    chain.add(ops.Concat(("a", "b"), "both"), 8)
    chosen = scales(anchored("both", chain), a=(-2, 1), b=(0, 3), both=(-2, 3))
    assert chosen["a"] == chosen["b"] == chosen["both"]
    assert chosen["a"].scale == np.float32(5 / 255)
    assert chosen["a"].zero_point == -128 + round(2 / 5 * 255)


def test_a_narrow_tensor_that_others_read_too_keeps_its_own_scale() -> None:
    chain = FloatChain()
    chain.convolve("images", "a", 4)
    chain.convolve("a", "b", 4)
    chain.add(ops.Concat(("a", "b"), "both"), 8)
    graph = anchored("both", chain)
    chosen = scales(graph, a=(-2, 2), b=(-9, 9), both=(-9, 9))
    assert chosen["a"].scale == np.float32(4 / 255)
    assert chosen["b"] == chosen["both"] != chosen["a"]
    (change,) = [op for op in apply_quantization(graph, chosen).operators if "/" in op.output]
    assert isinstance(change, ops.Requantize) and change.input == "a"
    chosen = scales(graph, a=(-8, 8), b=(-9, 9), both=(-9, 9))
    assert chosen["a"] == chosen["b"]


def test_summands_share_a_scale_with_their_sum_unless_one_is_far_smaller() -> None:
    chain = FloatChain()
    chain.convolve("images", "a", 4, relu=True)
    chain.convolve("a", "b", 4, relu=True)
    chain.add(ops.Add(("a", "b"), "skipped"))
    graph = anchored("skipped", chain)
    chosen = scales(graph, a=(0, 40), b=(0, 90), skipped=(0, 102))
    assert chosen["a"] == chosen["b"] == chosen["skipped"]
    assert chosen["a"].scale == np.float32(102 / 255)
    chosen = scales(graph, a=(0, 4), b=(0, 90), skipped=(0, 102))
    assert chosen["a"].scale == np.float32(4 / 255)
    assert chosen["b"] == chosen["skipped"] != chosen["a"]


def test_an_image_beside_features_does_not_force_its_scale_upon_them() -> None:
    chain = FloatChain()
    chain.convolve("images", "features", 5)
    chain.add(ops.Concat(("images", "features", "images"), "both"), 11)
    graph = anchored("both", chain)
    chosen = scales(graph, features=(-300, 300), both=(-300, 300))
    assert chosen["both"].scale == np.float32(600 / 255)
    integer = apply_quantization(graph, chosen)
    changes = [op for op in integer.operators if isinstance(op, ops.Requantize)]
    assert [op.input for op in changes] == ["images", "image", "large"]


@pytest.mark.parametrize("clip", [True, False])
def test_an_image_enlarged_by_itself_and_its_residual_have_exact_scales(clip: bool) -> None:
    chain = FloatChain()
    chain.convolve("images", "packed", 12)
    chain.add(ops.DepthToSpace("packed", "residual", 2), 3)
    chain.add(ops.Resize("images", "enlarged", 2, "bilinear"))
    chain.add(ops.Add(("residual", "enlarged"), "sum"))
    if clip:
        chain.add(ops.Clip("sum", "upscaled", 0.0, 255.0))
    chosen = scales(chain.graph("upscaled" if clip else "sum"))
    assert chosen["packed"] == chosen["residual"] == RESIDUAL
    assert chosen["enlarged"] == chosen["sum"] == IMAGE


def test_a_sum_of_features_that_becomes_the_image_has_features_to_add() -> None:
    chain = FloatChain()
    chain.convolve("images", "a", 12)
    chain.convolve("images", "b", 12)
    chain.add(ops.Add(("a", "b"), "sum"))
    chain.add(ops.DepthToSpace("sum", "large", 2), 3)
    graph = chain.graph("large")
    chosen = scales(graph, a=(0, 100), b=(-10, 200))
    assert chosen["sum"] == chosen["large"] == IMAGE
    assert chosen["a"].scale == np.float32(100 / 255)
    assert chosen["b"].scale == np.float32(210 / 255)


def test_a_tensor_that_is_read_elsewhere_is_not_made_a_residual() -> None:
    """As a residual it would be clipped at ±128 where it is read as features."""
    chain = FloatChain()
    chain.convolve("images", "packed", 12)
    chain.convolve("packed", "more", 12)
    chain.anchor("images", "anchor", 2)
    chain.add(ops.Add(("anchor", "packed"), "one"))
    chain.add(ops.Add(("one", "more"), "sum"))
    chain.add(ops.DepthToSpace("sum", "large", 2), 3)
    roles = tensor_roles(chain.graph("large"))
    assert roles["packed"] == roles["one"] == "features"


def test_scales_that_litert_would_take_another_kernel_for_are_made_larger() -> None:
    chain = FloatChain()
    chain.convolve("images", "wide", 4)
    chain.convolve("images", "small", 4)
    chain.add(ops.Add(("wide", "small"), "both"))
    chain.add(ops.Add(("both", "small"), "none"))
    graph = anchored("none", chain)
    chosen = scales(graph, wide=(-9e4, 9e4), small=(-1e-3, 1e-3), both=(-9e4, 9e4), none=(0, 1e-9))
    for one, made in (("wide", "both"), ("small", "both"), ("both", "none"), ("small", "none")):
        assert 2**-10 <= chosen[one].scale / chosen[made].scale < 2**8
    assert chosen["none"].scale >= chosen["both"].scale / 2**8
    assert chosen["wide"].scale == np.float32(18e4 / 255)


def test_features_are_clipped_by_saturation_or_by_operators() -> None:
    chain = FloatChain()
    chain.convolve("images", "wide", 4)
    chain.add(ops.Clip("wide", "clipped", 0.0, 3.0))
    chain.convolve("clipped", "next", 4)
    graph = anchored("next", chain)
    chosen = scales(graph, wide=(-9, 9), clipped=(0, 3), next=(-1, 1))
    assert chosen["wide"] == chosen["clipped"]
    assert chosen["wide"].scale == np.float32(3 / 255)
    assert chosen["wide"].zero_point == -128
    wide = ops.Quantization(0.5, 10)
    assert clip_limits(ops.Clip("x", "y", 0.0, 3.0), wide) == (10, 16)
    assert clip_limits(ops.Clip("x", "y", -np.inf, 3.0), wide) == (-128, 16)
    assert clip_limits(ops.Clip("x", "y", 0.0, np.inf), wide) == (10, 127)


def test_a_clip_to_other_limits_is_refused() -> None:
    graph = with_every_operator()
    last = dataclasses.replace(graph.operators[-1], high=1.0)  # type: ignore[call-arg]
    graph = dataclasses.replace(graph, operators=[*graph.operators[:-1], last])
    chosen = choose_quantization(graph, observe_ranges(graph, IMAGES, 100))
    with pytest.raises(Exception, match=r"upscaled clips to 0\.\.1, and integers clip images"):
        apply_quantization(graph, chosen)


def test_no_root_lies_halfway_between_two_integers() -> None:
    """At the first scale LiteRT was off by one: its square root was wrong in the last bit."""
    before = ops.Quantization(535.1635131835938, -128)
    tie = ops.Quantization(1.4486761093139648, -128)
    after = _tie_avoiding(before, tie)
    assert tie.scale < after.scale < 1.01 * tie.scale
    assert _tie_avoiding(before, after) == after
    roots = np.sqrt(np.arange(256) * before.scale) / after.scale
    assert np.abs(roots % 1 - 0.5).min() > 1e-5
