"""The optimizer that a recipe names, and its learning rate at each step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from anchorsr.errors import needs
from anchorsr.training.recipe import OptimizerRecipe, ScheduleRecipe


def make_optimizer(recipe: OptimizerRecipe, parameters: list[nn.Parameter]) -> Any:
    """Raises MissingDependencyError where SOAP's library is not installed."""
    if recipe.name == "adam":
        return torch.optim.Adam(parameters, lr=recipe.learning_rate, betas=recipe.betas)
    with needs("pytorch_optimizer", "train"):
        from pytorch_optimizer import SOAP  # slow to import, and only needed here

    return SOAP(
        parameters,
        lr=recipe.learning_rate,
        betas=recipe.betas,
        weight_decay=0.0,
        precondition_frequency=recipe.precondition_every,
        max_precondition_dim=1200,  # every side of every kernel here; the library's is 10,000
    )


def learning_rate(schedule: ScheduleRecipe, peak: float, step: int) -> float:
    """The rate of step number `step` (from 0)."""
    if step < schedule.warmup:
        return peak * (step + 1) / schedule.warmup
    if schedule.decay == "halving":
        return peak * 0.5 ** (step // schedule.halve_every)
    if schedule.decay == "cosine":
        part = (step - schedule.warmup) / (schedule.steps - schedule.warmup)
        return peak * 0.5 * (1 + math.cos(math.pi * part))
    return peak
