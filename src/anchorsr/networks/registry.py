"""The networks that recipes can name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from anchorsr.errors import RecipeError, unknown_choice
from anchorsr.networks.base import RecipeNetwork
from anchorsr.networks.external import build_external
from anchorsr.utils.config import parse_table

# The module of each network, which is its name in recipes, and its class. The module also holds
# the class's options, under the same name with "Config".
NETWORKS: Mapping[str, str] = {
    "abpn": "ABPN",
    "conditioned_abpn": "ConditionedABPN",
    "residual_form": "ResidualForm",
    "fsrcnn": "FSRCNN",
    "vdsr": "VDSR",
    "drrn": "DRRN",
    "edsr": "EDSR",
    "srresnet": "SRResNet",
    "carn": "CARN",
    "idn": "IDN",
    "imdn": "IMDN",
    "latticenet": "LatticeNet",
    "ecbsr": "ECBSR",
    "etds": "ETDS",
    "quicksrnet": "QuickSRNet",
}


def build_network(options: Mapping[str, Any]) -> RecipeNetwork:
    """Build the network that the [network] table of a recipe describes.

    Args:
        options: The network's `name` and its options. The name `package.module:Class` is that of
            a PyTorch module (`external`).

    Raises:
        RecipeError: The name or an option is unknown, or a value is out of range.
    """
    table = dict(options)
    name = table.pop("name", None)
    if isinstance(name, str) and ":" in name:
        return build_external(name, table)
    if not isinstance(name, str) or name not in NETWORKS:
        raise RecipeError(f"[network] name: {unknown_choice('network', name, NETWORKS)}")
    network_class, config_class = load_classes(name)
    network: RecipeNetwork = network_class(parse_table(config_class, table, "network"))
    return network


def load_classes(name: str) -> tuple[type[Any], type[Any]]:
    """Import a network's class and the dataclass of its options."""
    module = import_module(f"anchorsr.networks.{name}")
    return getattr(module, NETWORKS[name]), getattr(module, f"{NETWORKS[name]}Config")
