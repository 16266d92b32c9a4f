"""Segment images with a model.onnx of export.py: needs onnxruntime, numpy and Pillow, no more.

python onnx_segment.py model.onnx street.jpg more/*.jpg --out labels    # PNGs of class ids
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bilinear, as in the training: without the smoothing that Pillow's own `resize` adds."""
    scale = image.width / size[0], 0, 0, 0, image.height / size[1], 0
    return image.transform(size, Image.Transform.AFFINE, scale, Image.Resampling.BILINEAR)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", type=Path, help="model.onnx of export.py")
parser.add_argument("images", type=Path, nargs="+", help="image files; no folder, no film")
parser.add_argument("--out", type=Path, default=Path("labels"), help="folder for the labels")
arguments = parser.parse_args()
if len({path.stem for path in arguments.images if path.is_file()}) < len(arguments.images):
    parser.error("expected image files of different names; found a folder, no file, or one twice")
session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
palette, box = json.loads(about["palette"]), json.loads(about["image_size"])
arguments.out.mkdir(parents=True, exist_ok=True)
for path in arguments.images:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    factor = min(max(box) / max(image.size), min(box) / min(image.size))  # to that of training
    fitted = resize(image, tuple(max(1, int(side * factor + 0.5)) for side in image.size))
    (logits,) = session.run(["logits"], {"image": np.asarray(fitted)[None]})  # (1,K,h,w)
    labels = np.argmax([resize(Image.fromarray(one), image.size) for one in logits[0]], axis=0)
    result = Image.fromarray(labels.astype(np.uint8))
    result.putpalette(np.ravel(palette).tolist())
    result.save(arguments.out / f"{path.stem}.png")
