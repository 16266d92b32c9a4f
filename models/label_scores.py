"""Image-level scores of the classes from CLIP, from which labels are suggested.

CLIP sees an image as the teacher of the stored masks does: whole, or in overlapping windows. Each
cell of its grid gives probabilities of the classes, and the surest cells decide, so that an object
counts which fills a small part of the image.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datasets.labels import ClassTable
from datasets.transforms import normalize
from models.build import build_mask_record, build_maskclip_options
from models.clip_features import dense_features
from models.clip_loading import load_clip
from models.maskclip import LOGIT_SCALE, MaskCLIP, class_scores
from models.text import load_templates, text_embeddings
from utils.config import Config
from utils.distributed import setup

SHARE = 0.01  # of the cells: those whose mean is the score


class Scorer(NamedTuple):
    """CLIP for `image_scores`."""

    teacher: MaskCLIP
    scale: float
    normalization: str
    device: torch.device
    record: dict[str, object]  # all that decides the scores of an image

    def scores(self, image: Tensor) -> np.ndarray:
        """uint8 (3,h,w) -> (K,) float32."""
        normalized = normalize(image[None].to(self.device), self.normalization)
        return image_scores(self.teacher, normalized, self.scale).numpy()


def load_scorer(config: Config, classes: ClassTable, trust: bool = False) -> Scorer:
    """CLIP, its texts and its windows as the config's teacher of stored masks has them."""
    device = setup().device
    clip_model = load_clip(config.clip_model, trust, "--clip-model ").to(device)
    templates = load_templates(config.prompt_templates)
    text = text_embeddings(clip_model, classes.prompts, templates).cpu()
    options = build_maskclip_options(config, stored=True)
    teacher = MaskCLIP(clip_model.visual, text, options).to(device)
    scale = logit_scale(clip_model)
    record = build_mask_record(config, classes, text) | {"logit_scale": scale}
    return Scorer(teacher, scale, config.arithmetic.clip_normalization, device, record)


@torch.no_grad()
def image_scores(teacher: MaskCLIP, image: Tensor, scale: float) -> Tensor:
    """Scores (K,), 0 to 1, on the CPU: of one normalised image (1, 3, h, w).

    With the cells i = 1..N of all windows, their features f_i and the text embeddings t_k, each
    the mean over prompts and synonyms (`models.text.text_embeddings`):

        p_ik = softmax over k of scale * cos(f_i, t_k)
        s_k  = mean of the ceil(SHARE * N) largest of p_1k .. p_Nk

    scale: CLIP's own, see `logit_scale`. PAMR, key smoothing, prompt denoising and template
    experts of the teacher play no part.
    """
    cells = []
    for view in teacher.seen(image):
        features, _ = dense_features(teacher.visual, view, teacher.options)
        cells.append(class_scores(features, teacher.text_embeddings).transpose(0, 1).flatten(1))
    return pooled((scale * torch.cat(cells, dim=1)).softmax(0)).cpu()


def pooled(probabilities: Tensor) -> Tensor:
    """The mean of the ceil(SHARE * N) largest of each row: (K, N) -> (K,)."""
    count = math.ceil(SHARE * probabilities.shape[1])
    return probabilities.topk(count, dim=1).values.mean(1)


def logit_scale(clip_model: torch.nn.Module) -> float:
    """The factor that CLIP learned for its cosines, before a softmax; training clips it."""
    return min(float(clip_model.logit_scale.exp()), LOGIT_SCALE)
