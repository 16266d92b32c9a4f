"""Image for TensorBoard: masks and predictions of one fixed batch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from datasets.labels import IGNORE_INDEX, ClassTable
from datasets.training import TrainingSet
from models.carb import filtered_prediction, split_regions, upsample
from models.views import prepare_views
from utils.batches import Draw
from utils.config import Config
from utils.distributed import Ranks, autocast
from utils.seed import AUGMENTATION, derive
from utils.visualize import IGNORED_COLOR, colourize, gallery

_IMAGES = 4


def build_preview(
    config: Config,
    classes: ClassTable,
    ranks: Ranks,
    model: nn.Module,
    dataset: TrainingSet,
    teacher: Any = None,
    sampler: Any = None,
) -> Callable[[], np.ndarray]:
    """Function that draws up to four images of `dataset`, the same each time.

    A row has the image, its pseudo-mask (ground truth where no image has a label), the filtered
    prediction of Eq. 4 and the consistent region, uint8 (H, W, 3) in all. The function has no
    side effects: `model` is in training mode afterwards, and no random generator is used.
    """
    draws = fixed_draws(len(dataset), config.batch_size, config.seed)
    if teacher is None:  # the masks come from files
        config = dataclasses.replace(config, views="base")

    @torch.no_grad()
    def draw() -> np.ndarray:
        batch = default_collate([dataset[one] for one in draws])
        views = prepare_views(batch, 0, config, ranks, teacher, sampler)
        mask, labels = views.global_mask, views.image_labels
        supervised = not labels.any()  # then every class may be predicted
        model.eval()
        with autocast(ranks.device, config.precision):
            logits = model.forward(views.image)  # a compiled call would recompile for this size
        model.train()
        labels = torch.ones_like(labels) if supervised else labels
        full_logits = upsample(logits, mask.shape[-2:])
        prediction = filtered_prediction(full_logits, labels, config.arithmetic.label_filter)
        consistent, _ = split_regions(mask, prediction)
        maps = {
            "ground truth" if supervised else "pseudo-mask": mask,
            "prediction": prediction,
            "consistent region": mask.where(consistent, IGNORE_INDEX),
        }
        return draw_maps(batch["image"], maps, classes, "inconsistent or ignored")

    return draw


def fixed_draws(num_images: int, batch_size: int, seed: int) -> list[Draw]:
    """Up to four images and their augmentations, the same each time."""
    count = min(_IMAGES, batch_size, num_images)
    places = [i * num_images // count for i in range(count)]
    return [Draw(place, derive(seed, AUGMENTATION, place)) for place in places]


def draw_maps(
    images: Tensor, maps: Mapping[str, Tensor], classes: ClassTable, ignored: str
) -> np.ndarray:
    """A row for each image, with its label maps under their titles: (H, W, 3) uint8.

    images uint8 (B, 3, H, W); maps: title -> class ids (B, h, w). `ignored`: what black means.
    """
    rows = [
        [
            image.numpy(),
            *(colourize(ids[i].cpu().numpy(), classes.palette) for ids in maps.values()),
        ]
        for i, image in enumerate(images.permute(0, 2, 3, 1))
    ]
    palette = np.vstack([classes.palette, np.array([IGNORED_COLOR], np.uint8)])
    return gallery(rows, ["image", *maps], [*classes.names, ignored], palette)
