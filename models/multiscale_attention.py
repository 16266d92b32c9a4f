"""MAM: the maps of one scale drawn to the maps of another network at several scales.

Yoon et al., "Exploring Pixel-level Self-supervision for Weakly Supervised Semantic Segmentation",
arXiv 2112.05351, after the abstract; the weights from KAIST-vilab/AEFT. Used by
baselines/support_net.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_targets(main: list[Tensor], support: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """G_s = mean over r of w_sr A_r, w_sr = 2 - cos(M_s, A_r), per image and class.

    main: the maps M_s (B,C,h,w) of MAIN_SCALES; support: A_r. Returns the targets, and the weights
    (S,R,B,C). The cosine of a zero map is 0. Without gradient.
    """
    vectors = [torch.stack(maps).detach().flatten(3) for maps in (main, support)]
    weights = 2 - F.cosine_similarity(vectors[0][:, None], vectors[1][None], dim=-1)
    targets = torch.einsum("srbc,rbchw->sbchw", weights, torch.stack(support)) / len(support)
    return list(targets.detach()), weights


def attention_loss(main: list[Tensor], targets: list[Tensor]) -> Tensor:
    """L_MAM: sum over scales of the mean absolute difference of map and target."""
    return sum((m - g).abs().mean() for m, g in zip(main, targets, strict=True))
