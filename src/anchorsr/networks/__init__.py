"""The networks, one readable file each, and the table that recipes name them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anchorsr.errors import RecipeError
from anchorsr.networks.abpn import ABPN, ABPNConfig
from anchorsr.networks.fsrcnn import FSRCNN, FSRCNNConfig
from anchorsr.networks.layers import RecipeNetwork
from anchorsr.networks.residual_forms import ResidualForm, ResidualFormConfig
from anchorsr.recipes import parse_table

__all__ = [
    "ABPN",
    "FSRCNN",
    "NETWORKS",
    "ABPNConfig",
    "FSRCNNConfig",
    "RecipeNetwork",
    "ResidualForm",
    "ResidualFormConfig",
    "build_network",
]

# Each name's network and its options.
NETWORKS: Mapping[str, tuple[type[Any], type[Any]]] = {
    "abpn": (ABPN, ABPNConfig),
    "fsrcnn": (FSRCNN, FSRCNNConfig),
    "residual_form": (ResidualForm, ResidualFormConfig),
}


def build_network(options: Mapping[str, Any]) -> RecipeNetwork:
    """The network that a recipe's [network] table describes: its `name` and its options.

    Raises RecipeError for an unknown name or option.
    """
    table = dict(options)
    name = table.pop("name", None)
    if name not in NETWORKS:
        raise RecipeError(f"[network] name is one of: {', '.join(NETWORKS)}; not {name!r}")
    network, config = NETWORKS[name]
    made: RecipeNetwork = network(parse_table(config, table, "network"))
    return made
