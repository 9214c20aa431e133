"""Parse nested TOML or JSON tables into dataclasses, refusing unknown keys and wrong types."""

from __future__ import annotations

import dataclasses
import reprlib
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from anchorsr.errors import RecipeError

Table = TypeVar("Table")


def parse_table(kind: type[Table], table: Mapping[str, Any], where: str) -> Table:
    """Build a dataclass from a table, including nested tables.

    Args:
        kind: The dataclass.
        table: The table, as `tomllib` or `json` returns it.
        where: The table's name, which starts the message of an error.

    Raises:
        RecipeError: For an unknown or missing key, or a value of the wrong type or out of range.
    """
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where or 'a recipe'} is a table, not {reprlib.repr(table)}")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for key in table:
        if key not in known:
            raise RecipeError(
                f"unknown key {prefix}{str(key)[:100]}; known are: {', '.join(known)}"
            )
    values = {}
    for name, entry in known.items():
        if name in table:
            values[name] = _convert(table[name], hints[name], f"{prefix}{name}")
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{prefix}{name} is missing")
    try:
        return kind(**values)
    except RecipeError as error:
        raise RecipeError(f"{prefix}{error}") from error


def require(condition: bool, message: str) -> None:
    """Raise RecipeError with the message unless the condition holds."""
    if not condition:
        raise RecipeError(message)


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is types.UnionType:  # "X | None": TOML has no null, but run.json does
        if value is None:
            return None
        return _convert(value, typing.get_args(hint)[0], where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where} is a table, not {reprlib.repr(value)}")
        return parse_table(hint, value, where)
    if origin is Literal:
        if not isinstance(value, str | int) or value not in typing.get_args(hint):
            choices = ", ".join(map(str, typing.get_args(hint)))
            raise RecipeError(f"{where} is one of {choices}; not {reprlib.repr(value)}")
        return value
    if origin is tuple:
        return _convert_tuple(value, typing.get_args(hint), where)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int) and not -_LIMIT < value < _LIMIT:  # too long to print
            raise RecipeError(f"{where} is out of range: it has too many digits")
        if not abs(value) <= sys.float_info.max:  # "not" also refuses NaN
            raise RecipeError(f"{where} is a finite number, not {value}")
        return float(value)
    if hint is int and type(value) is int and not -_LIMIT < value < _LIMIT:
        raise RecipeError(f"{where} is out of range: it has more than 64 bits")
    expected = Mapping if origin is not None else hint
    if not isinstance(value, expected) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(
            f"{where} is {getattr(expected, '__name__', expected)}, not {reprlib.repr(value)}"
        )
    return value


# Beyond it, integers fit neither an array nor a tensor.
_LIMIT = 2**63


def _convert_tuple(value: Any, items: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if isinstance(value, str) and items == (str, ...):  # a single name
        value = (value,) if value else ()
    if not isinstance(value, list | tuple):
        raise RecipeError(f"{where} is a list, not {reprlib.repr(value)}")
    if items[-1] is not Ellipsis and len(items) != len(value):
        raise RecipeError(f"{where} has {len(items)} entries, not {len(value)}")
    return tuple(_convert(entry, items[0], where) for entry in value)
