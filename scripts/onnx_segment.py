"""Segment images with a model.onnx of export.py: needs onnxruntime, numpy and Pillow, no more.

Writes OUT/<image>.png, class ids in the classes' colours, and OUT/meta.json, the names of the ids.

    python onnx_segment.py model.onnx street.jpg more/*.jpg --out labels
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def resize(maps: np.ndarray, w: int, h: int) -> np.ndarray:
    """Maps (C,*,*), bilinear as in the training: Pillow's own `resize` would smooth them."""
    how = (w, h), Image.AFFINE, (maps.shape[2] / w, 0, 0, 0, maps.shape[1] / h, 0), Image.BILINEAR
    return np.stack([Image.fromarray(channel).transform(*how) for channel in maps])


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", type=Path, help="model.onnx of export.py")
parser.add_argument("images", type=Path, nargs="+", help="image files; no folder, no film")
parser.add_argument("--out", type=Path, default=Path("labels"), help="new folder for the labels")
arguments = parser.parse_args()
missing = [path for path in (arguments.model, *arguments.images) if not path.is_file()]
if missing or arguments.out.exists():
    parser.error(f"no file at {missing[0]}" if missing else f"--out {arguments.out} exists already")

session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
names, palette, box = (json.loads(about[k]) for k in ("class_names", "palette", "image_size"))
arguments.out.mkdir(parents=True)
meta = {"made_from": {"method": "predict", "class_names": names}}
(arguments.out / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
for path in arguments.images:
    try:
        image = ImageOps.exif_transpose(Image.open(path))
        if image.mode[0] in "IF":
            raise OSError("expected 8 bits a channel; convert it")
        factor = min(max(box) / max(image.size), min(box) / min(image.size))  # to that of training
        size = [max(1, int(side * factor + 0.5)) for side in image.size]
        pixels = resize(np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1), *size)
        pixels = np.rint(pixels).astype(np.uint8).transpose(1, 2, 0)
        (logits,) = session.run(["logits"], {"image": pixels[None]})  # (1,h,w,3) -> (1,K,h,w)
        labels = Image.fromarray(resize(logits[0], *image.size).argmax(0).astype(np.uint8))
        labels.putpalette(np.ravel(palette).tolist())
        with (arguments.out / f"{path.stem}.png").open("xb") as file:
            labels.save(file, "PNG")
    except (OSError, Image.DecompressionBombError) as error:
        parser.error(f"{path}: {error}")
