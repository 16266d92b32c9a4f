"""Images with captions for a miniature CLIP: stock photographs and crops of street scenes.

A caption names the classes that are visible in the image (known from the generator's ground truth),
but not where they are. 25 % are stock photographs, 45 % random crops, and 30 % crops around an
object of a class drawn first, as photographers do: the crop is centred near a pixel of the object,
known from the ground truth, and the caption begins with its class.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from datasets.doctor.inspection import parallel
from demo.make_scenes import generate
from demo.object_images import PHOTOGRAPH, photographs
from demo.scenes.canvas import CLASSES

_STOCK, _STREET, _SUBJECT = "stock", "street", "subject"
_KINDS, _SHARES = (_STOCK, _STREET, _SUBJECT), (0.25, 0.45, 0.3)
_STREET_SIDES = (24, 128)  # pixels of the crop in the scene, before it is resized
_SUBJECT_SIDES = (16, 72)
_VISIBLE = 0.01  # smallest share of the pixels for a class to be named
_MOST_NAMES = 8
_PHOTOGRAPHS = 1  # purpose of random numbers, see utils.seed.derive


class Crops(NamedTuple):
    """Where the images of a batch come from: photographs first, then crops of scenes."""

    photographs: Tensor  # (S, 5): index, left, top, right, bottom, in pixels
    scenes: Tensor  # (B - S, 5)
    mirrored: Tensor  # (B, 1, 1, 1), bool
    gain: Tensor  # (B, 1, 1, 1)
    tint: Tensor  # (B, 3, 1, 1), grey levels


class CaptionedImages:
    """Random (image, caption) pairs from `num_scenes` street scenes of `seed`, drawn first.

    As many stock photographs are drawn too. Each template has one {} for one or several class
    names: "a road, a car and a tree". `workers` processes draw, 0: this one.
    """

    def __init__(
        self,
        templates: tuple[str, ...],
        num_scenes: int,
        seed: int,
        side: int = 64,
        workers: int = 0,
    ) -> None:
        self.templates = templates
        self.side = side
        draw = partial(generate, seed)
        scenes = list(parallel(draw, range(num_scenes), workers, "drawing scenes"))
        stacked = torch.from_numpy(np.stack([image for image, _ in scenes]))
        self.scenes = stacked.permute(0, 3, 1, 2).contiguous()
        self.masks = np.stack([mask for _, mask in scenes])
        self.photographs, _ = photographs(num_scenes, seed, _PHOTOGRAPHS, "photographs", workers)
        self.classes = [np.unique(mask) for mask in self.masks]
        self.with_class = [
            np.flatnonzero([k in present for present in self.classes]) for k in range(len(CLASSES))
        ]

    def to(self, device: torch.device) -> "CaptionedImages":
        """Hold the images on `device`, where `images` cuts them."""
        self.scenes, self.photographs = (x.to(device) for x in (self.scenes, self.photographs))
        return self

    def draw(self, size: int, rng: np.random.Generator) -> tuple[Crops, list[str]]:
        """Crops and captions of a batch of `size`, mirrored and recoloured at random."""
        kinds = rng.choice(len(_KINDS), size, p=_SHARES)
        stock, scenes, captions = [], [], []
        for kind in np.sort(kinds):  # photographs first
            if _KINDS[kind] == _STOCK:
                box, names = self._photograph_crop(rng)
                stock.append(box)
            else:
                box, names = self._scene_crop(rng, _KINDS[kind] == _SUBJECT)
                scenes.append(box)
            captions.append(self._caption(names, rng))
        crops = Crops(
            torch.tensor(stock, dtype=torch.float32).view(-1, 5),
            torch.tensor(scenes, dtype=torch.float32).view(-1, 5),
            torch.from_numpy(rng.random((size, 1, 1, 1)) < 0.5),
            torch.from_numpy(rng.uniform(0.8, 1.25, (size, 1, 1, 1))).float(),
            torch.from_numpy(rng.uniform(-15, 15, (size, 3, 1, 1))).float(),
        )
        return crops, captions

    def images(self, crops: Crops) -> Tensor:
        """The images of a batch, uint8 (B, 3, side, side), on the device of `to`."""
        sources = ((self.photographs, crops.photographs), (self.scenes, crops.scenes))
        images = torch.cat([self._cut(source, boxes) for source, boxes in sources])
        mirrored, gain, tint = (x.to(images.device) for x in crops[2:])
        images = torch.where(mirrored, images.flip(3), images)
        return (images * gain + tint).clamp_(0, 255).to(torch.uint8)

    def _cut(self, source: Tensor, boxes: Tensor) -> Tensor:
        """Crops of one source, averaged down or interpolated to side x side, float32."""
        boxes = boxes.to(source.device)
        chosen, places = boxes[:, 0].long().unique(return_inverse=True)
        boxes = torch.cat([places[:, None].float(), boxes[:, 1:]], dim=1)
        return roi_align(source[chosen].float(), boxes, self.side, aligned=True)

    def _photograph_crop(self, rng: np.random.Generator) -> tuple[list[float], list[str]]:
        index, side = rng.integers(len(self.photographs)), int(rng.uniform(0.6, 1) * PHOTOGRAPH)
        top, left = rng.integers(PHOTOGRAPH - side + 1, size=2)
        return [index, left, top, left + side, top + side], [CLASSES[index % len(CLASSES)]]

    def _scene_crop(
        self, rng: np.random.Generator, around_subject: bool
    ) -> tuple[list[float], list[str]]:
        crop = self._subject_crop(rng) if around_subject else self._street_crop(rng)
        scene, top, left, side, subject = crop
        seen = self.masks[scene, top : top + side, left : left + side]
        share = np.bincount(seen.ravel(), minlength=len(CLASSES)) / side**2
        others = [k for k in rng.permutation(len(CLASSES)) if share[k] >= _VISIBLE and k != subject]
        ids = ([] if subject is None else [subject]) + others
        box = [scene, left, top, left + side, top + side]
        return box, [CLASSES[k] for k in ids[:_MOST_NAMES]]

    def _street_crop(self, rng: np.random.Generator) -> tuple[int, int, int, int, None]:
        """A crop anywhere: (scene, top, left, side, None)."""
        scene, side = int(rng.integers(len(self.masks))), _log_uniform(rng, _STREET_SIDES)
        height, width = self.masks.shape[1:]
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        return scene, top, left, side, None

    def _subject_crop(self, rng: np.random.Generator) -> tuple[int, int, int, int, int]:
        """A crop around an object of a class drawn first: (scene, top, left, side, class)."""
        subject = int(rng.integers(len(CLASSES)))
        if not len(self.with_class[subject]):  # a few scenes may lack a class
            subject = int(rng.choice(self.classes[0]))
        scene = int(rng.choice(self.with_class[subject]))
        pixels = np.flatnonzero(self.masks[scene] == subject)
        place = np.array(divmod(int(rng.choice(pixels)), self.masks.shape[2]))
        side = _log_uniform(rng, _SUBJECT_SIDES)
        corner = place - side * rng.uniform(0.3, 0.7, 2)
        top, left = np.clip(corner, 0, np.array(self.masks.shape[1:]) - side).astype(int)
        return scene, int(top), int(left), side, subject

    def _caption(self, names: list[str], rng: np.random.Generator) -> str:
        text = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        return str(rng.choice(self.templates)).replace("{}", text)


def _log_uniform(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(math.exp(rng.uniform(*np.log(bounds))))
