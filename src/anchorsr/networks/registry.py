"""The networks, one readable file each, and the table that recipes name them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anchorsr.errors import RecipeError
from anchorsr.networks.abpn import ABPN, ABPNConfig
from anchorsr.networks.carn import CARN, CARNConfig
from anchorsr.networks.conditioned import ConditionedABPN, ConditionedABPNConfig
from anchorsr.networks.drrn import DRRN, DRRNConfig
from anchorsr.networks.edsr import EDSR, EDSRConfig
from anchorsr.networks.fsrcnn import FSRCNN, FSRCNNConfig
from anchorsr.networks.idn import IDN, IDNConfig
from anchorsr.networks.imdn import IMDN, IMDNConfig
from anchorsr.networks.latticenet import LatticeNet, LatticeNetConfig
from anchorsr.networks.layers import RecipeNetwork
from anchorsr.networks.residual_forms import ResidualForm, ResidualFormConfig
from anchorsr.networks.srresnet import SRResNet, SRResNetConfig
from anchorsr.networks.vdsr import VDSR, VDSRConfig
from anchorsr.utils.config import parse_table

__all__ = [
    "ABPN",
    "NETWORKS",
    "ABPNConfig",
    "RecipeNetwork",
    "ResidualForm",
    "ResidualFormConfig",
    "build_network",
]

# Each name's network and its options.
NETWORKS: Mapping[str, tuple[type[Any], type[Any]]] = {
    "abpn": (ABPN, ABPNConfig),
    "conditioned_abpn": (ConditionedABPN, ConditionedABPNConfig),
    "residual_form": (ResidualForm, ResidualFormConfig),
    "fsrcnn": (FSRCNN, FSRCNNConfig),
    "vdsr": (VDSR, VDSRConfig),
    "drrn": (DRRN, DRRNConfig),
    "edsr": (EDSR, EDSRConfig),
    "srresnet": (SRResNet, SRResNetConfig),
    "carn": (CARN, CARNConfig),
    "idn": (IDN, IDNConfig),
    "imdn": (IMDN, IMDNConfig),
    "latticenet": (LatticeNet, LatticeNetConfig),
}


def build_network(options: Mapping[str, Any]) -> RecipeNetwork:
    """The network that a recipe's [network] table describes: its `name` and its options.

    Raises RecipeError for an unknown name or option.
    """
    table = dict(options)
    name = table.pop("name", None)
    if not isinstance(name, str) or name not in NETWORKS:
        raise RecipeError(f"[network] name is one of: {', '.join(NETWORKS)}; not {name!r}")
    network, config = NETWORKS[name]
    made: RecipeNetwork = network(parse_table(config, table, "network"))
    return made
