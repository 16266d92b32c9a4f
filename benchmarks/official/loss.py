"""The official loss block: up to four cross-entropies, each on its own full-size logits."""

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.labels import IGNORE_INDEX


class Losses:
    """Warm-up and CARB losses with their state: a counter and two ring buffers on the device.

    The counter is compared on the device, so that every step waits for the GPU. The program also
    logs the accuracy; `log_accuracy=False` omits it to measure only the losses.
    """

    def __init__(
        self,
        warmup_steps: int,
        device: str | torch.device = "cpu",
        queue_size: int = 5,
        log_accuracy: bool = True,
    ) -> None:
        self.warmup_steps = warmup_steps
        self.log_accuracy = log_accuracy
        self.counter = torch.zeros(1, device=device)
        # The consistent and the inconsistent losses of the last steps; zero until filled.
        self.queue_and = torch.zeros(queue_size, device=device)
        self.queue_vit = torch.zeros(queue_size, device=device)

    def __call__(
        self,
        logits: Tensor,
        image_labels: Tensor,
        global_mask: Tensor,
        local_mask: Tensor,
        corner: tuple[int, int],
    ) -> dict[str, Tensor]:
        """logits (N, C, h, w), image_labels (N, C), global_mask (N, H, W), local_mask (N, ph, pw).

        `corner` is the local view's upper left pixel in all images. The losses are means over
        labelled pixels, NaN without such pixels; minimise ``["total"]``.
        """
        self.counter += 1
        full = F.interpolate(logits, global_mask.shape[-2:], mode="bilinear", align_corners=False)
        window = local_window(corner, local_mask)
        local = full[window].clone()
        if self.counter > self.warmup_steps:
            losses = self.balanced(full, local, image_labels, global_mask, local_mask, window)
        else:
            losses = {"loss_all": loss(full, global_mask), "loss_part": loss(local, local_mask)}
            losses["total"] = losses["loss_all"] + losses["loss_part"]
        if self.log_accuracy:
            losses["acc_seg"] = accuracy(full, global_mask)
        return losses

    def balanced(
        self,
        full: Tensor,
        local: Tensor,
        image_labels: Tensor,
        global_mask: Tensor,
        local_mask: Tensor,
        window: tuple,
    ) -> dict[str, Tensor]:
        """The four terms of the CARB loss, and their sum with the inconsistent ones weighted."""
        prediction = filtered_prediction(full, image_labels)
        label_and, label_vit = split(global_mask, prediction)
        label_partand, label_partdif = split(local_mask, prediction[window[0], *window[2:]])
        loss_and, loss_vit = loss(full, label_and), loss(full, label_vit)
        loss_partand, loss_partdif = loss(local, label_partand), loss(local, label_partdif)
        weight = self.weight(loss_and, loss_vit)
        return {
            "loss_and": loss_and,
            "loss_vit": loss_vit,
            "loss_partand": loss_partand,
            "loss_partdif": loss_partdif,
            "w": weight,
            "total": loss_and + weight * loss_vit + loss_partand + weight * loss_partdif,
        }

    @torch.no_grad()
    def weight(self, loss_and: Tensor, loss_vit: Tensor) -> Tensor:
        """w from the global losses, this step's included."""
        place = (self.counter % len(self.queue_and)).long()
        self.queue_and[place] = loss_and
        self.queue_vit[place] = loss_vit
        return self.queue_and.mean() / self.queue_vit.mean()


def local_window(corner: tuple[int, int], local_mask: Tensor) -> tuple:
    """The index of the local view in (N, C, H, W)."""
    top, left = corner
    height, width = local_mask.shape[-2:]
    return slice(None), slice(None), slice(top, top + height), slice(left, left + width)


def loss(logits: Tensor, mask: Tensor) -> Tensor:
    return F.cross_entropy(logits, mask, ignore_index=IGNORE_INDEX)


@torch.no_grad()
def filtered_prediction(full: Tensor, image_labels: Tensor) -> Tensor:
    """S (N, H, W): arg-max of logits times labels; an absent class has 0."""
    return (full.clone() * image_labels[:, :, None, None]).argmax(1)


def split(mask: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """`mask` where it agrees with S and where it does not, 255 elsewhere."""
    agree, differ = mask.clone(), mask.clone()
    agree[mask != prediction] = IGNORE_INDEX
    differ[mask == prediction] = IGNORE_INDEX
    return agree, differ


def accuracy(full: Tensor, mask: Tensor) -> Tensor:
    """Accuracy in per cent of all pixels, by top-k with k = 1 as in the official program."""
    best = full.detach().topk(1, dim=1).indices.transpose(0, 1)
    correct = best.eq(mask[None])
    return 100 * correct.flatten().float().sum() / mask.numel()
