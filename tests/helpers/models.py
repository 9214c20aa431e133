"""The shipped models as parameters of tests."""

from __future__ import annotations

import pytest

from anchorsr.models.registry import list_models

# One of each kind; tests that take long for all models run with the others only as slow ones.
_FEW = ("fast_x2", "quality_x3", "photo_x3")

SHIPPED = list_models()

each_model = pytest.mark.parametrize("model", SHIPPED, ids=lambda model: model.path.stem)
each_model_but_most_slowly = pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            model,
            id=model.path.stem,
            marks=() if model.path.stem in _FEW else pytest.mark.slow,
        )
        for model in SHIPPED
    ],
)
