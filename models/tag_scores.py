"""Image-level scores of the classes from CLIP, and the thresholds from which a tag is suggested.

CLIP sees an image as the teacher of the stored masks does: whole, or in overlapping windows. Each
cell of its grid gives probabilities of the classes, and the surest cells decide, so that an object
counts which fills a small part of the image.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from models.clip_features import dense_features
from models.maskclip import MaskCLIP, class_scores

SHARE = 0.01  # of the cells: those whose mean is the score
THRESHOLD = 0.5  # a class that is surer than all others together
_LARGEST_SCALE = 100  # CLIP's training clips its scale there


@torch.no_grad()
def tag_scores(teacher: MaskCLIP, image: Tensor, scale: float) -> Tensor:
    """Scores (K,), 0 to 1, on the CPU: of one normalised image (1, 3, h, w).

    With the cells i = 1..N of all windows, their features f_i and the text embeddings t_k, each
    the mean over prompts and synonyms (`models.text.text_embeddings`):

        p_ik = softmax over k of scale * cos(f_i, t_k)
        s_k  = mean of the ceil(SHARE * N) largest of p_1k .. p_Nk

    scale: CLIP's own, see `logit_scale`. PAMR, key smoothing and prompt denoising of the teacher
    play no part.
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
    """The factor that CLIP learned for its cosines, before a softmax; 100 in OpenAI's models."""
    return min(float(clip_model.logit_scale.exp()), _LARGEST_SCALE)


def best_thresholds(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """`best_threshold` of every class: scores (N, K), present (N, K) bool -> (K,)."""
    columns = zip(scores.T, present.T, strict=True)
    return np.array([best_threshold(of_class, truth) for of_class, truth in columns])


def best_threshold(scores: np.ndarray, present: np.ndarray) -> float:
    """The threshold of one class with the largest F1 on labelled images: (N,), (N,) bool.

    A class is suggested where its score is above the threshold t. With the true positives TP,
    F1(t) = 2 TP / (suggested + present). Tried are THRESHOLD, half the lowest score, and the middle
    between each score and the next. Of equals the one nearest to THRESHOLD wins, so that a class
    keeps THRESHOLD unless the labels speak against it; a class that is present nowhere keeps it
    too.
    """
    if not present.any():
        return THRESHOLD
    values = np.unique(scores.astype(np.float64))
    tried = [THRESHOLD, values[0] / 2, *(values[:-1] + values[1:]) / 2]
    return float(max(tried, key=lambda t: (_f1(scores > t, present), -abs(t - THRESHOLD))))


def _f1(suggested: np.ndarray, present: np.ndarray) -> float:
    return 2 * (suggested & present).sum() / (suggested.sum() + present.sum())


def tag_quality(suggested: np.ndarray, present: np.ndarray, names: Iterable[str]) -> str:
    """Precision and recall of the tags of N images, by class and of all, as text: (N, K) bool each.

    A tag is wrong where it is missing or too much. As many classes are in most images, the same is
    said of tags that name every class in every image.
    """
    names = list(names)
    width = max(len("all tags"), *map(len, names))
    lines = [f"  {'class':{width}}  present  suggested  precision  recall"]
    columns = zip(
        [*names, "all tags"], [*suggested.T, suggested], [*present.T, present], strict=True
    )
    for name, said, true in columns:
        right = int((said & true).sum())
        precision, recall = _percent(right, said.sum()), _percent(right, true.sum())
        lines.append(
            f"  {name:{width}}  {true.sum():7d}  {said.sum():9d}  {precision:>9}  {recall:>6}"
        )
    wrong, of_all = (suggested != present).sum(), (~present).sum()
    lines.append(
        f"  wrong tags: {wrong / len(present):.2f} an image; with every class in every image "
        f"{of_all / len(present):.2f}, at a precision of {_percent(present.sum(), present.size)}"
    )
    return "\n".join(lines)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"
