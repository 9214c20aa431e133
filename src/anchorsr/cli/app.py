"""The command line: gathers the commands, and turns what they raise into one line and a code.

Results go to standard output, progress and errors to standard error. An error is one line
and exit code 1; wrong usage is exit code 2; an interrupt is one line and exit code 130.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from anchorsr import __version__
from anchorsr.cli.commands import (
    benchmark,
    challenge,
    compare,
    data,
    models,
    probe,
    study,
    training,
    upscale,
    video,
)
from anchorsr.cli.terminal import complain, console, give_up_stdout, prepare_streams
from anchorsr.errors import AnchorSRError, StoppedError
from anchorsr.utils.files import reason

app = typer.Typer(
    name="anchorsr",
    help="Super-resolution that runs on phones, in browsers and on plain CPUs, in 8-bit integers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"anchorsr {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Make images and videos larger; train, quantize, export and measure the networks for it."""


_COMMANDS: dict[str, Callable[..., None]] = {
    "upscale": upscale.upscale_command,
    "video": video.video_command,
    "compare": compare.compare_command,
    "models": models.models_command,
    "evaluate": models.evaluate_command,
    "train": training.train_command,
    "quantize": training.quantize_command,
    "study": study.study_command,
    "export": models.export_command,
    "challenge": challenge.challenge_command,
    "benchmark": benchmark.benchmark_command,
    "report": probe.report_command,
}
for _name, _command_function in _COMMANDS.items():
    # Without arguments `models` lists them and `benchmark` runs; the others print their help.
    app.command(_name, no_args_is_help=_name not in ("models", "benchmark"))(_command_function)

_GROUPS = {"data": data.data_app, "probe": probe.probe_app}
for _name, _group in _GROUPS.items():
    app.add_typer(_group, name=_name)


def main() -> None:
    """The entry point of the `anchorsr` command."""
    # A training that a native library aborts should say so; the others should be quiet.
    prepare_streams(drop_native="train" not in sys.argv[1:2])
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Do what a command line asks for; returns the exit code."""
    if any(re.fullmatch(r"(--[\w-]+=)?", each) for each in arguments):
        # As a name that would be the folder where we are.
        complain("an argument is empty: is a variable of your shell not set?")
        return 2
    try:
        code = app(arguments, prog_name="anchorsr", standalone_mode=False)
        sys.stdout.flush()
    except StoppedError as stopped:
        console().print(f"stopped: {stopped}", soft_wrap=True, markup=False)
        return _INTERRUPTED
    except AnchorSRError as error:
        complain(error)
        return 1
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        give_up_stdout()
        return 1
    except SystemExit:  # Typer makes a broken pipe this
        give_up_stdout()
        return 1
    except OSError as error:  # most have a class of their own; a full disk under stdout has not
        complain(f"{error.filename or 'the results cannot be printed'}: {reason(error)}")
        give_up_stdout()
        return 1
    except MemoryError:
        complain(_NO_MEMORY)
        return 1
    except Exception as error:
        # Typer's usage errors, whose class has no name that is the same in all its versions.
        if not hasattr(error, "format_message"):
            if isinstance(error, RuntimeError) and re.search(_PYTORCH_NO_MEMORY, str(error)):
                complain(f"{_NO_MEMORY}; to train, a smaller data.batch")
                return 1
            raise
        message = error.format_message()
        if message:  # empty: the help was asked for, and is printed already
            words = ["anchorsr", *_command(arguments), "--help"]
            complain(f"{message.rstrip('.')}: see {' '.join(words)}")
        return 2
    if code == _INTERRUPTED:
        goes_on = _command(arguments) in (["train"], ["quantize"])
        console().print(f"stopped{_GOES_ON if goes_on else ''}")
    return int(code or 0)


_NO_MEMORY = "there is not enough memory for this: take smaller images or fewer at once"
_PYTORCH_NO_MEMORY = "out of memory|can't allocate memory"

# What Typer makes of Ctrl-C: 128 and the number of the signal, as shells count.
_INTERRUPTED = 130
_GOES_ON = "; the same command goes on from the last checkpoint"


def _command(arguments: list[str]) -> list[str]:
    """The name of the command that is called, with its group's; nothing if there is none."""
    name, below = (*arguments[:2], "", "")[:2]
    if name in _GROUPS:
        known = [command.name for command in _GROUPS[name].registered_commands]
        return [name, below] if below in known else [name]
    return [name] if name in _COMMANDS else []
