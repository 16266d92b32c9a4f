"""Prior: one label for the whole image, that of its classes with the most pixels. A floor.

No method of the paper: a mask that looks at no pixel. Reads the ground truth of the training split,
for the share of each class, which no method here may: what scores below it has learned no place.
Writes OUT/<image id>.png with meta.json, for `eval.py --masks` and a second stage:

    python -m baselines.prior --config C --run-dir runs/prior --out masks --score

Run the same command again to resume. Nothing is trained, and nothing is written to --run-dir, which
all methods have. --score: OUT/score.json.

A background counts as a class of every image.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.common import CamMasks, Split, load_split
from baselines.stages import add_arguments, check_out, make_masks
from datasets.ids import require
from datasets.labels import ClassTable, load_classes
from utils.cli import parser, path
from utils.config import load_config
from utils.distributed import Ranks, cleanup, setup
from utils.progress import progress
from utils.safe.errors import run_script


class Masks(CamMasks):
    """Masks of constant maps: the share of each class of the image."""

    def __init__(self, shares: Tensor, *of_masks: Any) -> None:
        """shares: of the pixels, of each class of the class file (K)."""
        super().__init__(None, *of_masks)
        self.shares, self.background, self.first = shares, bool(self.first), 0

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The shares as maps (K,H,W), 0 for absent classes; classes (K)."""
        present = self.present(sample)
        present[0] = 1 if self.background else present[0]
        return (self.shares * present)[:, None, None].expand(-1, *sample["size"]), present


def pixel_shares(split: Split, classes: ClassTable, ranks: Ranks) -> Tensor:
    """Share of each class in the labelled pixels of a split's ground truth: (K), sum 1."""
    truths = split.data.ground_truth(split.name)
    require(split.images, truths, "ground truth", "the prior is counted in it")
    counts = np.zeros(256, np.int64)
    for name in progress(split.images, "ground truth", ranks):
        counts += np.bincount(split.data.read_ground_truth(truths[name]).ravel(), minlength=256)
    shares = torch.from_numpy(counts[: len(classes)]).double()
    return (shares / shares.sum().clamp(min=1)).float()


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks
    arguments = parse_arguments(argv)
    config = load_config(arguments.config, arguments.overrides)
    ranks = setup(arguments.device)

    # --- data
    classes = load_classes(config.class_file)
    train = load_split(config, config.train_split, classes)
    split = load_split(config, arguments.split or config.train_split, classes)
    check_out(split, arguments)

    # --- masks
    shares = pixel_shares(train, classes, ranks).to(ranks.device)
    masks = Masks(shares, split, classes, None, config, ranks)
    make_masks(masks, arguments, {"method": "prior", "shares": shares.tolist()})
    cleanup()


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = parser(__doc__)
    result.add_argument("--run-dir", type=path, help="of no effect: nothing is trained")
    add_arguments(result, arithmetic=None)
    result.add_argument("--overwrite", action="store_true", help="make all masks again")
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
