"""Text embeddings: one unit vector per class, from its names put into prompt templates.

They score CLIP's image features and are the frozen classifier of the segmentation network. The
templates in templates_85.txt are the 80 of OpenAI for ImageNet (the notebook
Prompt_Engineering_for_ImageNet of the CLIP repository) and five "... in the scene." ones, as in
CARB.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.labels import ClassTable
from models.clip_loading import clip_sha256, load_clip, openai_clip
from models.clip_miniature import KnownTokens, can_read
from utils.config import Config
from utils.distributed import first_on_each_machine
from utils.safe.errors import InputError, note
from utils.safe.tensors import read_tensors, write_tensors

Prompts = tuple[tuple[str, ...], ...]  # per class, its synonyms

_TEMPLATES_85 = Path(__file__).with_name("templates_85.txt")


def load_templates(name_or_path: str) -> tuple[str, ...]:
    """Templates named "clip85" or "single", or of a text file: one per line, with one {} each.

    Raises InputError.
    """
    if name_or_path == "single":
        return ("a photo of a {}.",)
    path = _TEMPLATES_85 if name_or_path == "clip85" else Path(name_or_path)
    if not path.is_file():
        raise InputError(
            f"prompt_templates '{name_or_path}' must be clip85, single or a text file; no such file"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected lines with one {{}} each, found {error}") from None
    templates = tuple(line.strip() for line in lines if line.strip())
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        found = repr(wrong[0]) if wrong else "no line"
        raise InputError(f"{path}: expected lines with one {{}} each, found {found}")
    return templates


@torch.no_grad()
def text_embeddings(clip_model: nn.Module, prompts: Prompts, templates: tuple[str, ...]) -> Tensor:
    """Unit rows (K, D), float32, on the device of `clip_model`.

    Each template with the class name is encoded and normalised; their mean, normalised, is the
    embedding. Synonyms of a class are averaged likewise.
    """
    rows = []
    for synonyms in prompts:
        names = [_ensemble(clip_model, name, templates) for name in synonyms]
        rows.append(F.normalize(torch.stack(names).mean(0), dim=0))
    return torch.stack(rows)


@torch.no_grad()
def texts_and_rivals(
    clip_model: nn.Module, prompts: Prompts, words: Sequence[str], template: str, own: str
) -> tuple[Tensor, Tensor, tuple[str, ...], list[str]]:
    """Embeddings of prompts (C,E) and of the words that CLIP can read (J,E); templates; the words.

    A miniature CLIP knows no `template` but its own (`load_templates`).
    """
    is_miniature = isinstance(clip_model.token_embedding, KnownTokens)
    templates = load_templates(own) if is_miniature else (template,)
    known = [word for word in words if can_read(clip_model, word)]
    rows = text_embeddings(clip_model, (*prompts, *((word,) for word in known)), templates)
    text, rivals = rows.split([len(prompts), len(known)])
    return text, rivals, templates, known


def template_embeddings(
    clip_model: nn.Module, prompts: Prompts, templates: tuple[str, ...]
) -> Tensor:
    """Unit rows of every template alone (T, K, D), float32, on the device of `clip_model`.

    Synonyms of a class are averaged as in `text_embeddings`. float32 also under autocast.
    """
    rows = []
    with torch.autocast(clip_model.text_projection.device.type, enabled=False):
        for synonyms in prompts:
            names = [_encode(clip_model, name, templates) for name in synonyms]
            rows.append(F.normalize(torch.stack(names).mean(0), dim=1))
    return torch.stack(rows, dim=1)


def _ensemble(clip_model: nn.Module, name: str, templates: tuple[str, ...]) -> Tensor:
    return F.normalize(_encode(clip_model, name, templates).mean(0), dim=0)


def _encode(clip_model: nn.Module, name: str, templates: tuple[str, ...]) -> Tensor:
    """Unit rows (T, D), one a template."""
    texts = [template.replace("{}", name) for template in templates]
    try:
        tokens = openai_clip().tokenize(texts)
    except RuntimeError as error:
        raise InputError(f"the class prompt '{name}' is too long for CLIP: {error}") from None
    device = clip_model.text_projection.device
    return F.normalize(clip_model.encode_text(tokens.to(device)).float(), dim=1)


def build_text_embeddings(
    config: Config, classes: ClassTable, clip_model: nn.Module | None = None, trust: bool = False
) -> Tensor:
    """Text embeddings (K, D) from the file `config.clip_text`, which CLIP makes if it is missing.

    `clip_model` saves loading CLIP again; for `trust` see `load_clip`. All ranks must call it.
    Raises InputError, also where the file was made from other prompts, other templates or another
    CLIP than those of the config.
    """
    return first_on_each_machine(lambda: _load_or_make(config, classes, clip_model, trust))


def _load_or_make(
    config: Config, classes: ClassTable, clip_model: nn.Module | None, trust: bool
) -> Tensor:
    path = Path(config.clip_text)
    templates = load_templates(config.prompt_templates)
    sha256 = clip_sha256(config.clip_model)
    # The embeddings can be used without CLIP's file; then its name is compared.
    clip_source = {"clip_sha256": sha256} if sha256 else {"clip": model_name(config.clip_model)}
    source = clip_source | {
        "prompts": [list(synonyms) for synonyms in classes.prompts],
        "templates": list(templates),
    }
    if not path.exists():
        clip_model = clip_model or load_clip(config.clip_model, trust)
        embeddings = text_embeddings(clip_model, classes.prompts, templates).cpu()
        write_tensors(
            path, {"embeddings": embeddings, "clip": model_name(config.clip_model), **source}
        )
    return load_text_embeddings(path, len(classes), source=source)


def load_text_embeddings(
    path: str | Path,
    num_classes: int,
    width: int | None = None,
    source: dict[str, Any] | None = None,
) -> Tensor:
    """(K, D) float32, from a bare tensor (.pth, .pt, .npy) or from a file of this program.

    `source`: what such a file must have been made from; unknown for a bare tensor. Raises
    InputError on other sources, other sizes, NaN, infinity or a row of zeros.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no text embeddings at {path} (clip_text)")
    content = read_tensors(path, "text embeddings (clip_text)")
    if isinstance(content, dict):
        for key, expected in (source or {}).items():
            # As texts: comparing a tensor, which may be in its place, would give another tensor.
            if repr(content.get(key)) != repr(expected):
                raise InputError(
                    f"{path} was made with other {key}: expected {_short(expected)}, "
                    f"found {_short(content.get(key))}; name another clip_text or delete the file"
                )
        content = content.get("embeddings")
    elif source is not None and isinstance(content, Tensor):
        note(f"{path} does not name its rows: they are read in the order of the classes")
    if not isinstance(content, Tensor) or content.ndim != 2:
        raise InputError(f"{path}: expected a (classes, width) tensor of text embeddings")
    if content.shape[0] != num_classes or width not in (None, content.shape[1]):
        raise InputError(
            f"{path}: expected text embeddings of {num_classes} classes"
            f"{f' x {width}' if width else ''}, found {tuple(content.shape)}"
        )
    if not content.is_floating_point():
        raise InputError(f"{path}: expected floating point numbers, found {content.dtype}")
    embeddings = content.float()
    bad = ~embeddings.isfinite().all(1) | (embeddings == 0).all(1)
    if bad.any():
        raise InputError(
            f"{path}: text embeddings must be finite and not zero; see row {int(bad.nonzero()[0])}"
        )
    return embeddings


def model_name(name_or_path: str) -> str:
    """Short name of a model or its file: "ViT-B/16", "clip/ViT-B-16.pt" -> "ViT-B-16"."""
    path = Path(name_or_path)
    return path.stem if path.suffix else name_or_path.replace("/", "-").replace("@", "-")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
