"""Evaluation of one 2048x1024 image on one thread: metric, and conversion of logits to a map.

The official metric runs on the CPU with the int64 map of argmax; ours runs on the map's device with
the uint8 map of `label_map`.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, Options, main_of, on_one_thread
from benchmarks.inputs import CLASSES
from benchmarks.official import evaluation as official
from datasets.labels import IGNORE_INDEX
from models.inference import label_map, predict_logits
from utils.metrics import ConfusionMatrix

SIZE, STRIDE = (1024, 2048), 8
TIE = 1e-5  # difference of a pixel's two best logits below which rounding decides


def cases(options: Options, size: tuple[int, int] = SIZE) -> list[Case]:
    return [metric(options.device, size), logits_to_map(options.device, size)]


def metric(device: str, size: tuple[int, int] = SIZE) -> Case:
    map64, truth = _maps(size, seed=0)
    arrays = map64.numpy(), truth.numpy()
    map8, truth_there = map64.byte().to(device), truth.to(device)

    def ours(prediction: Tensor = map8, truth: Tensor = truth_there) -> ConfusionMatrix:
        matrix = ConfusionMatrix(CLASSES, device)
        matrix.update(prediction, truth)
        return matrix

    def check() -> str:
        totals = torch.zeros(4, CLASSES, dtype=torch.float64)
        matrix = ConfusionMatrix(CLASSES, device)
        for seed in (1, 2):
            prediction, truth = _maps(size, seed)
            areas = official.areas(prediction.numpy(), truth.numpy(), CLASSES)
            totals += torch.stack(areas)
            one = ours(prediction.byte().to(device), truth.to(device))
            assert torch.equal(_areas(one), torch.stack(areas).long()), f"areas of image {seed}"
            matrix.counts += one.counts
        difference = (official.iou(tuple(totals)) - matrix.iou()).abs().nan_to_num().max().item()
        assert difference < 1e-12, f"IoU differs by {difference:.1e}"
        return f"all areas are equal, IoU differs by {difference:.0e} (at most 1e-12)"

    return Case(
        f"metric, {size[1]}x{size[0]}",
        on_one_thread(check),
        on_one_thread(functools.partial(official.areas, *arrays, CLASSES)),
        on_one_thread(ours),
        target=12,
        expected_seconds=0.0758 if size == SIZE and device == "cpu" else None,
        rounds=15,
    )


def logits_to_map(device: str, size: tuple[int, int] = SIZE) -> Case:
    logits = _logits(size, seed=0).to(device)
    image = torch.zeros(1, 3, 1, 1, device=device).expand(1, 3, *size)  # only its size is used

    def official_map(logits: Tensor = logits) -> Tensor:
        return torch.from_numpy(official.label_map(logits, size, size))

    def ours(logits: Tensor = logits) -> Tensor:
        return label_map(predict_logits(lambda _: logits, image, size))[0].cpu()

    def check() -> str:
        fresh = _logits(size, seed=1).to(device)
        different = official_map(fresh) != ours(fresh)
        best = F.interpolate(fresh, size, mode="bilinear", align_corners=False).topk(2, 1).values
        margin = (best[0, 0] - best[0, 1]).cpu()
        wrong = int((different & (margin >= TIE)).sum())
        assert wrong == 0, f"{wrong} pixels differ where the best logits do by {TIE:g} or more"
        return (
            f"maps are equal but for {int(different.sum())} of {different.numel()} pixels "
            f"(all with less than {TIE:g} between the two best logits)"
        )

    return Case(
        f"logits to map, {size[1]}x{size[0]}",
        on_one_thread(check),
        on_one_thread(official_map),
        on_one_thread(ours),
        target=3,
        expected_seconds=0.581 if size == SIZE and device == "cpu" else None,
    )


def _areas(matrix: ConfusionMatrix) -> Tensor:
    intersection, truth, predicted = matrix.areas()
    return torch.stack([intersection, truth + predicted - intersection, predicted, truth])


def _maps(size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Prediction int64 and ground truth uint8: regions, 20 % of the pixels wrong, 10 % ignored."""
    generator = torch.Generator().manual_seed(seed)
    cells = [max(1, side // 32) for side in size]
    regions = torch.randint(CLASSES, (1, 1, *cells), generator=generator).float()
    truth = F.interpolate(regions, size)[0, 0].long()
    noise = torch.rand(2, *size, generator=generator)
    other = torch.randint(CLASSES, size, generator=generator)
    prediction = truth.where(noise[0] < 0.8, other)
    return prediction, truth.masked_fill(noise[1] < 0.1, IGNORE_INDEX).byte()


def _logits(size: tuple[int, int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, CLASSES, *(side // STRIDE for side in size), generator=generator)


if __name__ == "__main__":
    main_of(cases)
