"""An exported file, run and compared with the network that it was made from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from datasets.transforms import normalize
from models.exported import INPUT, OUTPUTS, quiet
from models.inference import predict_logits
from utils.safe.errors import InputError

Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # images -> logits, labels
# (images, height, width) of the random images: even and odd, one and two at a time.
SHAPES = ((1, 64, 96), (2, 97, 65), (1, 33, 130))
TOLERANCE = 1e-4  # difference of a logit, of the largest absolute logit of the images
_BLOCK = 8  # pixels of one colour, below the noise


def onnx_runner(path: Path) -> Run:
    """An ONNX file on the CPU, by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: tuple(session.run(list(OUTPUTS), {INPUT: images}))


def torch_runner(path: Path) -> Run:
    """An archive of torch.export on the CPU."""
    with path.open("rb") as file, quiet():
        module = torch.export.load(file).module()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, labels = module(torch.from_numpy(images))
        return logits.numpy(), labels.numpy()

    return run


RUNNERS = {"onnx": onnx_runner, "torch": torch_runner}


def random_images(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Blocks of colours with noise: uint8 (images, height, width, 3)."""
    rng, (count, height, width) = np.random.default_rng(seed), shape
    colors = rng.integers(0, 256, (count, -(-height // _BLOCK), -(-width // _BLOCK), 3))
    blocks = colors.repeat(_BLOCK, 1).repeat(_BLOCK, 2)[:, :height, :width]
    noise = rng.integers(-40, 41, (*shape, 3))
    return np.clip(blocks + noise, 0, 255).astype(np.uint8)


def check_agreement(name: str, run: Run, model: nn.Module) -> str:
    """Compare a file with its network on random images of three sizes.

    All logits must agree within TOLERANCE. The labels must be the arg max of the network's logits,
    except where its two highest differ by less than twice that tolerance. Returns what was found;
    raises InputError saying where the file differs.
    """
    furthest = 0.0
    for seed, shape in enumerate(SHAPES):
        images = random_images(shape, seed)
        size = f"{shape[2]}x{shape[1]}"
        network_input = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), "imagenet")
        wanted = predict_logits(model, network_input, shape[1:]).numpy()
        try:
            logits, labels = run(images)
        except Exception as error:  # onnxruntime's and torch's have no class in common
            fault = f"it can't run {shape[0]} of {size} pixels: {str(error).splitlines()[0]}"
            raise _refused(name, fault) from error
        fault, difference = _compare(logits, labels, wanted)
        if fault:
            raise _refused(name, f"on images of {size} pixels, {fault}")
        furthest = max(furthest, difference)
    sizes = ", ".join(f"{width}x{height}" for _, height, width in SHAPES)
    return (
        f"agrees with the network on random images of {sizes} pixels: logits within "
        f"{furthest:.0e} of the largest (allowed: {TOLERANCE:.0e}), class ids equal except at ties"
    )


def _compare(logits: np.ndarray, labels: np.ndarray, wanted: np.ndarray) -> tuple[str, float]:
    """What differs, or ""; the largest difference as a share of the largest logit."""
    if logits.shape != wanted.shape or labels.shape != (len(wanted), *wanted.shape[2:]):
        return f"it gives logits {logits.shape} and labels {labels.shape}", 0.0
    scale = max(1e-30, float(np.abs(wanted).max()))
    difference = np.abs(logits - wanted) / scale
    furthest = float(difference.max())
    if not furthest <= TOLERANCE:  # also where it is NaN
        place = np.unravel_index(np.nan_to_num(difference, nan=np.inf).argmax(), wanted.shape)
        return (
            f"a logit is {logits[place]:.6g} instead of {wanted[place]:.6g} (image {place[0]}, "
            f"class {place[1]}, row {place[2]}, column {place[3]}; allowed difference: "
            f"{TOLERANCE * scale:.2g})"
        ), furthest
    order = np.sort(wanted, axis=1)
    gap = (order[:, -1] - order[:, -2]) / scale if wanted.shape[1] > 1 else np.inf
    wrong = (labels != wanted.argmax(1)) & (gap >= 2 * TOLERANCE)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        return (
            f"the class is {labels[place]} instead of {wanted.argmax(1)[place]} at "
            f"{int(wrong.sum())} of {wrong.size} pixels, first in image {place[0]}, row "
            f"{place[1]}, column {place[2]}"
        ), furthest
    return "", furthest


def _refused(name: str, fault: str) -> InputError:
    return InputError(
        f"{name} does not agree with its network: {fault}; it was not kept. Install the versions "
        f"that were tested (requirements.txt, requirements-extra.txt); this is torch "
        f"{torch.__version__}"
    )
