"""Weights of the inconsistent region that keep classes with bad masks; not in the paper.

CARB (Kim et al. 2024) has one w for all classes. A class whose masks are mostly wrong is
inconsistent almost everywhere: w falls, and nothing brings the class back. Here every inconsistent
pixel i has a weight of its own; in most variants it is that of the class P(i) of its pseudo-mask:

    L = L_c + (1 / |M_i|) sum over i in M_i of w_{P(i)} l_i,  on both views, l_i = -log f_{P(i)}(i)

Each variant is one function of `w` and of `ClassTotals`, sums over the classes' pixels in the
global views of the last `queue_size` steps, and one value of the key `region_balance`. The paper's,
`global`, is `CARBCriterion`. Weights carry no gradient and are finite and >= 0 where w is.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from datasets.labels import IGNORE_INDEX
from models.carb import (
    CORRECT,
    CARBCriterion,
    RegionRules,
    region_means,
    regions_of,
    split_regions,
    sums_by_class,
)
from models.views import Views, crop
from utils.distributed import all_reduce
from utils.safe.errors import InputError

FLOOR = 0.1
EXPONENT = 0.5


class ClassTotals(NamedTuple):
    """Sums over pixels, each (K,), by the class of the pseudo-mask; `predicted` by that of S."""

    consistent_loss: Tensor
    inconsistent_loss: Tensor
    consistent: Tensor  # pixels
    inconsistent: Tensor
    predicted: Tensor  # labelled pixels that S calls k
    best: Tensor  # the highest `consistent_share` since CARB began

    @property
    def consistent_share(self) -> Tensor:
        """c_k: share of the pixels with mask k that are consistent; 0 where there are none."""
        return self.consistent / (self.consistent + self.inconsistent).clamp(min=1)


# ---- weights by class: w, a scalar, and the totals -> (K,)


def floor(w: Tensor, totals: ClassTotals) -> Tensor:
    """w_k = max(w, 0.1)."""
    return w.clamp(min=FLOOR).expand_as(totals.consistent)


def root(w: Tensor, totals: ClassTotals) -> Tensor:
    """w_k = w^0.5: nearer to 1, but one for all classes."""
    return (w**EXPONENT).expand_as(totals.consistent)


def by_class(w: Tensor, totals: ClassTotals) -> Tensor:
    """w_k: mean loss of the consistent over that of the inconsistent pixels with mask k.

    w where either has no pixel, or where the quotient is not finite.
    """
    consistent = totals.consistent_loss / totals.consistent
    ratio = consistent / (totals.inconsistent_loss / totals.inconsistent)
    return torch.where(ratio.isfinite(), ratio, w)


def class_root(w: Tensor, totals: ClassTotals) -> Tensor:
    """sqrt(w_k w), w_k of `by_class`: between the class's own weight and that of all."""
    return (by_class(w, totals) * w).sqrt()


def class_agreement(w: Tensor, totals: ClassTotals) -> Tensor:
    """w_k a_k, w_k of `by_class`; a_k is the share of S's pixels of k whose mask is k too.

    a_k = 1 where S has no pixel of k, so that a class that has disappeared keeps w; 0 where S has
    some, but none where the mask is k.
    """
    agreement = totals.consistent / totals.predicted.clamp(min=1)
    return by_class(w, totals) * torch.where(totals.predicted > 0, agreement, 1.0)


def recovery(w: Tensor, totals: ClassTotals) -> Tensor:
    """w^(c_k / max c_k): w for a class at its best; its loss comes back, up to 1, as it disappears.

    The maximum of `consistent_share` is over all steps of CARB. w for a class that never was
    consistent, or that no mask of the last steps has.
    """
    seen = (totals.consistent + totals.inconsistent > 0) & (totals.best > 0)
    return w ** torch.where(seen, totals.consistent_share / totals.best, 1.0)


def class_start(w: Tensor, totals: ClassTotals) -> Tensor:
    """CARB starts class by class: w_k = 1 until c_k has once been above one half, then w."""
    return torch.where(totals.best > 0.5, w, 1.0)


WEIGHTS: dict[str, Callable[[Tensor, ClassTotals], Tensor]] = {
    "floor": floor,
    "root": root,
    "class": by_class,
    "class_root": class_root,
    "class_agreement": class_agreement,
    "recovery": recovery,
    "class_start": class_start,
}


# ---- weights by pixel, (B, H, W)


def at_pixels(weights: Tensor, pseudo_mask: Tensor) -> Tensor:
    """w_{P(i)}: weights (K,) of classes at the pixels of a mask (B, H, W); any where ignored."""
    return weights[pseudo_mask.masked_fill(pseudo_mask == IGNORE_INDEX, 0)]


def confidence(losses: Tensor) -> Tensor:
    """f_{P(i)}(i), in place of w: the network's probability of the mask's class; see `losses`."""
    return losses.detach().neg().exp()


def inconsistent_loss(
    losses: Tensor,
    weights: Tensor,
    pseudo_mask: Tensor,
    prediction: Tensor,
    rules: RegionRules = CORRECT,
) -> Tensor:
    """(1 / |M_i|) sum over M_i of weights times losses; all (B, H, W) -> scalar."""
    region = split_regions(pseudo_mask, prediction)[1]
    return region_means(weights * losses, [region], rules)[0][0]


def class_sums(
    losses: Tensor,
    pseudo_mask: Tensor,
    prediction: Tensor,
    num_classes: int,
    rules: RegionRules = CORRECT,
) -> Tensor:
    """The first five of `ClassTotals` for one batch (B, H, W) -> (5, K)."""
    regions = torch.stack(split_regions(pseudo_mask, prediction))
    values = torch.cat([torch.where(regions, losses.detach(), 0.0), regions.to(losses.dtype)])
    of_mask = sums_by_class(values, pseudo_mask, num_classes)
    labelled = (pseudo_mask != IGNORE_INDEX).to(losses.dtype)
    predicted = sums_by_class(labelled[None], prediction, num_classes)
    sums = torch.cat([of_mask, predicted])
    if rules.sync and dist.is_initialized():
        return all_reduce(sums.double()).to(sums.dtype)
    return sums


class ClassCriterion(CARBCriterion):
    """`CARBCriterion` with other weights of the inconsistent pixels: a value of `region_balance`.

    Beside the two queues of w it holds the `class_sums` of the last `queue_size` steps, and the
    highest `consistent_share` of each class. The local view takes the weights of the global view.
    """

    def __init__(self, balance: str, queue_size: int = 5, rules: RegionRules = CORRECT) -> None:
        """balance: "confidence" or a name in `WEIGHTS`."""
        super().__init__(queue_size, None, rules)
        self.balance = balance
        self.queue_classes: deque[Tensor] = deque(maxlen=queue_size)
        self.best: Tensor | None = None

    def __call__(self, logits: Tensor, views: Views) -> dict[str, Tensor]:
        """Losses of one batch, as of `CARBCriterion`, and the weight of each class for the log."""
        regions, mask = regions_of(logits, views, self.rules), views.global_mask
        self.push(regions.means.detach(), regions.counts)
        w = self.weight(regions.means)
        sums = class_sums(regions.losses, mask, regions.prediction, logits.shape[1], self.rules)
        of_classes = self.class_weights(w, sums)
        loss = regions.means[0]
        loss = loss + self.inconsistent(regions.losses, of_classes, mask, regions.prediction)
        if views.local_mask is not None:
            local = views.local_mask, crop(regions.prediction, views.boxes)
            loss = loss + regions.local_means[0]
            loss = loss + self.inconsistent(regions.local_losses, of_classes, *local)
        log = {"class_w": of_classes} if self.balance in WEIGHTS else {}
        return {"loss": loss, "w": w} | regions.log | log

    def class_weights(self, w: Tensor, sums: Tensor) -> Tensor:
        """Append the `class_sums` of this step, then the weights (K,); w for "confidence"."""
        self.queue_classes.append(sums)
        # What comes from a checkpoint is on the CPU.
        total = torch.stack([one.to(sums, non_blocking=True) for one in self.queue_classes]).sum(0)
        best = torch.zeros_like(w) if self.best is None else self.best.to(sums, non_blocking=True)
        totals = ClassTotals(*total, best.expand_as(total[0]))
        totals = totals._replace(best=torch.maximum(totals.best, totals.consistent_share))
        self.best = totals.best
        weights = WEIGHTS.get(self.balance)
        return weights(w, totals) if weights else w.expand_as(self.best)

    def inconsistent(
        self, losses: Tensor, of_classes: Tensor, pseudo_mask: Tensor, prediction: Tensor
    ) -> Tensor:
        """`inconsistent_loss` of a view under the weights (K,) of the classes or by confidence."""
        weights = confidence(losses)
        if self.balance in WEIGHTS:
            weights = at_pixels(of_classes, pseudo_mask)
        return inconsistent_loss(losses, weights, pseudo_mask, prediction, self.rules)

    def state_dict(self) -> dict[str, Any]:
        """The queues of w, the `class_sums` of the last steps and the best shares, as numbers."""
        best = [] if self.best is None else self.best.tolist()
        sums = [one.tolist() for one in self.queue_classes]
        return super().state_dict() | {"queue_classes": sums, "best_classes": best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; a warm-up leaves nothing to restore."""
        super().load_state_dict(state)
        best = torch.tensor(state.get("best_classes", []), dtype=torch.float64)
        sums = [torch.tensor(one, dtype=torch.float64) for one in state.get("queue_classes", [])]
        if any(one.shape != (5, len(best)) for one in sums) or bool(sums) != bool(len(best)):
            raise InputError("the checkpoint holds sums of other classes; start over")
        self.queue_classes.extend(sums)
        self.best = best if len(best) else None
