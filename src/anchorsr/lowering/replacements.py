"""What to use in place of PyTorch's modules and functions that cannot be lowered."""

from __future__ import annotations

_ACTIVATION = "use nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.SiLU or nn.Hardswish in its place"
_NORMALIZATION = (
    "its statistics depend on the image: use nn.BatchNorm2d, which becomes part of a convolution"
)
_SIZE = (
    "sizes are not part of a graph, which takes images of every size: give numbers, such as"
    " scale_factor=2, in place of what is computed from a shape"
)
_LAYOUT = (
    "tensors stay (N, C, H, W): use convolutions (1x1 in place of nn.Linear), nn.PixelShuffle,"
    " nn.PixelUnshuffle, torch.cat and torch.chunk"
)
_ATTENTION = (
    "products of matrices have no 8-bit form here: use convolutions, gates (x * sigmoid(...)) and"
    " nn.AdaptiveAvgPool2d(1)"
)
_PADDING = "devices pad with zeros: use the padding of the convolution"

_GROUPS = {
    _ACTIVATION: "GELU gelu ELU elu SELU selu CELU celu Mish mish Softplus softplus Hardshrink"
    " Softsign softsign RReLU GLU glu exp log sin cos",
    "use 2 * torch.sigmoid(2 * x) - 1, which is the same": "Tanh tanh",
    _NORMALIZATION: "InstanceNorm2d instance_norm GroupNorm group_norm LayerNorm layer_norm"
    " LocalResponseNorm normalize std var",
    _SIZE: "size shape getattr expand_as",
    _LAYOUT: "Linear linear Flatten flatten Unflatten view reshape permute transpose unsqueeze"
    " squeeze stack unbind rearrange einops expand",
    _ATTENTION: "MultiheadAttention scaled_dot_product_attention matmul bmm einsum softmax Softmax"
    " Softmax2d",
    _PADDING: "ReflectionPad2d ReplicationPad2d CircularPad2d ConstantPad2d ZeroPad2d pad",
    "use nn.ConvTranspose2d as a module": "conv_transpose2d",
    "filters that depend on the image have no 8-bit form here: use convolutions with gates"
    " (x * sigmoid(...))": "grid_sample unfold fold Unfold Fold DeformConv2d",
    "use torch.relu, torch.clamp or nn.MaxPool2d": "max min maximum minimum amax amin where abs",
}
_REPLACEMENTS = {name: words for words, names in _GROUPS.items() for name in names.split()}


def replacement(kind: str) -> str:
    """Return what to use in place of a module or function; nothing if there is no advice."""
    return _REPLACEMENTS.get(kind, "")
