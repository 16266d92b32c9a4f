"""FLOSS (Benigmim et al. 2025): for each class an expert, whose templates suit that class best.

Templates are ranked by the entropy of their predictions, over a data set and without ground truth.
The expert of a class has text embeddings of all classes, from the best templates of its own class.
Where an expert finds its own class, its probabilities replace those of the average templates.

# official code: all classes compete / here: those that the image-level labels name. Neither the
# softmax nor the choice of an expert is linear, so absent classes are left out before every
# softmax, and their experts take no part. Otherwise they would take pixels from present classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.files import File
from datasets.labels import ClassTable, multi_hot
from datasets.loader import image_loader
from datasets.mask_writer import EXPERTS
from datasets.training import EvaluationSet
from datasets.transforms import normalize
from models.clip_features import MaskCLIPOptions, dense_features
from models.clip_loading import load_clip
from models.maskclip import LOGIT_SCALE, MaskCLIP, class_scores
from models.text import load_templates, template_embeddings
from utils.config import Config
from utils.distributed import (
    Ranks,
    autocast,
    first_on_each_machine,
    gather_objects,
    on_main,
)
from utils.made_from import changed, listed
from utils.progress import progress
from utils.safe.errors import InputError
from utils.safe.files import parse_json, write_json

TOP = 4  # templates of an expert


class TemplateExperts(MaskCLIP):
    """A `MaskCLIP` with experts (K, K, D): `expert_embeddings`.

    `upsampled_scores`, and so the masks, are fused probabilities. They depend on the image-level
    labels; without labels all classes compete. `scores` is inherited and knows no experts: cosines
    of the average templates.
    """

    def __init__(
        self,
        visual: nn.Module,
        text_embeddings: Tensor,
        experts: Tensor,
        options: MaskCLIPOptions | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__(visual, text_embeddings, options, bf16)
        if self.options.key_smoothing > 0 or self.options.prompt_denoising > 0:
            raise InputError(
                "teacher: templates experts compares probabilities of several sets of texts, which "
                "key_smoothing and prompt_denoising would change; set both to 0"
            )
        self.register_buffer("experts", experts.detach().clone())

    def _scores_at(
        self, image: Tensor, size: tuple[int, int], image_labels: Tensor | None = None
    ) -> Tensor:
        """Fused probabilities at `size`: softmax on the grid, then resized, then fused."""
        features, _ = dense_features(self.visual, image, self.options)
        possible = _possible(image_labels, len(image), len(self.text_embeddings), image.device)
        resized = partial(self._upsample, size=size, input_size=image.shape[-2:])

        def probabilities(texts: Tensor) -> Tensor:
            return resized(class_probabilities(class_scores(features, texts), possible))

        # One at a time, so that memory holds a few maps of K classes and not K of them.
        experts = ((c, probabilities(texts)) for c, texts in enumerate(self.experts))
        return fuse(probabilities(self.text_embeddings), experts, possible)


def class_probabilities(cosines: Tensor, possible: Tensor) -> Tensor:
    """softmax(100 cosine) over the possible classes: (B, K, h, w), (B, K) bool -> (B, K, h, w)."""
    absent = ~possible[:, :, None, None]
    return (LOGIT_SCALE * cosines).masked_fill(absent, float("-inf")).softmax(1)


def fuse(default: Tensor, experts: Iterable[tuple[int, Tensor]], possible: Tensor) -> Tensor:
    """Per pixel the most confident expert that finds its own class, or `default` where none does.

    default (B, K, H, W): probabilities of the average templates. experts: (class, the same of its
    expert) in the order of the classes; of equals the first wins. Experts of classes that are not
    possible (B, K) take no part. -> (B, K, H, W)
    """
    fused, best = default, torch.zeros_like(default[:, 0])
    for c, probabilities in experts:
        own = probabilities[:, c]
        takes = (probabilities.argmax(1) == c) & possible[:, c, None, None] & (own > best)
        fused = torch.where(takes[:, None], probabilities, fused)
        best = torch.where(takes, own, best)
    return fused


def template_entropies(cosines: Tensor, possible: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sums of entropies and counts of positions, by template and predicted class, of one image.

    cosines (T, K, h, w) of each template alone; possible (K,) bool -> (T, K) float64, (T, K) int64,
    on the CPU.
    """
    possible = (
        torch.ones_like(cosines[0, :, 0, 0], dtype=torch.bool) if possible is None else possible
    )
    probabilities = class_probabilities(cosines, possible.expand(len(cosines), -1))
    entropy = -(probabilities * (probabilities + 1e-10).log()).sum(1)
    entropy = entropy.flatten(1).cpu().double()  # there is no float64 on Apple's GPU
    predicted = probabilities.argmax(1).flatten(1).cpu()
    sums = entropy.new_zeros(cosines.shape[:2]).scatter_add_(1, predicted, entropy)
    counts = torch.zeros_like(sums).long().scatter_add_(1, predicted, torch.ones_like(predicted))
    return sums, counts


@torch.no_grad()
def rank_templates(
    teacher: MaskCLIP, of_templates: Tensor, samples: Iterable[tuple[Tensor, Tensor]]
) -> Tensor:
    """`choose_templates` on the images of all ranks, as the teacher sees them: (K, TOP).

    of_templates (T, K, D): unit rows. samples: normalised image (1, 3, h, w), image_labels (1, K).
    All ranks must call it.

    # official code: positions are the pixels / here: the cells of CLIP's grid, as T*K maps at the
    # size of the images would take gigabytes; where windows overlap, a place counts several times.
    """
    sums = torch.zeros(of_templates.shape[:2], dtype=torch.float64)
    counts = torch.zeros_like(sums).long()
    for image, image_labels in samples:
        possible = (image_labels[0] != 0).to(image.device)
        if possible.sum() < 2:  # every template is certain
            continue
        for view in teacher.seen(image):
            features, _ = dense_features(teacher.visual, view, teacher.options)
            cosines = class_scores(features, of_templates.flatten(0, 1))
            for one in cosines.unflatten(1, of_templates.shape[:2]):
                of_view = template_entropies(one, possible)
                sums += of_view[0]
                counts += of_view[1]
    all_sums, all_counts = zip(*gather_objects((sums, counts)), strict=True)
    return choose_templates(sum(all_sums), sum(all_counts))


@dataclass
class ExpertsFile:
    """The templates of every class's expert, and what they were chosen from, as JSON.

    folder: of the masks. made_from: everything that decides them. overwrite: ignore an existing
    file.
    """

    folder: Path
    made_from: dict[str, Any]
    overwrite: bool = False

    @property
    def path(self) -> Path:
        """FOLDER/experts.json."""
        return self.folder / EXPERTS

    def read(self, classes: Sequence[str], templates: Sequence[str]) -> Tensor | None:
        """Ids of the templates, (K, TOP), -1 where there are fewer; None without a file.

        Raises InputError for a file that was made from something else, or can't be read.
        """
        if self.overwrite or not self.path.exists():
            return None
        try:
            content = parse_json(self.path.read_text(encoding="utf-8"))
            other = changed(content["made_from"], self.made_from)
            experts = [] if other else [content["experts"][name] for name in classes]
            ids = [[templates.index(template) for template in expert] for expert in experts]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path} can't be read ({error}); --overwrite makes it again"
            ) from None
        if other:
            raise InputError(
                f"{self.path} was made with other {', '.join(other)} ({listed(other, 1)}); name "
                "another --out, or --overwrite to make it again"
            )
        return torch.tensor([(expert + [-1] * TOP)[:TOP] for expert in ids])

    def write(self, experts: dict[str, list[str]]) -> None:
        """experts: of `named_experts`."""
        write_json(self.path, {"made_from": self.made_from, "experts": experts})


def load_experts(
    config: Config,
    classes: ClassTable,
    teacher: MaskCLIP,
    file: ExpertsFile,
    images: dict[str, File],
    labels: dict[str, Sequence[int]],
    ranks: Ranks,
    trust: bool = False,
    precision: str = "fp32",
) -> tuple[TemplateExperts, dict[str, list[str]]]:
    """The teacher of ``templates: experts``; and class -> templates of its expert.

    Rank 0 reads the templates from `file`. Without one they are chosen on the images and their
    labels, see `rank_templates`, in fp32 or bf16, and written to it. All ranks must call it.
    """
    templates = load_templates(config.prompt_templates)
    if len(templates) <= TOP:
        raise InputError(
            f"templates: experts choose the best {TOP} of prompt_templates for each class, and "
            f"'{config.prompt_templates}' has {len(templates)}; use clip85 or templates: average"
        )

    def samples() -> Iterator[tuple[Tensor, Tensor]]:
        data = EvaluationSet(images, config.image_size)
        loader = image_loader(data, config.num_workers, ranks)
        for sample in progress(loader, "templates", ranks):
            image = sample["image"][None].to(ranks.device)
            image_labels = multi_hot(labels[sample["name"]], len(classes))[None]
            yield normalize(image, config.arithmetic.clip_normalization), image_labels

    with autocast(ranks.device, precision):
        clip_model = first_on_each_machine(lambda: load_clip(config.clip_model, trust))
        of_templates = template_embeddings(clip_model.to(ranks.device), classes.prompts, templates)
        chosen = on_main(ranks, lambda: file.read(classes.names, templates))
        if chosen is None:
            chosen = rank_templates(teacher, of_templates, samples())
            on_main(ranks, lambda: file.write(named_experts(classes.names, templates, chosen)))
        experts = expert_embeddings(of_templates, teacher.text_embeddings, chosen)
        fused = TemplateExperts(teacher.visual, teacher.text_embeddings, experts, teacher.options)
        return fused.to(ranks.device), named_experts(classes.names, templates, chosen)


def named_experts(
    classes: Sequence[str], templates: Sequence[str], chosen: Tensor
) -> dict[str, list[str]]:
    """Class -> templates of its expert, best first."""
    return {
        name: [templates[i] for i in ids if i >= 0]
        for name, ids in zip(classes, chosen.tolist(), strict=True)
    }


def mean_entropies(sums: Tensor, counts: Tensor) -> Tensor:
    """Mean entropy of the positions where a template predicts a class; 0 where it never does."""
    return sums / counts.clamp(min=1)


def choose_templates(sums: Tensor, counts: Tensor, top: int = TOP) -> Tensor:
    """Ids of the templates of the lowest mean entropy, best first: (T, K) twice -> (K, top).

    Templates that never predict a class are left out; -1 where there are fewer than `top`.
    """
    mean = mean_entropies(sums, counts).masked_fill(counts == 0, float("inf"))
    mean, order = mean.T.sort(dim=1, stable=True)
    order = order.masked_fill(mean == float("inf"), -1)[:, :top]
    return F.pad(order, (0, top - order.shape[1]), value=-1)


def expert_embeddings(of_templates: Tensor, average: Tensor, chosen: Tensor) -> Tensor:
    """Text embeddings of every expert, (expert, class, D): unit rows.

    of_templates (T, K, D): unit rows of each template alone. chosen (K, top): `choose_templates`. A
    class without templates has the average ones (K, D) for its expert.
    """
    experts = []
    for ids in chosen:
        rows = of_templates[ids[ids >= 0]]
        experts.append(F.normalize(rows.mean(0), dim=1) if len(rows) else average)
    return torch.stack(experts)


def _possible(
    image_labels: Tensor | None, images: int, classes: int, device: torch.device
) -> Tensor:
    """Classes that compete, (B, K) bool: those of the labels, or all where there are none.

    The labels may be of B images of which each has several windows, one window after the other.
    """
    if image_labels is None:
        return torch.ones(images, classes, dtype=torch.bool, device=device)
    present = image_labels != 0
    present = present | ~present.any(1, keepdim=True)
    return present.repeat(images // len(present), 1)
