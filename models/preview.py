"""Image for TensorBoard: masks and predictions of one fixed batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
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
    count = min(_IMAGES, config.batch_size, len(dataset))
    places = [i * len(dataset) // count for i in range(count)]
    draws = [Draw(place, derive(config.seed, AUGMENTATION, place)) for place in places]
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
        maps = torch.stack([mask, prediction, mask.where(consistent, IGNORE_INDEX)], 1).cpu()
        images = batch["image"].permute(0, 2, 3, 1)
        rows = [
            [image.numpy(), *(colourize(ids.numpy(), classes.palette) for ids in row)]
            for image, row in zip(images, maps, strict=True)
        ]
        target = "ground truth" if supervised else "pseudo-mask"
        titles = ["image", target, "prediction", "consistent region"]
        names = [*classes.names, "inconsistent or ignored"]
        palette = np.vstack([classes.palette, np.array([IGNORED_COLOR], np.uint8)])
        return gallery(rows, titles, names, palette)

    return draw
