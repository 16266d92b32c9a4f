"""Local View Sampling (Kim et al. 2024): a patch of the global view, resized before CLIP."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.labels import IGNORE_INDEX
from datasets.transforms import normalize
from models.maskclip import MaskCLIP
from utils.config import Config
from utils.distributed import Ranks, autocast
from utils.safe.errors import InputError
from utils.seed import LOCAL_VIEWS, generator

Box = tuple[int, int, int, int]  # top, left, height, width


class LocalView(NamedTuple):
    """Box of a local view in the global view, and the (height, width) of CLIP's input."""

    box: Box
    size: tuple[int, int]


class LocalViewSampler:
    """Draws positions and resize ratios of local views.

    patch_size (height, width) in pixels of the global view; resize ratio m ~ U[low, high).
    ``per="image"`` gives each image its own view; "batch" one view for all (official code).
    Without `last_position` a view never reaches the last row and column (official code, whose upper
    bound is exclusive).
    """

    def __init__(
        self,
        patch_size: tuple[int, int],
        resize: tuple[float, float],
        per: str = "image",
        last_position: bool = True,
    ) -> None:
        self.patch_size = patch_size
        self.resize = resize
        self.per_image = per == "image"
        self.bound = 1 if last_position else 0

    def draw(
        self, num_images: int, image_size: tuple[int, int], generator: torch.Generator
    ) -> list[LocalView]:
        """One `LocalView` per image of size (H, W). Raises InputError where it does not fit."""
        if any(p > s for p, s in zip(self.patch_size, image_size, strict=True)):
            raise InputError(
                f"a local view of {self.patch_size} does not fit into a global view of "
                f"{image_size}; lower patch_size or raise crop_size"
            )
        draws = [
            self._draw_one(image_size, generator)
            for _ in range(num_images if self.per_image else 1)
        ]
        return draws if self.per_image else draws * num_images

    def _draw_one(self, image_size: tuple[int, int], generator: torch.Generator) -> LocalView:
        top, left = (
            int(torch.randint(size - patch + self.bound, (), generator=generator))
            if size > patch
            else 0
            for size, patch in zip(image_size, self.patch_size, strict=True)
        )
        low, high = self.resize
        return self.view(top, left, low + (high - low) * torch.rand((), generator=generator))

    def view(self, top: int, left: int, ratio: Tensor | float) -> LocalView:
        """The view at a given position and resize ratio."""
        height, width = self.patch_size
        # float32, as in the official code: int() truncates, so one more bit could change the size.
        resized = torch.tensor(self.patch_size) * torch.as_tensor(ratio, dtype=torch.float32)
        size = tuple(max(1, int(side)) for side in resized)
        return LocalView((top, left, height, width), size)


def crop(maps: Tensor, boxes: list[Box]) -> Tensor:
    """Cut the box out of each image, all of one size: (B, ..., H, W) -> (B, ..., height, width)."""
    return torch.stack(
        [
            item[..., top : top + height, left : left + width]
            for item, (top, left, height, width) in zip(maps, boxes, strict=True)
        ]
    )


def local_view(image: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """Crop, then resize: (B, 3, H, W) -> (B, 3, *size)."""
    top, left, height, width = box
    patch = image[..., top : top + height, left : left + width]
    return F.interpolate(patch, size, mode="bilinear", align_corners=False)


def local_pseudo_mask(
    maskclip: Callable[[Tensor, Tensor, tuple[int, int]], Tensor],
    image: Tensor,
    image_labels: Tensor,
    views: list[LocalView],
) -> Tensor:
    """M^l of Eq. (1) for each image's local view, at the patch's own size: (B, height, width) long.

    image (B, 3, H, W) is normalised for CLIP; the labels of the whole image filter the patch. Views
    of one size go through CLIP together.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, view in enumerate(views):
        groups.setdefault(view.size, []).append(index)
    masks: list[Tensor | None] = [None] * len(views)
    for size, indices in groups.items():
        patches = torch.cat([local_view(image[i : i + 1], views[i].box, size) for i in indices])
        labels = torch.stack([image_labels[i] for i in indices])  # a list as index waits for a GPU
        patch_size = views[indices[0]].box[2:]
        for index, mask in zip(indices, maskclip(patches, labels, patch_size), strict=True):
            masks[index] = mask
    return torch.stack(masks)


def ignore_padding(pseudo_mask: Tensor, valid: Tensor, boxes: list[Box] | None = None) -> Tensor:
    """Set `pseudo_mask`, of whole images or of `boxes`, to IGNORE_INDEX where not `valid`."""
    covered = valid if boxes is None else crop(valid, boxes)
    return pseudo_mask.masked_fill(~covered, IGNORE_INDEX)


class Views(NamedTuple):
    """Input of one training step: the global view and the pseudo-masks of both views."""

    image: Tensor  # (B, 3, H, W), the global view, normalised for the segmentation network
    image_labels: Tensor  # (B, K)
    global_mask: Tensor  # (B, H, W)
    local_mask: Tensor | None = None  # (B, h, w)
    boxes: list[Box] | None = None  # of the local view of each image


def prepare_views(
    batch: dict[str, Any],
    step: int,
    config: Config,
    ranks: Ranks,
    teacher: MaskCLIP | None,
    sampler: LocalViewSampler | None,
) -> Views:
    """Move a batch to the device and add its pseudo-masks, M of Eq. (1) and M^l.

    ``views: base`` takes the global mask from its file; "local" adds a local mask from CLIP; for
    "dual" CLIP makes both.
    """
    image, valid, image_labels = (
        batch[key].to(ranks.device, non_blocking=True) for key in ("image", "valid", "image_labels")
    )
    local_mask = boxes = None
    if config.views != "base":
        clip_image = normalize(image, config.arithmetic.clip_normalization, valid)
        # Drawn for the batch of all ranks, so that the number of ranks changes nothing.
        views = sampler.draw(
            config.batch_size, image.shape[-2:], generator(config.seed, LOCAL_VIEWS, step)
        )
        views = views[ranks.rank * len(image) : (ranks.rank + 1) * len(image)]
        boxes = [view.box for view in views]
        with autocast(ranks.device, config.precision):
            local_mask = local_pseudo_mask(teacher, clip_image, image_labels, views)
        if config.arithmetic.ignore_padding:
            local_mask = ignore_padding(local_mask, valid, boxes)
    if config.views == "dual":
        with autocast(ranks.device, config.precision):
            global_mask = teacher(clip_image, image_labels, image.shape[-2:])
        if config.arithmetic.ignore_padding:
            global_mask = ignore_padding(global_mask, valid)
    else:
        global_mask = batch["pseudo_mask"].to(ranks.device, non_blocking=True)
    segmentation_image = normalize(image, "imagenet", valid)
    return Views(segmentation_image, image_labels, global_mask, local_mask, boxes)
