"""How sure a label map is: --confidence and --min-confidence, for networks and for teachers.

The confidence of a pixel is the probability of its class, 0 to 1; files hold round(255 x it).
"""

import argparse
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from datasets.labels import IGNORE_INDEX
from models.maskclip import LOGIT_SCALE, MaskCLIP, suppress_absent, to_pseudo_mask
from models.template_experts import TemplateExperts
from utils.cli import number
from utils.safe.errors import InputError
from utils.teacher_settings import TeacherSettings


def add_confidence(parser: argparse.ArgumentParser, where: str) -> None:
    """--confidence and --min-confidence for a script; `where`: the files of the first."""
    add = parser.add_argument
    add("--confidence", action="store_true", help=f"also 255 x the labels' probability, to {where}")
    help_text = "leave pixels unlabelled (255) whose label has a probability below P"
    add("--min-confidence", type=number(1), default=0.0, metavar="P", help=help_text)


def confidence_from(
    arguments: argparse.Namespace, teacher: TeacherSettings | None = None
) -> "Confidence":
    """What the options ask for. Raises InputError for a teacher whose scores are no probabilities.

    teacher: where there is one, that of the masks.
    """
    sure = Confidence(arguments.confidence, arguments.min_confidence)
    if sure.used and teacher is not None and teacher.key_smoothing > 0:
        raise InputError(
            "--confidence and --min-confidence need probabilities, and at some pixels the scores "
            f"of this teacher are sums of several (key_smoothing: {teacher.key_smoothing:g}); "
            "leave the options out, or use a teacher with key_smoothing: 0"
        )
    return sure


@dataclass(frozen=True)
class Confidence:
    """Whether confidence is written, and the probability that a label must have."""

    write: bool = False
    least: float = 0.0

    @property
    def used(self) -> dict[str, bool | float]:
        """The options that are used, for meta.json; empty where no probabilities are needed."""
        options = {"confidence": self.write, "min_confidence": self.least}
        return {key: value for key, value in options.items() if value}

    def keep(
        self, labels: Tensor, probability: Tensor | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels (H,W) uint8, IGNORE_INDEX where their probability is too low; the confidence.

        probability (H,W), needed where an option is used. Confidence (H,W) uint8: round(255
        probability), None where it is not written.
        """
        if self.least:
            labels = labels.masked_fill(probability < self.least, IGNORE_INDEX)
        kept = labels.cpu().numpy()
        return kept, (255 * probability).round().byte().cpu().numpy() if self.write else None

    def mask(
        self, teacher: MaskCLIP, scores: Tensor, image_labels: Tensor, how: str
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """`keep` of the `to_pseudo_mask` of one image: scores (1,K,H,W), image_labels (1,K)."""
        labels, probability = to_pseudo_mask(scores, image_labels, how)[0].byte(), None
        if self.used:
            are_probabilities = isinstance(teacher, TemplateExperts)
            probability = mask_probability(scores, image_labels, how, are_probabilities)[0]
        return self.keep(labels, probability)


def mask_probability(
    scores: Tensor, image_labels: Tensor, how: str, are_probabilities: bool = False
) -> Tensor:
    """Probability of each class that `to_pseudo_mask` chooses: (B,K,H,W), (B,K) -> (B,H,W).

    It is softmax(100 score) after label filtering: over the classes that the image has, at CLIP's
    own temperature. Of an image with one class it is 1, of one without classes 0. Scores of
    `TemplateExperts` are such probabilities already.
    """
    scores = suppress_absent(scores, image_labels, how)
    if not are_probabilities:
        scores = (LOGIT_SCALE * scores).softmax(1)
    return scores.amax(1).nan_to_num(0.0).clamp(0, 1)
