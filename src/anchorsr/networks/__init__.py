"""The networks, one readable file each, and the table that recipes name them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anchorsr.errors import RecipeError
from anchorsr.networks.abpn import ABPN, ABPNConfig
from anchorsr.recipes import parse_table

__all__ = ["ABPN", "ABPNConfig", "build_network"]


def build_network(options: Mapping[str, Any]) -> ABPN:
    """The network that a recipe's [network] table describes: its `name` and its options.

    Raises RecipeError for an unknown name or option.
    """
    table = dict(options)
    name = table.pop("name", None)
    if name != "abpn":
        raise RecipeError(f"[network] name is one of: abpn; not {name!r}")
    return ABPN(parse_table(ABPNConfig, table, "network"))
