"""Group normalisation and weight standardisation in place of batch norm, for small batches.

The pair of Qiao et al. 2019 (arXiv:1903.10520): group norm (Wu and He 2018) needs no statistics of
other images, standardised weights train from scratch as batch norm does.
"""

from torch import Tensor, nn

from models.kernels.cpu_speed import DilatedConv2d

GROUPS = 32  # of channels in a group norm; Wu and He 2018, section 4


class _Standardized:
    """A convolution with `standardized` weights; its parameters keep their names."""

    def _conv_forward(self, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(image, standardized(weight), bias)


class StandardizedConv2d(_Standardized, nn.Conv2d):
    pass


class StandardizedDilatedConv2d(_Standardized, DilatedConv2d):
    pass


_STANDARDIZED = {nn.Conv2d: StandardizedConv2d, DilatedConv2d: StandardizedDilatedConv2d}


def standardized(weight: Tensor) -> Tensor:
    """w <- (w - mean) / (std + 1e-5) of each output channel: (out, in, h, w), the same shape."""
    mean = weight.mean((1, 2, 3), keepdim=True)
    return (weight - mean) / (weight.std((1, 2, 3), keepdim=True) + 1e-5)


def num_groups(channels: int) -> int:
    """The most groups, up to 32, that divide the channels into groups of two or more.

    Two, since image-level pooling leaves one value a channel, which has no variance.
    """
    return next(g for g in range(min(GROUPS, max(1, channels // 2)), 0, -1) if channels % g == 0)


def use_group_norm(network: nn.Module) -> None:
    """Turn, in place, batch norms into group norms and convolutions into standardised ones.

    Convolutions keep their weights; a group norm starts at weight 1 and bias 0.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                channels = child.num_features
                setattr(module, name, nn.GroupNorm(num_groups(channels), channels))
        # nothing to build, as in `synchronize_batch_norms`: a standardised one adds no state
        module.__class__ = _STANDARDIZED.get(type(module), module.__class__)


def standardize_once(network: nn.Module) -> None:
    """Store, in place, the standardised weights in plain convolutions: the same function.

    For a network that is not trained any more; without such convolutions nothing changes.
    """
    plain = {standard: usual for usual, standard in _STANDARDIZED.items()}
    for module in network.modules():
        if type(module) in plain:
            module.weight.data = standardized(module.weight.data)
            module.__class__ = plain[type(module)]
