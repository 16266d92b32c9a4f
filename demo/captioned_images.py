"""Images with captions for a miniature CLIP: stock photographs and crops of street scenes.

A caption names the classes that are visible in the image (known from the generator's ground truth),
but not where they are. 25 % are stock photographs, 45 % random crops, and 30 % crops around an
object of a class drawn first, as photographers do: the crop is centred near a pixel of the object,
known from the ground truth, and the caption begins with its class.
"""

import math
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.make_scenes import SIZE, generate, render_object
from demo.scenes.canvas import CLASSES
from utils.progress import progress

_STOCK, _STREET, _SUBJECT = "stock", "street", "subject"
_SHARES = {_STOCK: 0.25, _STREET: 0.45, _SUBJECT: 0.3}
_STREET_SIDES = (24, 128)  # of the crop in the scene, before it is resized
_SUBJECT_SIDES = (16, 72)
_STOCK_SIDE = 96
_VISIBLE = 0.01  # smallest share of the pixels for a class to be named
_MOST_NAMES = 8


class CaptionedImages:
    """Random (image, caption) pairs from `num_scenes` street scenes of `seed`, rendered first.

    Each template has one {} for one or several class names: "a road, a car and a tree".
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
        self.images = np.empty((num_scenes, *SIZE, 3), np.uint8)
        self.masks = np.empty((num_scenes, *SIZE), np.uint8)
        draw = partial(generate, seed)
        with ProcessPoolExecutor(workers) if workers else nullcontext() as pool:
            numbers = range(num_scenes)
            scenes = pool.map(draw, numbers, chunksize=8) if pool else map(draw, numbers)
            for i, scene in enumerate(progress(scenes, "drawing", total=num_scenes)):
                self.images[i], self.masks[i] = scene
        self.classes = [np.unique(mask) for mask in self.masks]
        self.with_class = [
            np.flatnonzero([k in present for present in self.classes]) for k in range(len(CLASSES))
        ]

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, str]:
        """One image, uint8 (3, side, side), and its caption."""
        kind = rng.choice(list(_SHARES), p=list(_SHARES.values()))
        if kind == _STOCK:
            name = rng.choice(CLASSES)
            image = render_object(name, rng, (_STOCK_SIDE, _STOCK_SIDE))
            side = int(rng.uniform(0.6, 1) * _STOCK_SIDE)
            top, left = rng.integers(_STOCK_SIDE - side + 1, size=2)
            return self._cut(image, top, left, side), self._caption([name], rng)
        crop = self._street_crop(rng) if kind == _STREET else self._subject_crop(rng)
        scene, top, left, side, subject = crop
        seen = self.masks[scene, top : top + side, left : left + side]
        share = np.bincount(seen.ravel(), minlength=len(CLASSES)) / side**2
        others = [k for k in rng.permutation(len(CLASSES)) if share[k] >= _VISIBLE and k != subject]
        ids = ([] if subject is None else [subject]) + others
        caption = self._caption([CLASSES[k] for k in ids[:_MOST_NAMES]], rng)
        return self._cut(self.images[scene], top, left, side), caption

    def batch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
        """`size` pairs, mirrored and recoloured at random: uint8 (B, 3, side, side), captions."""
        images, captions = zip(*(self.draw(rng) for _ in range(size)), strict=True)
        images = torch.stack(images)
        mirrored = torch.from_numpy(rng.random(size) < 0.5)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        gain = torch.from_numpy(rng.uniform(0.8, 1.25, (size, 1, 1, 1))).float()
        tint = torch.from_numpy(rng.uniform(-15, 15, (size, 3, 1, 1))).float()
        return (images * gain + tint).clamp_(0, 255).to(torch.uint8), list(captions)

    def _street_crop(self, rng: np.random.Generator) -> tuple[int, int, int, int, None]:
        """A crop anywhere: (scene, top, left, side, None)."""
        scene, side = int(rng.integers(len(self.images))), _log_uniform(rng, _STREET_SIDES)
        height, width = self.masks.shape[1:]
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        return scene, top, left, side, None

    def _subject_crop(self, rng: np.random.Generator) -> tuple[int, int, int, int, int]:
        """A crop around an object of a class drawn first: (scene, top, left, side, class)."""
        subject = int(rng.integers(len(CLASSES)))
        if not len(self.with_class[subject]):  # a few scenes may lack a class
            subject = int(rng.choice(self.classes[0]))
        scene = int(rng.choice(self.with_class[subject]))
        places = np.argwhere(self.masks[scene] == subject)
        place, side = places[rng.integers(len(places))], _log_uniform(rng, _SUBJECT_SIDES)
        corner = place - side * rng.uniform(0.3, 0.7, 2)
        top, left = np.clip(corner, 0, np.array(self.masks.shape[1:]) - side).astype(int)
        return scene, int(top), int(left), side, subject

    def _cut(self, image: np.ndarray, top: int, left: int, side: int) -> Tensor:
        cut = torch.from_numpy(image[top : top + side, left : left + side].copy())
        size = (self.side, self.side)
        resized = F.interpolate(
            cut.permute(2, 0, 1)[None].float(),
            size,
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        return resized[0].round().clamp(0, 255).to(torch.uint8)

    def _caption(self, names: list[str], rng: np.random.Generator) -> str:
        text = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        return str(rng.choice(self.templates)).replace("{}", text)


def _log_uniform(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(math.exp(rng.uniform(*np.log(bounds))))
