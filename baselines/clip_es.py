"""CLIP-ES: softmax Grad-CAM of CLIP's last block, spread along CLIP's own attention. Training-free.

Lin, Chen, Wang, Chen, Wu, Zhang, Huang and Liu, "CLIP is Also an Efficient Segmenter", CVPR 2023;
formulas after linyq2117/CLIP-ES @3893f817 (MIT).

Reads images and image-level labels; writes OUT/<image id>.png with meta.json, for `eval.py --masks`
and a second stage:

    python -m baselines.clip_es --config C --run-dir runs/clip_es --out masks --score

Run the same command again to resume, on any number of processes. Nothing is trained, and nothing is
written to --run-dir, which all methods have. --crf none: the highest map is the label; --crf
package: pydensecrf2, at the image's size. --score: OUT/score.json. --save-cams:
OUT/cams/<image id>.npz. Needs a CLIP with a ViT as image tower.

Images are seen at the config's image_size, theirs at their own. Memory at 512x1024 (patches of 16:
n = 2048): 17 MB a matrix of n x n, two or three at once; the dense CRF 268 MB at any size. At
1024x2048, Cityscapes' own size (n = 8192): 268 MB a matrix.

Deviations:
- no background class (driving scenes): rivals in the softmax are the words of the list that name no
  class of the data set; the label is the highest map of the image's classes. A class whose map is
  zero is left out; where all are zero, the mask is 255. With one class and no rival, the gradient
  is that of the logit: the probability is 1 and has none.
- data with a class "background": its row is 1 minus the highest map, without their exponents, of
  which theirs is the better one on ground truth.
- the dense CRF is an exact mean field on a grid of at most 8192 pixels (512x1024 at 1/8), resized
  before the 95 % rule. It sees the image as it is; theirs wraps it modulo 256, dark pixels bright.
- position embeddings are not rounded to float16 (`positions`: released=True).
- class names are the prompts of the class file, without their names for VOC.
- the box of a component ends before the last row and column (--arithmetic authors, the default), as
  released: the bottom row of patches is never a source. correct: it covers them.
- a miniature CLIP reads the templates of the config, and has those rivals whose words it knows.
- M (M (B cam)) in place of (M M) (B cam), and attentions in blocks of rows: the same numbers.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from baselines.common import CamMasks, load_split
from baselines.stages import add_arguments, check_out, make_masks
from datasets.doctor.label_check import check_trainable
from datasets.labels import IGNORE_INDEX, ClassTable, has_background, load_classes
from models.cam import with_background
from models.clip_es import confident_labels, spread_maps
from models.clip_features import is_resnet
from models.clip_loading import clip_sha256, load_clip
from models.inference import resize
from models.text import texts_and_rivals
from utils.cli import add_trust, parser, path
from utils.config import load_config
from utils.distributed import cleanup, first_on_each_machine, setup
from utils.safe.errors import InputError, run_script

# From linyq2117/CLIP-ES, clip_text.py.
TEMPLATE = "a clean origami {}."
BACKGROUND = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river"),
    *("sea", "railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean"),
    *("road", "rock", "street", "valley", "bridge", "sign"),
)
# Ours: classes that a word of BACKGROUND means, contains or is part of, beside its own name.
_SURFACES = ("road", "sidewalk", "street", "terrain", "grass")
MEANS = {"ground": _SURFACES, "land": _SURFACES, "road": ("street",), "street": ("road",)}
MEANS |= {"grass": ("terrain",), "tree": ("vegetation",), "house": ("building",)}
MEANS |= {"cloud": ("sky",), "sign": ("traffic sign", "signsymbol", "billboard")}


def rivals(classes: ClassTable) -> tuple[str, ...]:
    """The words of BACKGROUND that mean no class of the data set."""
    names = {*classes.names, *(prompt for prompts in classes.prompts for prompt in prompts)}
    return tuple(word for word in BACKGROUND if names.isdisjoint((word, *MEANS.get(word, ()))))


class Masks(CamMasks):
    """Masks of the maps of CLIP-ES."""

    def __init__(
        self,
        clip_model: nn.Module,
        text: Tensor,
        more: Tensor,
        whole: bool,
        crf: str,
        *of_masks: Any,
    ) -> None:
        """text: rows of the classes with a map (C,E); more: of the rivals; whole: of `box_mask`;
        crf: exact, package or none."""
        super().__init__(None, *of_masks)
        self.visual, self.scale = clip_model.visual, clip_model.logit_scale.exp().item()
        self.text, self.more, self.whole, self.crf = text, more, whole, crf

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Maps (C,H,W) at the image's own size; classes (C) with a map that is not zero."""
        present = self.present(sample)
        cams = present.new_zeros(len(present), *sample["size"])
        ids = present.nonzero().flatten()
        if len(ids):
            image, text = sample["image"].to(self.text.device), (self.text[ids], self.more)
            refined = spread_maps(self.visual, image, *text, self.scale, self.whole)
            cams[ids] = resize(refined[None], sample["size"])[0]
            present = present * (cams.amax((1, 2)) > 0)
        return cams, present

    def labels(self, sample: dict[str, Any], cams: Tensor, present: Tensor) -> Tensor:
        """Label map uint8 (H,W)."""
        if self.crf == "none" or not present.any():
            return super().labels(sample, cams, present)
        ids = present.nonzero().flatten() + self.first
        scores = cams[ids - self.first]
        if self.first:
            ids, scores = torch.cat([ids.new_zeros(1), ids]), with_background(scores)
        rows = confident_labels(scores, sample["image"].to(cams.device), self.crf == "exact")
        ids = torch.cat([ids, ids.new_full((IGNORE_INDEX + 1 - len(ids),), IGNORE_INDEX)])
        return ids[rows].byte()

    def curve(self) -> list[dict[str, float | None]]:
        """Scores at thresholds, of which the CRF has none: its background is a row."""
        return super().curve() if self.crf == "none" else []


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks
    arguments = parse_arguments(argv)
    config = load_config(arguments.config, arguments.overrides)
    ranks = setup(arguments.device)

    # --- data
    classes = load_classes(config.class_file)
    check_trainable(classes)
    split = load_split(config, arguments.split or config.train_split, classes)
    check_out(split, arguments)

    # --- CLIP and its texts
    load = partial(load_clip, config.clip_model, arguments.trust_torchscript)
    clip_model = first_on_each_machine(load).to(ranks.device)
    if is_resnet(clip_model.visual):
        raise InputError(
            f"clip_model: {config.clip_model} is a ResNet; CLIP-ES needs the attention of a ViT: "
            "set clip_model=ViT-B/16, or the file of another ViT"
        )
    prompts = classes.prompts[int(has_background(classes)) :]
    of_texts = prompts, rivals(classes), TEMPLATE, config.prompt_templates
    text, more, templates, words = texts_and_rivals(clip_model, *of_texts)

    # --- masks
    whole, crf = arguments.arithmetic == "correct", arguments.crf
    # With exponent 1 the background wins where the highest map is below a half.
    masks = Masks(clip_model, text, more, whole, crf, split, classes, 0.5, config, ranks)
    made_from = {"method": "clip_es", "arithmetic": arguments.arithmetic, "crf": crf}
    made_from |= {"clip_sha256": clip_sha256(config.clip_model), "prompts": prompts}
    made_from |= {"templates": templates, "rivals": words}
    make_masks(masks, arguments, made_from)
    cleanup()


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = parser(__doc__)
    add = result.add_argument
    add("--run-dir", type=path, help="of no effect: nothing is trained")
    add_arguments(result, "boxes without the last row and column, as released (default), or whole")
    kinds = {"choices": ("exact", "package", "none"), "default": "exact"}
    add("--crf", **kinds, help="exact mean field on a grid (default), pydensecrf2, or no dense CRF")
    add("--overwrite", action="store_true", help="make all masks again")
    add_trust(result)
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
