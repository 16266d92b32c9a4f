"""One training sample in dual mode: a data-loader worker's work from the PNG file to the network.

Official: decoding, whole-image transforms and normalisation, also of the ground truth. Ours:
`TrainingSet`; normalisation is left to the training device. A second case adds normalisation to
ours, a third reads decoded images from the cache. The check compares normalised samples of an image
that is not timed. Images have 2048x1024 pixels and 4 MB, crops 512x1024. Both ways use the same
random numbers. Needs benchmarks/requirements.txt.
"""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.harness import Case, Options, main_of, on_one_thread
from benchmarks.inputs import CLASSES
from benchmarks.official import data as official
from datasets.files import File
from datasets.training import TrainingSet
from datasets.transforms import IMAGENET_STD, Augmentation, TrainTransform, normalize
from utils.batches import Draw

SIZE, CROP, RATIOS = (1024, 2048), (512, 1024), (0.5, 2.0)
GREY_LEVELS = 2  # largest mean difference of a sample: both ways round
SAMPLES = 32  # in one call, each with different random numbers
IMAGES = ("timed", "checked")
KINDS = {"": 1.6, " with normalisation": None, " with image cache": None}  # least ratio


def cases(
    options: Options, size: tuple[int, int] = SIZE, crop: tuple[int, int] = CROP
) -> list[Case]:
    official.opencv()  # raises InputError before any work
    folder = tempfile.TemporaryDirectory(prefix="carb-benchmark-")  # exists as long as the cases
    for seed, name in enumerate(IMAGES):
        write_images(Path(folder.name) / name, size, seed)
    return [_case(kind, folder, size, crop, options) for kind in KINDS]


def _case(
    kind: str,
    folder: tempfile.TemporaryDirectory,
    size: tuple[int, int],
    crop: tuple[int, int],
    options: Options,
) -> Case:
    samples = SAMPLES // 4 if options.quick else SAMPLES
    transform = TrainTransform(size, RATIOS, crop)
    folders = {name: Path(folder.name) / name for name in IMAGES}
    dataset = TrainingSet(
        {name: File(str(images / "image.png")) for name, images in folders.items()},
        dict.fromkeys(IMAGES, (0,)),
        CLASSES,
        transform,
        cache=Path(folder.name) / "cache" if "cache" in kind else None,
    )

    def augmentation(seed: int) -> Augmentation:
        return transform.draw(size, torch.Generator().manual_seed(seed))

    def official_sample(seed: int, name: str = "timed") -> Tensor:
        assert folder  # keeps a reference, without which the folder is deleted
        image, label = (folders[name] / file for file in ("image.png", "label.png"))
        return official.sample(image, label, augmentation(seed), crop)[0]

    def ours(seed: int) -> Tensor:
        return dataset[Draw(IMAGES.index("timed"), seed)]["image"]

    def normalized(seed: int, name: str = "timed") -> Tensor:
        sample = dataset[Draw(IMAGES.index(name), seed)]
        return normalize(sample["image"][None], "imagenet", sample["valid"][None])[0]

    def check() -> str:
        std, worst = torch.tensor(IMAGENET_STD).view(3, 1, 1), 0.0
        for seed in range(samples, samples + 8):
            expected, found = official_sample(seed, "checked"), normalized(seed, "checked")
            assert expected.shape == found.shape, f"{expected.shape} and {found.shape}"
            worst = max(worst, ((expected - found) * std).abs().mean().item())
            # A flat image would hide a shift by one pixel, or a missing flip.
            shifted = ((expected[..., 1:] - found[..., :-1]) * std).abs().mean().item()
            assert shifted > GREY_LEVELS, "the image is too flat to tell"
        assert worst <= GREY_LEVELS, f"{worst:.2f} grey levels in the mean"
        return f"samples differ by at most {worst:.2f} grey levels in the mean (at most 2)"

    timed = normalized if "normalisation" in kind else ours
    return Case(
        f"data pipeline{kind}, {size[1]}x{size[0]}",
        on_one_thread(check),
        on_one_thread(lambda: [official_sample(seed) for seed in range(samples)]),
        on_one_thread(lambda: [timed(seed) for seed in range(samples)]),
        target=KINDS[kind],
        expected_seconds=0.059 if size == SIZE and options.device == "cpu" else None,
        units=samples,
    )


def write_images(folder: Path, size: tuple[int, int], seed: int) -> None:
    """Write image.png (smooth colours with blocks and noise) and label.png."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    cells = [max(2, side // 64) for side in size]
    smooth, blocks = (torch.rand(1, 3, *cells, generator=generator) for _ in range(2))
    image = 100 * F.interpolate(smooth, size, mode="bicubic") + 130 * F.interpolate(blocks, size)
    image += 6 * torch.randn(image.shape, generator=generator)
    pixels = image[0].clamp(0, 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(folder / "image.png")
    scores = torch.rand(1, CLASSES, *cells, generator=generator)
    label = F.interpolate(scores, size, mode="bicubic").argmax(1)[0].byte().numpy()
    Image.fromarray(label).save(folder / "label.png")


if __name__ == "__main__":
    main_of(cases)
