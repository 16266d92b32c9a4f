"""Segment images with a model.onnx of export.py: needs onnxruntime, numpy and Pillow, no more.

Writes OUT/<image>.png (class ids, shown in the classes' colours) and prints each class's share.

    python onnx_segment.py model.onnx street.jpg more/*.jpg --out labels
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def resize(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, as in the training: without the smoothing that Pillow adds; maps (H,W,C)."""
    for axis, size in ((0, height), (1, width)):
        last = maps.shape[axis] - 1
        place = ((np.arange(size) + 0.5) * (last + 1) / size - 0.5).clip(0, last)
        low = place.astype(int)
        share = (place - low).astype(np.float32).reshape(-1, *[1] * (2 - axis))
        first, second = (maps.take(at, axis) for at in (low, np.minimum(low + 1, last)))
        maps = first * (1 - share) + second * share
    return maps


def main() -> None:
    import onnxruntime

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model.onnx of export.py")
    parser.add_argument("images", type=Path, nargs="+", help="image files; no folder, no film")
    parser.add_argument("--out", type=Path, default=Path("labels"), help="folder for the labels")
    arguments = parser.parse_args()
    for path in arguments.images:
        if not path.is_file():
            parser.error(f"{path} is no file; name the images one by one, or as FOLDER/*.jpg")
    if len({path.stem for path in arguments.images}) < len(arguments.images):
        parser.error("two images have the same name and would get the same file")

    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    names, palette, box = (json.loads(about[k]) for k in ("class_names", "palette", "image_size"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.images:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        # Fit the image into the box (height, width) of the training, long side to long side.
        height, width = image.height, image.width
        factor = min(max(box) / max(height, width), min(box) / min(height, width))
        size = max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
        pixels = np.rint(resize(np.asarray(image), *size)).astype(np.uint8)
        (logits,) = session.run(["logits"], {"image": pixels[None]})  # (1,h,w,3) -> (1,K,h,w)
        scores = resize(logits[0].transpose(1, 2, 0), height, width)
        result = Image.fromarray(scores.argmax(2).astype(np.uint8))
        result.putpalette([channel for color in palette for channel in color])
        result.save(arguments.out / f"{path.stem}.png")
        shares = np.bincount(np.asarray(result).ravel(), minlength=len(names))
        shares = shares / shares.sum()
        shown = [f"{names[k]} {shares[k]:.1%}" for k in np.argsort(-shares) if shares[k] > 0]
        print(f"{path}: " + ", ".join(shown))


if __name__ == "__main__":
    main()
