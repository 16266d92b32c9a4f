"""Pretrained weights for the backbone: torchvision's ImageNet ones, a download, or a file."""

import re
import urllib.error
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from models.resnet import ResNet
from utils.distributed import first_on_each_machine
from utils.safe.errors import InputError
from utils.safe.files import sha256
from utils.safe.tensors import read_tensors


def load_backbone_weights(backbone: ResNet, source: str, partial: bool = False) -> None:
    """Fill `backbone` in place.

    source: "imagenet" (torchvision's IMAGENET1K_V1, trained like the official weights, not with the
    longer V2 recipe), an https:// address (kept in torch.hub's cache), or a file. Names are
    torchvision's or mmseg's, alone or under "state_dict"/"model", with or without the prefix
    "backbone."; the classifier fc.* and stages that the backbone lacks are left out. Half
    precision is converted to float32.
    An address or a file may end in #sha256=HASH, whole or its first 8 characters or more, which is
    checked. An address must, unless its file name contains the hash as torch and OpenMMLab write it
    (resnet50-0676ba61.pth).
    partial: accept a file with missing or additional tensors, and print which ones.
    Raises InputError when the file is missing, has another hash or does not fit.
    """
    if source == "imagenet":
        source = _imagenet_address(backbone)
    source, _, sha256 = source.partition("#sha256=")
    if "://" in source:
        sha256 = sha256 or _hash_in_name(source)
        path = first_on_each_machine(lambda: _download(source))
    else:
        path = Path(source)
        if not path.is_file():
            raise InputError(
                f"backbone_weights: no file at {path}; "
                "give a file, an https:// address or 'imagenet'"
            )
    if sha256:
        _check_hash(path, sha256)
    _fill(backbone, read_backbone_state(path, backbone.num_layers), str(path), partial)


def read_backbone_state(path: Path, num_layers: int) -> dict[str, Tensor]:
    """The file's tensors under the backbone's own names."""
    content = read_tensors(path, "backbone_weights")
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected names and tensors, found {type(content).__name__}")
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
    state = {str(name).removeprefix("module."): value for name, value in content.items()}
    inside = {name: value for name, value in state.items() if name.startswith("backbone.")}
    state = {name.removeprefix("backbone."): value for name, value in (inside or state).items()}
    unused = ("fc.", *(f"layer{layer}." for layer in range(num_layers + 1, 5)))
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and not name.startswith(unused)
    }


def _fill(backbone: ResNet, state: dict[str, Tensor], source: str, partial: bool) -> None:
    own = backbone.state_dict()
    wrong_shape = [
        f"{name} {list(value.shape)} (expected {list(own[name].shape)})"
        for name, value in state.items()
        if name in own and own[name].shape != value.shape
    ]
    if wrong_shape:
        raise InputError(f"{source} is for another backbone: {_short(wrong_shape)}")
    if not any(name in own for name in state):
        raise InputError(
            f"{source}: no tensor belongs to the backbone, which needs {_short(list(own))}; found "
            f"{_short(list(state)) or 'none'}"
        )
    # Old files lack batch counters; batch norm with a fixed momentum does not use them.
    missing = [name for name in own if name not in state and "num_batches_tracked" not in name]
    unexpected = [name for name in state if name not in own]
    if (missing or unexpected) and not partial:
        raise InputError(
            f"{source} does not fit the backbone: missing {_short(missing) or 'nothing'}; "
            f"not in the backbone {_short(unexpected) or 'nothing'}. Check 'backbone', or "
            "accept it with backbone_weights_partial: true (what is missing starts at random)"
        )
    backbone.load_state_dict(state, strict=False)
    if (missing or unexpected) and not (dist.is_initialized() and dist.get_rank() > 0):
        print(
            f"{source}: partial backbone weights\n"
            f"  missing, random: {', '.join(missing) or 'nothing'}\n"
            f"  in the file, unused: {', '.join(unexpected) or 'nothing'}"
        )


def _imagenet_address(backbone: ResNet) -> str:
    if backbone.deep_stem:
        raise InputError(
            "backbone_weights: imagenet has the 7x7 stem; for a backbone named ..._v1c give the "
            "address or file of mmseg's weights, see configs/official/cityscapes.yaml"
        )
    from torchvision.models import get_model_weights  # takes more than a second to import

    return get_model_weights(f"resnet{backbone.depth}").IMAGENET1K_V1.url


def _file_name(address: str) -> str:
    """File name of an address, for torch's cache. Raises InputError where it has none."""
    if not address.startswith("https://"):
        raise InputError(f"backbone_weights: {address} is not an https:// address")
    name = re.split("[?#]", address)[0].rsplit("/", 1)[-1]
    if not re.fullmatch(r"[A-Za-z0-9_][\w.+-]*", name, re.ASCII):
        raise InputError(f"backbone_weights: {address} does not end in the name of a file")
    return name


def _hash_in_name(address: str) -> str:
    found = re.search(r"-([0-9a-f]{8,64})\.", _file_name(address))
    if not found:
        raise InputError(
            f"backbone_weights: the hash of {address} is unknown; add its sha256 "
            f"(sha256sum FILE) as {address}#sha256=HASH, or download it and give the file"
        )
    return found.group(1)


def _download(address: str) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / _file_name(address)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path))
        except (urllib.error.URLError, OSError) as error:
            raise InputError(
                f"could not download {address}: {error}. Download it by hand and give its path: "
                "--set backbone_weights=PATH"
            ) from None
    return path


def _check_hash(path: Path, expected: str) -> None:
    if not re.fullmatch("[0-9a-fA-F]{8,64}", expected):
        raise InputError(
            "'backbone_weights' must end in #sha256= and a sha256, whole or its first 8 characters "
            f"or more; found '{expected}'"
        )
    found = sha256(path)
    if not found.startswith(expected.lower()):
        raise InputError(
            f"{path}: sha256 is {found}, expected {expected}; delete the file and download it "
            "again, or correct 'backbone_weights'"
        )


def _short(names: list[str], count: int = 6) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
