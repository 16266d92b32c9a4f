"""Parts that only a miniature CLIP has: a small vocabulary and a fine grid."""

from pathlib import Path

import torch
from torch import Tensor, nn

from datasets.labels import ClassTable, load_classes
from utils.safe.errors import InputError
from utils.safe.tensors import read_tensors

_SHOWN = 8  # unknown words in a message
_DEMO = Path(__file__).parent.parent / "demo"
MINIATURE_CONFIG = _DEMO / "config.yaml"


class KnownTokens(nn.Embedding):
    """Some rows of CLIP's token embedding: text (B, L) from `clip.tokenize` -> (B, L, C).

    `token_ids` (N,), sorted, lists them. The order of the ids is kept and OpenAI's end of text is
    the largest, so CLIP still finds it by the arg max.
    Raises InputError for other tokens.
    """

    def __init__(self, token_ids: Tensor, width: int) -> None:
        super().__init__(len(token_ids), width)
        self.register_buffer("token_ids", token_ids.long())

    def forward(self, text: Tensor) -> Tensor:
        rows = torch.searchsorted(self.token_ids, text).clamp(max=len(self.token_ids) - 1)
        unknown = text[self.token_ids[rows] != text].unique().tolist()
        if unknown:
            raise InputError(
                f"this is a miniature CLIP, which can't read {words(unknown[:_SHOWN])}"
                f"{', ...' * (len(unknown) > _SHOWN)}; it knows {words(self.token_ids.tolist())}. "
                "Keep to these words in the class file and in the prompt templates (those of "
                "demo/config.yaml do), or use a full CLIP, e.g. ViT-B/16"
            )
        return super().forward(rows)


def check_miniature(classes: ClassTable) -> None:
    """Raise InputError where the shipped miniature CLIP is missing or can't read a class."""
    if not (_DEMO / "weights/clip.pt").is_file():
        raise InputError(f"--miniature needs {_DEMO}, which does not exist; leave it out")
    check_prompts(_DEMO / "weights/clip.pt", classes, load_classes(_DEMO / "classes.yaml"))


def check_prompts(path: str | Path, classes: ClassTable, known: ClassTable) -> None:
    """Raise InputError where the miniature CLIP at `path` can't read the prompts of a class.

    known: the classes of its training.
    """
    from clip import tokenize

    ids = {*read_tensors(Path(path), "a miniature CLIP")["token_embedding.token_ids"].tolist(), 0}
    unread = {}
    for name, prompts in zip(classes.names, classes.prompts, strict=True):
        tokens = tokenize(list(prompts), truncate=True).flatten().tolist()
        if unknown := [token for token in dict.fromkeys(tokens) if token not in ids]:
            unread[name] = words(unknown)
    if unread:
        named = ", ".join(f"{name} (unknown: {text})" for name, text in unread.items())
        raise InputError(
            f"the miniature CLIP can't read {len(unread)} of the {len(classes)} classes: {named}. "
            f"It knows {', '.join(known.names)}. For a dry run give a class one of these as its "
            f"prompt ({{name: {next(iter(unread))}, prompt: {known.names[0]}}}), or leave out "
            "--miniature: OpenAI's CLIP knows every word"
        )


def can_read(clip_model: nn.Module, text: str) -> bool:
    """Whether CLIP knows every token of a text: all but a miniature do."""
    from clip import tokenize

    if not isinstance(clip_model.token_embedding, KnownTokens):
        return True
    known = {*clip_model.token_embedding.token_ids.tolist(), 0}
    return known.issuperset(tokenize(text, truncate=True).flatten().tolist())


def words(token_ids: list[int]) -> str:
    """Texts of tokens, for messages."""
    from clip.clip import _tokenizer  # not at the top: `models.clip_loading` checks the package

    return ", ".join(repr(_tokenizer.decode([i]).strip()) for i in token_ids)


def set_output_stride(visual: nn.Module, stride: int) -> None:
    """Take the pooling out of the last stages of CLIP's ResNet: 4, 8, 16 or 32 pixels a cell.

    The convolutions stay as they are (not dilated). Raises ValueError for another stride.
    """
    kept = {4: 0, 8: 1, 16: 2, 32: 3}
    if stride not in kept:
        raise ValueError(f"the output stride of CLIP's ResNet is 4, 8, 16 or 32, not {stride}")
    for stage in (visual.layer2, visual.layer3, visual.layer4)[kept[stride] :]:
        stage[0].avgpool = nn.Identity()
        stage[0].downsample[0] = nn.Identity()


def output_stride(visual: nn.Module) -> int:
    """Pixels per grid cell of CLIP's ResNet along each axis."""
    pools = (stage[0].avgpool for stage in (visual.layer2, visual.layer3, visual.layer4))
    return 4 * 2 ** sum(isinstance(pool, nn.AvgPool2d) for pool in pools)
