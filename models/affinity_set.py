"""Training samples of AffinityNet (PSA): whole images, and labels of their cells from CAMs.

Formulas after jiwoon-ahn/psa @9493e59 (MIT), train_aff.py and tool/imutils.py; PAMR in place of its
dense CRF. baselines/psa.py trains with them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.files import File
from datasets.labels import IGNORE_INDEX, ClassTable, has_background
from datasets.long_side import color_jitter, draw_jitter, draw_offsets, place
from datasets.saved_maps import SavedMaps
from datasets.training import EvaluationSet
from models.affinity import EPS, affinity_labels, pooled
from models.cam import with_background
from models.inference import resize
from models.pamr import pamr
from utils.batches import Draw

SURE_CLASS, SURE_BACKGROUND = 4, 32  # alpha: powers of (1 - max M)
PAMR_STEPS, PAMR_DILATIONS = 10, (1, 2, 4, 8, 12, 24)  # ours, in place of the CRF


def affinity_sample(
    image: Tensor, stacks: Tensor, crop_size: tuple[int, int], offsets: tuple[int, int], flip: bool
) -> tuple[Tensor, Tensor]:
    """The image uint8 (3,h,w) and its stacks (c,h,w) placed, flipped; the stacks are `pooled`."""
    image, stacks = place(image, crop_size, offsets), place(stacks, crop_size, offsets)
    if flip:
        image, stacks = image.flip(-1), stacks.flip(-1)
    return image, pooled(stacks)


class AffinitySet(Dataset):
    """Images at random places in the crop, with labels of the cells for AffinityNet."""

    points = None  # as a `TrainingSet` without any

    def __init__(
        self,
        images: dict[str, File],
        cams: SavedMaps,
        crop_size: tuple[int, int],
        classes: ClassTable,
    ) -> None:
        self.images = EvaluationSet(images, crop_size)
        self.cams, self.crop_size = cams, crop_size
        self.num_classes, self.background = len(classes), has_background(classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """name, image uint8 (3,h,w), 0 around it; labels uint8 (h/8,w/8)."""
        sample = self.images[draw.index]
        size = tuple(sample["image"].shape[-2:])
        maps, present = self.cams.read(sample["name"])
        maps = resize(maps[None], size)[0][present > 0]
        generator = torch.Generator().manual_seed(draw.seed)
        image = color_jitter(sample["image"], *draw_jitter(generator))
        offsets = draw_offsets(size, self.crop_size, generator)
        flip = torch.rand((), generator=generator).item() < 0.5
        powers = (SURE_CLASS, SURE_BACKGROUND) if self.background else (SURE_CLASS,)
        stacks = torch.ones(len(powers), *size)  # of an image that shows the background alone
        if len(maps):
            stacks = torch.cat([with_background(maps, alpha) for alpha in powers])
        image, low = affinity_sample(image, stacks, self.crop_size, offsets, flip)
        refined = refine(image, low).chunk(len(powers))
        outside = low.amax(0) < EPS
        labels = affinity_labels(*refined).masked_fill(outside, IGNORE_INDEX)
        return {"name": sample["name"], "image": image, "labels": labels}


def refine(image: Tensor, low: Tensor) -> Tensor:
    """Maps (c,h/8,w/8) by PAMR on the image uint8 (3,h,w), reduced to their size."""
    return pamr(pooled(image.float())[None], low[None], PAMR_STEPS, PAMR_DILATIONS)[0]
