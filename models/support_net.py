"""SupportNet as the moving average of MainNet, the maps they compare, and a guard of both.

Yoon et al., arXiv 2112.05351; details after KAIST-vilab/AEFT, train_moco.py. The losses are in
models/regional_contrast.py and models/multiscale_attention.py; baselines/support_net.py trains.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.labels import IGNORE_INDEX
from models.carb import class_share
from models.inference import resize
from utils.safe.errors import InputError

EMA = 0.996  # of SupportNet's weights
GROWTH = 100.0  # of the maps, that stops a run; ours


def present_cams(cams: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """relu of the maps (B,C,h,w) of present classes (B,C), on the grid of `valid` (B,hl,wl).

    They are 0 on padding, where `valid` is False.
    """
    return resize(cams.relu(), valid.shape[-2:]) * labels[..., None, None] * valid[:, None]


@torch.no_grad()
def update_support(support: nn.Module, main: nn.Module) -> None:
    """theta_sup <- EMA theta_sup + (1 - EMA) theta_main, after each step."""
    for ours, theirs in zip(support.parameters(), main.parameters(), strict=True):
        ours.mul_(EMA).add_(theirs, alpha=1 - EMA)


class Guard:
    """Stop of a run whose maps grow: G_s is at least the mean map, SupportNet follows MainNet."""

    def __init__(self) -> None:
        self.start: list[float] = []  # cam_mean of the first step of MAM

    def check(self, cam_mean: float, step: int) -> None:
        """Raise InputError where cam_mean is more than GROWTH times its first value above 0."""
        if not self.start and cam_mean > 0:
            self.start = [cam_mean]
        if self.start and cam_mean > GROWTH * self.start[0]:
            raise InputError(
                f"cam_mean is {cam_mean:.3g} at step {step}, {GROWTH:.0f} times what it was when "
                f"MAM began ({self.start[0]:.3g}): the two networks raise each other's maps; "
                "lower lr, raise weight_decay, or leave MAM out (--without mam)"
            )

    def state_dict(self) -> dict[str, list[float]]:
        return {"start": self.start}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self.start = list(state["start"])


def on_grid(valid: Tensor, maps: Tensor) -> Tensor:
    """valid (B,H,W) on the grid of `maps` (B,C,h,w): bool (B,h,w), nearest."""
    return F.interpolate(valid[:, None].float(), maps.shape[-2:])[:, 0] > 0


def mean_of_present(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of values (...,B,C) over the present classes (B,C); 0 where there is none."""
    total = (values * labels).sum() * labels.numel() / values.numel()
    return total / labels.sum().clamp(min=1)


def region_shares(regions: Tensor, num_classes: int, first: int) -> dict[str, Tensor]:
    """Shares of the grid, for the log: of each class (K), background included, and of no region."""
    ids = torch.where(regions == IGNORE_INDEX, num_classes, (regions + first) % num_classes)
    shares = class_share(ids, num_classes + 1)
    return {"class_share": shares[:-1], "no_region": shares[-1]}
