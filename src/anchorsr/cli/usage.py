"""Usage errors in our own words, instead of those of Typer and the libraries below it."""

from __future__ import annotations

import re
from typing import Any

import typer


class UsageError(typer.BadParameter):
    """Wrong usage of an option, with a message that is printed as it is."""


# By the first word of the name that Typer, or Click before Typer 0.26, has for a type.
_NUMBERS = {"int": "a whole number", "integer": "a whole number", "float": "a number"}


def describe_usage_error(error: Exception) -> str:
    """Phrase a usage error of Typer as one line.

    Args:
        error: An exception with `format_message`, as Typer raises it for wrong usage.

    Returns:
        The message; empty if the help was printed instead.
    """
    kind = type(error).__name__
    parameter = getattr(error, "param", None)
    message = str(getattr(error, "message", error)).strip().rstrip(".")
    if kind == "NoArgsIsHelpError":
        return ""
    if kind == "MissingParameter":
        return _describe_missing(parameter)
    if kind == "NoSuchOption":
        return _describe_unknown_option(error)
    if kind == "BadOptionUsage":
        takes = "takes no value" if "not take" in message else "needs a value"
        return f"{getattr(error, 'option_name', 'an option')} {takes}"
    if parameter is not None and not isinstance(error, UsageError):
        return _describe_bad_value(error, parameter)
    if command := re.match(r"No such command '(.*?)'\.?(?: Did you mean '(.*)'\?)?$", message):
        meant = f"; did you mean {command[2]}?" if command[2] else ""
        return f"there is no command {command[1]!r}{meant}"
    if extra := re.match(r"Got unexpected extra argument(?:s|\(s\))? \((.*)\)", message):
        return f"unexpected argument: {extra[1]}"
    return message


def _describe_missing(parameter: Any) -> str:
    """`--output is missing`, or `IMAGES is missing: images, or folders of images`."""
    words = f"{_name(parameter)} is missing"
    help_text = (getattr(parameter, "help", None) or "").strip().rstrip(".")
    if help_text:
        words += f": {help_text[0].lower()}{help_text[1:]}"
    return words


def _describe_unknown_option(error: Any) -> str:
    words = f"there is no option {error.option_name}"
    similar = sorted(error.possibilities or ())
    return f"{words}; did you mean {' or '.join(similar)}?" if similar else words


def _describe_bad_value(error: Exception, parameter: Any) -> str:
    """`--quality is a whole number from 1 to 100, not '101'`."""
    words = f"{_name(parameter)} is {_expected(parameter)}"
    value = _given(error)
    return words if value is None else f"{words}, not {value!r}"


def _name(parameter: Any) -> str:
    """The long option, or the argument's name in capitals as the help shows it."""
    options = [text for text in parameter.opts if text.startswith("--")]
    return str(options[0]) if options else str(parameter.metavar or parameter.name).upper()


def _expected(parameter: Any) -> str:
    """What values a parameter takes, as far as Typer knows."""
    number = _NUMBERS.get(parameter.type.name.split()[0], "of another kind")
    low, high = getattr(parameter.type, "min", None), getattr(parameter.type, "max", None)
    if low is not None and high is not None:
        return f"{number} from {low} to {high}"
    if low is not None:
        return f"{number} of at least {low}"
    return number


def _given(error: Exception) -> str | None:
    """The value that was given, where the message tells it."""
    message = str(getattr(error, "message", error))
    told = re.match(r"(?P<quote>['\"]?)(?P<value>.*)(?P=quote) is not ", message, re.DOTALL)
    return told["value"] if told else None
