"""The exceptions that anchorsr raises on purpose, as one tree.

    AnchorSRError
    ├── ImageError              an image cannot be read or written
    ├── VideoError              a video cannot be read, or is of an unsupported kind
    ├── OutputError             an output cannot be written, or would overwrite something
    │   └── InUseError          another process is writing it
    ├── DataError               a dataset is incomplete
    ├── StoreError              an object store or disk cannot be read or written for now
    ├── ClusterError            a cluster cannot be joined, or has lost its workers
    ├── RecipeError             a recipe has an unknown key or an invalid value
    ├── CheckpointError         a checkpoint is damaged or does not fit the network or recipe
    ├── TrainingError           training cannot continue (the loss is not finite)
    ├── ModelError              a model is unknown, has no such factor, or cannot be read
    ├── GraphError              a graph is malformed or has an unsupported operator
    ├── ExactnessError          a runtime does not reproduce the integer arithmetic
    ├── BenchmarkError          a benchmark cannot run
    ├── MissingDependencyError  an optional package is not installed
    ├── RequestError            a request to a server is refused, or its job failed
    └── StoppedError            the user interrupted the command

A message says what was expected, what was found and what to do. The command line prints it as one
line and exits with 1; a traceback is a bug.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class AnchorSRError(Exception):
    """The base class of all exceptions that anchorsr raises on purpose."""


class ImageError(AnchorSRError):
    """An image is missing, damaged or of an unsupported kind."""


class VideoError(AnchorSRError):
    """A video is missing, damaged or of an unsupported kind."""


class OutputError(AnchorSRError):
    """An output exists already, equals its input, or cannot be written."""


class InUseError(OutputError):
    """Another process is writing the output."""


class DataError(AnchorSRError):
    """A folder or dataset lacks required images."""


class StoreError(AnchorSRError):
    """An object store or a disk cannot be read or written, which may be different later."""


class ClusterError(AnchorSRError):
    """A cluster cannot be joined, or has lost its workers."""


class RecipeError(AnchorSRError):
    """A recipe has an unknown or missing key, or an invalid value."""


class CheckpointError(AnchorSRError):
    """A checkpoint is damaged, or does not fit the network or recipe."""


class TrainingError(AnchorSRError):
    """Training cannot continue; the last good checkpoint is kept."""


class ModelError(AnchorSRError):
    """A model is unknown, has no such factor, or its file cannot be used."""


class GraphError(AnchorSRError):
    """A graph is malformed or has an unsupported operator."""


class ExactnessError(AnchorSRError):
    """The output of a runtime differs from the exact integer result."""


class BenchmarkError(AnchorSRError):
    """A benchmark cannot run."""


class MissingDependencyError(AnchorSRError):
    """An optional package is not installed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is needed here and is not installed: pip install 'anchorsr[{extra}]'"
        )


class StoppedError(AnchorSRError):
    """The user interrupted a command; the message says what is done and how to resume."""


class RequestError(AnchorSRError):
    """A request to a server was refused, or its job failed.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def needs(package: str, extra: str) -> Iterator[None]:
    """Turn a failed import inside the `with` block into a MissingDependencyError.

    Args:
        package: The package's name, for the message.
        extra: The extra of anchorsr that installs it.

    Raises:
        MissingDependencyError: A package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("anchorsr"):
            raise  # a bug, not a missing package
        raise MissingDependencyError(package, extra) from error


def unknown_choice(kind: str, value: object, choices: Iterable[str], *, condition: str = "") -> str:
    """Phrase the message for a name that is not one of those that exist.

    Args:
        kind: What is chosen, such as "engine".
        value: The name that was given.
        choices: The names that exist.
        condition: What else was required, such as "for factor 3".
    """
    condition = condition and f" {condition}"
    return f"no {kind} {value!r}{condition}; choose from: {', '.join(choices)}"
