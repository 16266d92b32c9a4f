"""An ONNX file in int8: static quantisation by onnxruntime, calibrated on images.

Convolutions and what lies between them get 8-bit values and, for each output channel of a
convolution, an 8-bit scale of its weights (QDQ form); the classifier, the resizing and the arg max
stay in float32. Documentation:
onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.shards import list_images
from datasets.training import EvaluationSet
from models.export_check import onnx_runner
from models.exported import INPUT, quiet
from utils.safe.errors import InputError, note, warn

ALIKE = 0.95  # share of the pixels from which int8 and float32 are called alike
ENOUGH, MOST = 50, 200  # images to calibrate on; with more the ranges hardly change


class Agreement(NamedTuple):
    """Share of the pixels with the same class id in both files, on how many images."""

    share: float
    images: int


class CalibrationImages(Sequence[np.ndarray]):
    """Images for the calibration, read when asked for: uint8 (1,h,w,3), of a folder or its shards.

    Of more than MOST, as many are taken, evenly spaced.
    """

    def __init__(self, folder: Path, image_size: tuple[int, int]) -> None:
        """image_size: box that images are fitted into. Raises InputError without images."""
        if not folder.is_dir():
            raise InputError(f"no folder at {folder}; name one with images for --calibration")
        self.data = EvaluationSet(list_images(folder), image_size)
        if not len(self.data):
            raise InputError(f"no images (.jpg, .png, ...) in {folder} for --calibration")
        last = len(self.data) - 1
        self.indices = [round(i) for i in np.linspace(0, last, min(last + 1, MOST))]
        if len(self.indices) < len(self.data):
            note(f"calibrating on {len(self.indices)} of the {len(self.data)} images in {folder}")
        if len(self.data) < ENOUGH:
            warn(
                f"{folder} has {len(self.data)} images for --calibration: from fewer than {ENOUGH} "
                "the ranges of values are uncertain, and int8 may lose classes; add some, or "
                "measure what int8 costs: python -m benchmarks.exported"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> np.ndarray:
        index = self.indices[place]  # an IndexError ends an iteration
        return self.data[index]["image"].permute(1, 2, 0)[None].contiguous().numpy()


def write_int8(source: Path, path: Path, images: Sequence[np.ndarray]) -> Agreement:
    """Write `source`, an ONNX file in float32, in int8 to `path`, with its metadata.

    images: uint8 (1,h,w,3), of any sizes, made when asked for. Returns the agreement of both
    files on them, and warns where it is below ALIKE. Raises InputError when onnxruntime can't
    quantise the file.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(source)
    try:
        with quiet():
            quantize_static(
                model,
                path,
                _reader(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "Add", "Concat", "MaxPool", "Relu"],
                nodes_to_exclude=[_classifier(model)],
            )
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"onnxruntime can't quantise the network: {error}") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    quantized = onnx.load(path)
    onnx.helper.set_model_props(quantized, metadata | {"precision": "int8"})
    path.write_bytes(quantized.SerializeToString())
    found = agreement(source, path, images)
    if found.share < ALIKE:
        warn(
            f"in int8 {1 - found.share:.1%} of the pixels change their class; measure what that "
            "costs (python -m benchmarks.exported), or calibrate on other images"
        )
    return found


def agreement(first: Path, second: Path, images: Iterable[np.ndarray]) -> Agreement:
    """Compare the labels that two ONNX files give."""
    one, other = onnx_runner(first), onnx_runner(second)
    same = total = count = 0
    for image in images:
        labels = one(image)[1]
        same += int((labels == other(image)[1]).sum())
        total += labels.size
        count += 1
    return Agreement(same / total, count)


def _reader(images: Iterable[np.ndarray]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {INPUT: image}

    return Reader()


def _classifier(model: Any) -> str:
    """Name of the last convolution, which gives the logits."""
    return [node.name for node in model.graph.node if node.op_type == "Conv"][-1]
