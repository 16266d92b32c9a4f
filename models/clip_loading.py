"""OpenAI's CLIP by name, from OpenAI's own file or from a state dict; always float32, frozen."""

import zipfile
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from models.clip_miniature import KnownTokens, set_output_stride
from utils.safe.errors import InputError
from utils.safe.files import sha256
from utils.safe.tensors import read_tensors, refuse_damaged

# Scalars among the weights of OpenAI's archives.
_ARCHIVE_NUMBERS = ("input_resolution", "context_length", "vocab_size")
_LONGEST = 4096  # tokens of a text; CLIP has 77, and stores a matrix of that size squared
_INSTALL = "run: pip uninstall clip; pip install -r requirements.txt (it names clip-anytorch)"


def load_clip(
    name_or_path: str, trust: bool = False, option: str = "--set clip_model="
) -> nn.Module:
    """CLIP (`clip.model.CLIP`) on the CPU, in float32, in eval mode, without gradients.

    `name_or_path` is one of `clip.available_models()` (downloaded once into ~/.cache/clip), the
    path of OpenAI's .pt file, or the path of a state dict with OpenAI's key names, bare or under
    "state_dict" or "model". OpenAI's .pt is a TorchScript archive, which is a program: one whose
    sha256 is not OpenAI's is opened only with `trust`. option: names the argument in a message of
    the script at hand. Raises InputError.
    """
    clip = openai_clip()
    # Building CLIP draws initial weights that are overwritten: keep the caller's random state.
    with torch.random.fork_rng(devices=[]):
        if name_or_path in clip.available_models():
            return _frozen(_download(clip, name_or_path, option))
        path = Path(name_or_path)
        if not path.is_file():
            names = ", ".join(clip.available_models())
            raise InputError(f"clip_model '{name_or_path}' is neither a file nor one of {names}")
        weights = _read(clip, path, trust)
        try:
            return clip_from_state_dict(weights)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def clip_sha256(name_or_path: str) -> str | None:
    """The sha256 of the file behind `load_clip`'s argument; None for a missing file.

    For a name nothing is downloaded: OpenAI's addresses contain the hash.
    """
    addresses = openai_clip().clip._MODELS
    if name_or_path in addresses:
        return Path(addresses[name_or_path]).parent.name
    path = Path(name_or_path)
    return sha256(path) if path.is_file() else None


def clip_from_state_dict(weights: Mapping[str, Tensor]) -> nn.Module:
    """A `clip.model.CLIP` with the shapes of the tensors, without rounding them to fp16.

    A miniature has two more entries: the ids of its known tokens, and `output_stride`.
    """
    clip = openai_clip()
    weights = {key: value for key, value in weights.items() if key not in _ARCHIVE_NUMBERS}
    stride = weights.pop("output_stride", None)
    try:
        width = weights["ln_final.weight"].shape[0]
        shape = {
            "embed_dim": weights["text_projection"].shape[1],
            **_visual_shape(_below(weights, "visual.")),
            "context_length": weights["positional_embedding"].shape[0],
            "vocab_size": weights["token_embedding.weight"].shape[0],
            "transformer_width": width,
            "transformer_heads": width // 64,
            "transformer_layers": _count(weights, "transformer.resblocks."),
        }
        if shape["context_length"] > _LONGEST:
            raise ValueError("texts too long")

        def build() -> nn.Module:
            model = clip.model.CLIP(**shape)
            if "token_embedding.token_ids" in weights:
                model.token_embedding = KnownTokens(weights["token_embedding.token_ids"], width)
            return model

        model = _built(build, weights)
    except KeyError as error:
        raise InputError(
            f"expected CLIP weights under OpenAI's key names, but {error} is missing"
        ) from None
    except Exception:  # wrong dimensions, a width of 0: building fails in many ways
        raise InputError("the tensors do not have the shapes of a CLIP model's") from None
    if stride is not None:
        try:
            set_output_stride(model.visual, int(stride))
        except (ValueError, AttributeError, RuntimeError):
            raise InputError(
                f"expected output_stride 4, 8, 16 or 32, of a ResNet tower; found {stride}"
            ) from None
    return _filled(model, weights)


def _built(build: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> nn.Module:
    """Result of `build` if `weights` fit it. Raises ValueError.

    Builds on "meta" first, so that a small file can't make it allocate all memory.
    """
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in build().state_dict().items()}
    if any(expected[name] != weights[name].shape for name in expected.keys() & weights.keys()):
        raise ValueError("another shape")
    return build()


def openai_clip() -> ModuleType:
    """OpenAI's package `clip`. PyPI's package of that name is a clipboard tool."""
    try:
        import clip
    except ImportError as error:
        raise InputError(f"can't import OpenAI's CLIP ({error}); {_INSTALL}") from None
    if not hasattr(clip, "load"):
        raise InputError(f"the installed package 'clip' is not OpenAI's CLIP; {_INSTALL}")
    return clip


def _visual_shape(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The image tower's arguments of `clip.model.CLIP`, read from its tensors."""
    if "proj" in weights:
        patch = weights["conv1.weight"].shape[-1]
        side = _grid_side(weights["positional_embedding"])
        return {
            "image_resolution": patch * side,
            "vision_layers": _count(weights, "transformer.resblocks."),
            "vision_width": weights["conv1.weight"].shape[0],
            "vision_patch_size": patch,
        }
    return {
        "image_resolution": 32 * _grid_side(weights["attnpool.positional_embedding"]),
        "vision_layers": tuple(_count(weights, f"layer{stage}.") for stage in (1, 2, 3, 4)),
        "vision_width": weights["layer1.0.conv1.weight"].shape[0],
        "vision_patch_size": None,
    }


def _grid_side(position_embedding: Tensor) -> int:
    return round((position_embedding.shape[0] - 1) ** 0.5)


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Number of numbered blocks after `prefix`."""
    return len({key.split(".")[0] for key in _below(weights, prefix)})


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


def _filled(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    try:
        model.load_state_dict(weights)  # copies into float32 parameters
    except RuntimeError as error:
        raise InputError(f"these are not the weights of a CLIP model: {error}") from None
    return _frozen(model)


def _frozen(model: nn.Module) -> nn.Module:
    return model.float().eval().requires_grad_(False)


def _download(clip: ModuleType, name: str, option: str) -> nn.Module:
    """CLIP from ~/.cache/clip, downloaded if necessary; OpenAI's loader checks the sha256."""
    try:
        return clip.load(name, device="cpu")[0]
    except (OSError, RuntimeError, HTTPException) as error:  # network, disk, wrong checksum
        url = clip.clip._MODELS[name]
        raise InputError(
            f"can't get CLIP {name}: {error}. Download {url} by hand and put it into "
            f"~/.cache/clip, or point to it: {option}path/to/{Path(url).name}"
        ) from None


def _read(clip: ModuleType, path: Path, trust: bool) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive or of a saved state dict."""
    what = "clip_model (OpenAI's .pt file, or a state dict saved by torch.save)"
    with refuse_damaged(path, what):
        torchscript = _is_torchscript(path)
    if torchscript:
        _check_trust(clip, path, trust)
        with refuse_damaged(path, what):
            return torch.jit.load(str(path), map_location="cpu").state_dict()
    content = read_tensors(path, what)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise InputError(f"{path}: expected a state dict (names and tensors), found something else")
    return content


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _check_trust(clip: ModuleType, path: Path, trust: bool) -> None:
    digest = sha256(path)
    if not trust and not any(digest in url for url in clip.clip._MODELS.values()):
        raise InputError(
            f"{path} is a TorchScript archive, which is a program, and its sha256 {digest} is not "
            "that of any of OpenAI's files. Download it again; if you made it yourself, save its "
            "state dict with torch.save and name that (or add --trust-torchscript)"
        )
