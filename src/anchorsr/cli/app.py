"""Collect the commands, and turn what they raise into one line and an exit code.

Results go to standard output, progress and errors to standard error. An error is one line and exit
code 1; wrong usage is one line and exit code 2. Ctrl-C and every other request to stop is one line
and 128 plus the number of its signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for a closed terminal.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from typing import Annotated, Any

import typer

from anchorsr import __version__
from anchorsr.cli.terminal import (
    complain,
    console,
    give_up_stdout,
    prepare_streams,
    show_trials,
    visible,
)
from anchorsr.cli.usage import describe_usage_error
from anchorsr.errors import AnchorSRError, StoppedError
from anchorsr.utils.files import reason
from anchorsr.utils.signals import ignore_interrupts, interrupted_code, raise_interrupts

# Commands and groups of commands: the function or the Typer of each, in `cli.commands`. A module is
# imported when its command is called, because all of them together take longer than an image.
_COMMANDS = {
    "upscale": "upscale:upscale_command",
    "bulk": "bulk:bulk_command",
    "video": "video:video_command",
    "serve": "serve:serve_command",
    "compare": "compare:compare_command",
    "models": "models:models_command",
    "evaluate": "models:evaluate_command",
    "train": "training:train_command",
    "quantize": "training:quantize_command",
    "study": "study:study_command",
    "export": "models:export_command",
    "challenge": "challenge:challenge_command",
    "engines": "engines:engines_command",
    "benchmark": "benchmark:benchmark_command",
    "report": "probe:report_command",
}
_GROUPS = {"data": "data:data_app", "probe": "probe:probe_app"}


def _print_version(requested: bool) -> None:
    if requested:
        print(f"anchorsr {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Upscale images and videos; train, quantize, export and benchmark the networks for it."""


@functools.cache
def command_line(only: str = "") -> Any:
    """Build the command line, as a command of Click's kind.

    Args:
        only: The one command or group that it needs to have; by default, and if there is none of
            this name, it has all.
    """
    app = typer.Typer(
        name="anchorsr",
        help="Super-resolution on phones, in browsers and on plain CPUs, in 8-bit integers.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    known = only in _COMMANDS or only in _GROUPS
    for name in [only] if known else _COMMANDS:
        if name in _COMMANDS:
            app.command(name)(_load(_COMMANDS[name]))
    for name in [only] if known else _GROUPS:
        if name in _GROUPS:
            app.add_typer(_load(_GROUPS[name]), name=name)
    return typer.main.get_command(app)


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"anchorsr.cli.commands.{module}"), name)


def main(arguments: list[str]) -> int:
    """Run a command line in a process of its own.

    Args:
        arguments: The words after `anchorsr`.

    Returns:
        The exit code.
    """
    try:
        raise_interrupts()
        # If a native library aborts a training, its message is needed; elsewhere it is noise.
        prepare_streams(drop_native="train" not in arguments[:1])
        show_trials()
        code = run(arguments)
    except KeyboardInterrupt:  # while a result or an error is printed
        code = interrupted_code()
    except OSError:  # there is no standard error any more, as after a terminal was closed
        code = 1
    ignore_interrupts()
    return code


def run(arguments: list[str]) -> int:
    """Run a command line in this process.

    Args:
        arguments: The words after `anchorsr`.

    Returns:
        The exit code.
    """
    if any(re.fullmatch(r"(--[\w-]+=)?", each) for each in arguments):
        # As a path it would be the current folder.
        complain("an argument is empty: is a shell variable not set?")
        return 2
    try:
        program = command_line(*arguments[:1])
        code = program(arguments, prog_name="anchorsr", standalone_mode=False)
        sys.stdout.flush()
    except StoppedError as stopped:
        console().print(f"stopped: {visible(stopped)}", soft_wrap=True, markup=False)
        return interrupted_code()
    except AnchorSRError as error:
        complain(error)
        return 1
    except BrokenPipeError:  # the reader of our output is gone, as with `head`
        give_up_stdout()
        return 1
    except SystemExit as exit_:
        if exit_.code == 0:  # --install-completion and --show-completion
            return 0
        give_up_stdout()  # Typer turns a broken pipe into this
        return 1
    except OSError as error:  # most are caught where they occur; a full disk under stdout is not
        complain(f"{error.filename or 'the results cannot be printed'}: {reason(error)}")
        give_up_stdout()
        return 1
    except MemoryError:
        complain(_NO_MEMORY)
        return 1
    except Exception as error:
        # Usage errors of Typer, which are not public classes in all its versions.
        if not hasattr(error, "format_message"):
            if isinstance(error, RuntimeError) and re.search(_PYTORCH_NO_MEMORY, str(error)):
                complain(f"{_NO_MEMORY}; to train, a smaller data.batch")
                return 1
            raise
        message = describe_usage_error(error)
        if message:
            words = ["anchorsr", *_command(arguments), "--help"]
            complain(f"{message} (see {' '.join(words)})")
        return 2
    if code == _INTERRUPTED:
        resumes = _command(arguments) in (["train"], ["quantize"])
        console().print(f"stopped{_RESUMES if resumes else ''}")
        return interrupted_code()
    return code if isinstance(code, int) else 0


_NO_MEMORY = "there is not enough memory for this: use smaller images, or fewer at once"
_PYTORCH_NO_MEMORY = "out of memory|can't allocate memory"

# What Typer returns after a KeyboardInterrupt.
_INTERRUPTED = 130
_RESUMES = "; the same command resumes from the last checkpoint"


def _command(arguments: list[str]) -> list[str]:
    """The name of the command that is called, after its group's; empty if there is none."""
    name, below = (*arguments[:2], "", "")[:2]
    if name in _GROUPS:
        known = [command.name for command in _load(_GROUPS[name]).registered_commands]
        return [name, below] if below in known else [name]
    return [name] if name in _COMMANDS else []
