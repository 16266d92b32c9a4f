"""Pictures with captions for a miniature CLIP: stock photographs and crops of street scenes.

A caption says what a person would say who looks at the picture: the classes that are visible in it
(the generator's ground truth knows them). Where they are is not told. A quarter are stock
photographs, 45 % crops taken anywhere, 30 % crops around a thing of a class drawn first, as
photographers do: there the place of the thing, known from the ground truth, chooses the crop, and
the caption begins with it.
"""

import math

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
_VISIBLE = 0.01  # the share of the pixels from which on a class is worth a word
_MOST_NAMES = 8


class CaptionedPictures:
    """Draws (picture, caption) pairs; `num_scenes` street scenes of `seed` are rendered first.

    Templates have one {} for a class name, or for several: "a road, a car and a tree".
    """

    def __init__(
        self, templates: tuple[str, ...], num_scenes: int, seed: int, side: int = 64
    ) -> None:
        self.templates = templates
        self.side = side
        self.images = np.empty((num_scenes, *SIZE, 3), np.uint8)
        self.masks = np.empty((num_scenes, *SIZE), np.uint8)
        for i in progress(range(num_scenes), "drawing"):
            self.images[i], self.masks[i] = generate(seed, i)
        self.classes = [np.unique(mask) for mask in self.masks]
        self.with_class = [
            np.flatnonzero([k in present for present in self.classes]) for k in range(len(CLASSES))
        ]

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, str]:
        """One picture, uint8 (3, side, side), and its caption."""
        kind = rng.choice(list(_SHARES), p=list(_SHARES.values()))
        if kind == _STOCK:
            name = rng.choice(CLASSES)
            image = render_object(name, rng, (_STOCK_SIDE, _STOCK_SIDE))
            side = int(rng.uniform(0.6, 1) * _STOCK_SIDE)
            top, left = rng.integers(_STOCK_SIDE - side + 1, size=2)
            return self._picture(image, top, left, side), self._caption([name], rng)
        crop = self._street_crop(rng) if kind == _STREET else self._subject_crop(rng)
        scene, top, left, side, subject = crop
        seen = self.masks[scene, top : top + side, left : left + side]
        share = np.bincount(seen.ravel(), minlength=len(CLASSES)) / side**2
        others = [k for k in rng.permutation(len(CLASSES)) if share[k] >= _VISIBLE and k != subject]
        ids = ([] if subject is None else [subject]) + others
        caption = self._caption([CLASSES[k] for k in ids[:_MOST_NAMES]], rng)
        return self._picture(self.images[scene], top, left, side), caption

    def batch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
        """`size` pairs, mirrored and re-lit at random: uint8 (B, 3, side, side), captions."""
        images, captions = zip(*(self.draw(rng) for _ in range(size)), strict=True)
        images = torch.stack(images)
        mirrored = torch.from_numpy(rng.random(size) < 0.5)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        gain = torch.from_numpy(rng.uniform(0.8, 1.25, (size, 1, 1, 1)))
        tint = torch.from_numpy(rng.uniform(-15, 15, (size, 3, 1, 1)))
        return (images * gain + tint).clamp(0, 255).to(torch.uint8), list(captions)

    def _street_crop(self, rng: np.random.Generator) -> tuple[int, int, int, int, None]:
        """(scene, top, left, side, nothing): anywhere."""
        scene, side = int(rng.integers(len(self.images))), _log_uniform(rng, _STREET_SIDES)
        height, width = self.masks.shape[1:]
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        return scene, top, left, side, None

    def _subject_crop(self, rng: np.random.Generator) -> tuple[int, int, int, int, int]:
        """(scene, top, left, side, class): around a thing of a class drawn first."""
        subject = int(rng.integers(len(CLASSES)))
        if not len(self.with_class[subject]):  # few scenes: not every class is there
            subject = int(rng.choice(self.classes[0]))
        scene = int(rng.choice(self.with_class[subject]))
        places = np.argwhere(self.masks[scene] == subject)
        place, side = places[rng.integers(len(places))], _log_uniform(rng, _SUBJECT_SIDES)
        corner = place - side * rng.uniform(0.3, 0.7, 2)
        top, left = np.clip(corner, 0, np.array(self.masks.shape[1:]) - side).astype(int)
        return scene, int(top), int(left), side, subject

    def _picture(self, image: np.ndarray, top: int, left: int, side: int) -> Tensor:
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
        said = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        return str(rng.choice(self.templates)).replace("{}", said)


def _log_uniform(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(math.exp(rng.uniform(*np.log(bounds))))
