"""Optimizers and learning rate schedules of recipes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from anchorsr.errors import needs
from anchorsr.training.recipe import OptimizerRecipe, ScheduleRecipe


def make_optimizer(recipe: OptimizerRecipe, parameters: list[nn.Parameter]) -> Any:
    """Make the optimizer that a recipe names.

    Raises:
        MissingDependencyError: SOAP's library is not installed.
    """
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
        max_precondition_dim=1200,  # larger than every kernel here; the default is 10,000
    )


def learning_rate(schedule: ScheduleRecipe, peak: float, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    if step < schedule.warmup:
        return peak * (step + 1) / schedule.warmup
    if schedule.decay == "halving":
        return peak * 0.5 ** (step // schedule.halve_every)
    if schedule.decay == "cosine":
        part = (step - schedule.warmup) / (schedule.steps - schedule.warmup)
        return peak * 0.5 * (1 + math.cos(math.pi * part))
    return peak
