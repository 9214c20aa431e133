"""The model card for Hugging Face, as its own library reads it."""

from __future__ import annotations

import pytest

from anchorsr.models.hugging_face import describe
from anchorsr.models.registry import Model, list_models


@pytest.mark.slow
@pytest.mark.parametrize("model", list_models(), ids=lambda model: model.path.stem)
def test_library_reads_the_figures_of_the_card(model: Model) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs anchorsr[dev]")
    data = hub.ModelCard(describe(model)).data
    assert (data.license, data.pipeline_tag) == ("apache-2.0", "image-to-image")
    assert (data.library_name, data.model_name) == ("anchorsr", model.path.stem)
    read = {
        (result.dataset_name, result.metric_type, result.metric_name): result.metric_value
        for result in data.eval_results
    }
    scores = [score for score in model.card.figures if score.method == "int8"]
    assert scores
    assert len(read) == 3 * len(scores)
    for score in scores:
        name_of_set = score.test_set
        if score.damage != "clean":
            name_of_set += f", {score.damage}"
        expected = {"PSNR, RGB": score.psnr_rgb, "PSNR, luma": score.psnr_y}
        for name, value in expected.items():
            key = (name_of_set, "psnr", f"{name}, INT8")
            assert read[key] == pytest.approx(value, abs=1e-4)
        assert read[name_of_set, "ssim", "SSIM, luma, INT8"] == pytest.approx(
            score.ssim_y, abs=1e-4
        )


def test_text_says_what_a_user_must_know() -> None:
    (model,) = (one for one in list_models() if one.path.stem == "quality_x3")
    text = describe(model)
    for words in ("## Training data", "CC BY-SA 4.0", "Intended use and limits", "SHA-256"):
        assert words in text
    assert model.card.sha256 in text
    assert "shared" not in text
