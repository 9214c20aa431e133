"""Every error that anchorsr raises on purpose, as one tree.

    AnchorSRError
    ├── ImageError            a file is not an image that can be read or written
    ├── VideoError              a file is not a video that can be read, or not one that is handled
    ├── OutputError             an output would destroy something, or cannot be written
    ├── DataError               a folder or set of images does not hold what is needed
    ├── RecipeError             a recipe has an unknown key or an impossible value
    ├── CheckpointError         a checkpoint is damaged or belongs to another network or recipe
    ├── TrainingError           training cannot go on (a loss that is not finite)
    ├── ModelError              an unknown model, a factor without a model, an unreadable model file
    ├── GraphError              a graph that is not well formed, or holds an unsupported operator
    ├── ExactnessError          a runtime does not reproduce the integer arithmetic
    ├── BenchmarkError          something that is to be measured does not run
    ├── MissingDependencyError  an optional package is not installed
    └── StoppedError            the user interrupted; the message says how to go on

A message says what was expected, what came, and what to do. The command line prints it as
one line and exits with 1; a traceback is a bug.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class AnchorSRError(Exception):
    """The root: catch it to catch everything that anchorsr raises on purpose."""


class ImageError(AnchorSRError):
    """A file is missing, damaged, not an image, or of a kind that is not handled."""


class VideoError(AnchorSRError):
    """A file is missing, damaged, not a video, or holds one of a kind that is not handled."""


class OutputError(AnchorSRError):
    """An output exists already, equals its input, or cannot be written."""


class DataError(AnchorSRError):
    """A folder or set of images does not hold what is needed."""


class RecipeError(AnchorSRError):
    """A recipe has an unknown key, a missing one, or a value out of range."""


class CheckpointError(AnchorSRError):
    """A checkpoint is damaged, or belongs to another network or recipe."""


class TrainingError(AnchorSRError):
    """Training cannot go on; the last good checkpoint is kept."""


class ModelError(AnchorSRError):
    """No such model, no such factor, or a model file that cannot be used."""


class GraphError(AnchorSRError):
    """A graph is not well formed, or holds an operator that is not supported."""


class ExactnessError(AnchorSRError):
    """A runtime's bytes differ from the integer arithmetic's."""


class BenchmarkError(AnchorSRError):
    """Something that is to be measured does not run."""


class MissingDependencyError(AnchorSRError):
    """An optional package is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is needed here and is not installed: pip install 'anchorsr[{extra}]'"
        )


class StoppedError(AnchorSRError):
    """The user interrupted a command; the message says how far it came and how to go on."""


@contextmanager
def needs(package: str, extra: str) -> Iterator[None]:
    """Import inside this: a package that is missing becomes a MissingDependencyError."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("anchorsr"):
            raise  # a bug of ours, not something that the user can install
        raise MissingDependencyError(package, extra) from error
