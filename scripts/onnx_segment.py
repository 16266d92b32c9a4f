"""Segment pictures with a model.onnx of export.py: needs onnxruntime, numpy and Pillow, no more.

Writes OUT/<picture>.png (class ids, shown in the classes' colours) and prints each class's share.

    python onnx_segment.py model.onnx street.jpg more/*.jpg --out labels
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def main() -> None:
    import onnxruntime

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("labels"))
    arguments = parser.parse_args()
    if len({path.stem for path in arguments.pictures}) < len(arguments.pictures):
        parser.error("two pictures have the same name and would get the same file")

    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    names, palette, box = (json.loads(about[k]) for k in ("class_names", "palette", "image_size"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.pictures:
        picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        # Fit the picture into the box (height, width) of the training, long side to long side.
        factor = min(max(box) / max(picture.size), min(box) / min(picture.size))
        size = [max(1, int(side * factor + 0.5)) for side in picture.size]
        pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
        (labels,) = session.run(["labels"], {"image": pixels[None]})  # (1,h,w,3) -> (1,h,w)
        result = Image.fromarray(labels[0]).resize(picture.size, Image.Resampling.NEAREST)
        result.putpalette([channel for color in palette for channel in color])
        result.save(arguments.out / f"{path.stem}.png")
        shares = np.bincount(np.asarray(result).ravel(), minlength=len(names))
        shares = shares / shares.sum()
        shown = [f"{names[k]} {shares[k]:.1%}" for k in np.argsort(-shares) if shares[k] > 0]
        print(f"{path}: " + ", ".join(shown))


if __name__ == "__main__":
    main()
