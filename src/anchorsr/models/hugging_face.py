"""A model's page for Hugging Face: README.md with the metadata that its Hub reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from anchorsr.metrics import Score
from anchorsr.models.registry import Model, takes_strengths

# The photographs that the shipped models are trained on, and their licences as the sources say.
_TRAINING_DATA = (
    ("CID22", "227", "CC BY-SA 4.0"),
    ("CLIC 2025", "71 tiles", "Unsplash licence"),
    ("BSDS500, train and test parts", "399", "none stated; a research data set"),
    (
        "wallpapers of free desktops",
        "61",
        "CC0, CC BY, CC BY-SA, GPL-2+ and Unsplash licence, by author",
    ),
    ("T91", "90", "none stated; a research data set"),
    ("gb82", "16", "CC0"),
)
_CLEAN = (
    "For photographs and graphics that are small and clean: reduced images, thumbnails, frames of\n"
    "films of good quality. The model restores edges; it invents no texture. It makes flaws of\n"
    "compression, noise and scans sharper, too."
)
_DEGRADED = (
    "For photographs that went through compression, noise or a scan, and for clean ones. The\n"
    "model restores edges and removes artefacts; it invents no texture. It was trained on damaged\n"
    "images, too, made from those below."
)
_NAMES = {"psnr_rgb": "PSNR, RGB", "psnr_y": "PSNR, luma", "ssim_y": "SSIM, luma"}


def describe(model: Model) -> str:
    """Write the README.md of a shipped model's repository on Hugging Face.

    Args:
        model: The model.

    Returns:
        Markdown, with the figures of the model's card as a `model-index` in its front matter.
    """
    int8 = [score for score in model.card.figures if score.method == "int8"]
    front = "\n".join(_yaml(_metadata(model, int8)))
    return f"---\n{front}\n---\n\n{_text(model, int8)}"


def _metadata(model: Model, scores: Sequence[Score]) -> dict[str, Any]:
    task = {"type": "image-to-image", "name": f"Super-resolution, x{model.factor}"}
    results = [
        {
            "task": task,
            "dataset": {"type": score.test_set, "name": _set_of(score)},
            "metrics": [
                {
                    "type": key.partition("_")[0],
                    "name": f"{name}, INT8",
                    "value": round(getattr(score, key), 4),
                }
                for key, name in _NAMES.items()
            ],
        }
        for score in scores
    ]
    return {
        "license": "apache-2.0",
        "library_name": "anchorsr",
        "pipeline_tag": "image-to-image",
        "tags": ["super-resolution", "int8", "tflite", "litert", "onnx", "mobile"],
        "model-index": [{"name": model.path.stem, "results": results}],
    }


def _set_of(score: Score) -> str:
    """Name the test set, and what was done to its images."""
    return score.test_set if score.damage == "clean" else f"{score.test_set}, {score.damage}"


def _text(model: Model, scores: Sequence[Score]) -> str:
    card = model.card
    field = card.receptive_field
    sees = f", receptive field {field}x{field}" if field else ""
    figures = "\n".join(
        f"| {_set_of(score)} | {score.images} | {score.psnr_rgb:.3f} | {score.psnr_y:.3f} |"
        f" {score.ssim_y:.4f} |"
        for score in scores
    )
    data = "\n".join(f"| {' | '.join(row)} |" for row in _TRAINING_DATA)
    file = model.path.name
    return f"""# {model.path.stem}

Super-resolution of RGB images, {model.factor} times as high and wide, in 8-bit integers.
{card.parameters:,} parameters, {card.macs_per_lr_pixel:,} multiplications per input pixel{sees}.

- `{file}` for LiteRT (TensorFlow Lite): uint8 (1, height, width, 3) in, uint8
  (1, {model.factor} · height, {model.factor} · width, 3) out, for every height and width.
- Every byte of its output is that of an integer arithmetic, on every device that executes the file
  in integers.

## Use

```python
import anchorsr

image = anchorsr.upscale("photo.jpg", model="{model.name}", factor={model.factor})
```

```python
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("{file}")
source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
interpreter.resize_tensor_input(source["index"], [1, height, width, 3])
interpreter.allocate_tensors()
interpreter.set_tensor(source["index"], image[None])
interpreter.invoke()
upscaled = interpreter.get_tensor(target["index"])[0]
```

## Figures

INT8 in LiteRT; LR images by MATLAB's bicubic; {model.factor} pixels cut off each side; means.

| test set | images | PSNR RGB | PSNR luma | SSIM luma |
|---|---|---|---|---|
{figures}

## Intended use and limits

{_DEGRADED if takes_strengths(model.path) else _CLEAN}
Do not take its output for evidence of what was
before the camera.

## Training data

| images | number | licence |
|---|---|---|
{data}

and synthetic images of letters, lines and areas. The test sets are not among them. The model holds
no image; whether licences of training images bear on its use is for you to judge.

SHA-256 of the file: `{card.sha256}`
"""


def _yaml(value: dict[str, Any], indent: str = "") -> list[str]:
    """Return the lines of nested tables and lists; strings and numbers as JSON, which is YAML."""
    lines: list[str] = []
    for key, entry in value.items():
        if isinstance(entry, dict):
            lines += [f"{indent}{key}:", *_yaml(entry, f"{indent}  ")]
        elif isinstance(entry, list):
            lines.append(f"{indent}{key}:")
            for item in entry:
                nested = _yaml(item) if isinstance(item, dict) else [json.dumps(item)]
                lines.append(f"{indent}- {nested[0]}")
                lines += [f"{indent}  {line}" for line in nested[1:]]
        else:
            lines.append(f"{indent}{key}: {json.dumps(entry)}")
    return lines
