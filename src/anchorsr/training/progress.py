"""How far a run is, as callers of the training loop are told."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainingProgress:
    """How far a run is.

    Attributes:
        step: Number of steps taken.
        steps: Number of steps in all.
        loss: Mean since the last report, or with a validation since the last validation, in
            levels of 255 (L1) or their squares (L2).
        learning_rate: The rate of the last step.
        seconds_per_step: Mean since the last report.
        validation: PSNR in dB by the name of the set, when the run has just been validated.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds_per_step: float
    validation: dict[str, float] = field(default_factory=dict)
