"""Measure what each preset of `teacher` costs: time relative to `maskclip`, and peak memory.

    python -m benchmarks.teachers --json benchmarks/results/teachers_cpu.json --write
    python -m benchmarks.teachers --device cuda --json benchmarks/results/teachers_cuda.json --write
    python -m benchmarks.teachers fast --rounds 5

Each preset makes the pseudo-mask of one image with ViT-B/16 (random weights) and 19 classes, of
which the image has 12. A preset with windows runs all its windows. Every measurement is a process
of its own, so that peaks do not mix; the presets alternate, --rounds times, and a ratio is that to
`maskclip` in the same round. CPU: CPU-seconds of all threads and resident memory, in float32. GPU:
wall-clock seconds and memory of tensors, in float32 and in bfloat16. --write puts the table into
benchmarks/RESULTS.md.
"""

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.harness import Options, timed
from benchmarks.inputs import CLASSES, random_images, random_labels, random_visual
from benchmarks.output import ROOT, at_most, describe, machine_line, parser, publish, spread
from datasets.transforms import normalize
from experiments.figures.style import markdown
from models.build import build_maskclip_options
from models.maskclip import MaskCLIP
from utils.config import PRESETS, load_config
from utils.cost import resident
from utils.distributed import setup
from utils.safe.errors import InputError, run_script
from utils.safe.files import write_json

TEACHERS = tuple(PRESETS["teacher"])
BASELINE = "maskclip"
TIME_TARGETS = {"fast": 1.1}  # largest time relative to the baseline
PEAK_TARGET = 1500.0  # MB above the model, for every preset at every size
SIZES = ((512, 1024), (1024, 2048))
QUICK_SIZES = ((64, 128),)
WIDTH, QUICK_WIDTH = 768, 64  # of the ViT's tokens
WARM_UP = (64, 64)  # size of the untimed mask on a CPU
GPU_CALLS = 10  # timed at once

Result = dict[str, Any]


def main(argv: list[str]) -> None:
    command = parser(__doc__, rounds=3)
    command.add_argument(
        "presets", nargs="*", metavar="PRESET", help=f"of {', '.join(TEACHERS)} (default: all)"
    )
    command.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    command.add_argument("--quick", action="store_true", help="one small image, a small ViT")
    command.add_argument("--part", action="store_true", help="512x1024 only, on a GPU in bf16")
    arguments = command.parse_args(argv)
    if unknown := [name for name in arguments.presets if name not in TEACHERS]:
        command.error(f"{unknown[0]}: expected one of {', '.join(TEACHERS)}")
    if arguments.write and (arguments.quick or arguments.part or arguments.presets):
        raise InputError("--write: the table has all presets; leave out --quick, --part and PRESET")
    setup(arguments.device)  # refuses a missing device
    options = Options(arguments.device, arguments.quick)
    cases = cases_of(options, arguments.part)
    report = {
        "machine": describe(options.device),
        "options": asdict(options) | {"rounds": arguments.rounds},
    }

    def save(found: list[Result]) -> None:  # a stopped run leaves what it has measured
        if arguments.json:
            write_json(Path(arguments.json), report | {"results": found})

    presets = arguments.presets or TEACHERS
    report["results"] = results(presets, arguments.rounds, options, cases, save)
    publish(report, f"teachers on {options.device}", table(report), arguments)


# --- measuring


SizeAndPrecision = tuple[tuple[int, int], str]  # size and precision


def cases_of(options: Options, part: bool = False) -> list[SizeAndPrecision]:
    """Sizes (height, width) and precisions; with `part` the first size, on a GPU in bf16."""
    sizes = QUICK_SIZES if options.quick else SIZES
    precisions = ("fp32", "bf16") if _on_gpu(options) else ("fp32",)
    return [(sizes[0], precisions[-1])] if part else [(s, p) for s in sizes for p in precisions]


def results(
    presets: Sequence[str],
    rounds: int,
    options: Options,
    cases: Sequence[SizeAndPrecision] | None = None,
    save: Callable[[list[Result]], None] = lambda found: None,
) -> list[Result]:
    """A result for each size, precision and preset, with the baseline first.

    Keys size, precision, preset, and lists with a value per round: seconds, peak (MB above the
    model), ratio (of seconds to the baseline's). save: called with those found so far.
    """
    presets = [BASELINE, *(name for name in presets if name != BASELINE)]
    found = []
    for size, precision in cases_of(options) if cases is None else cases:
        samples: dict[str, list[Result]] = {}
        for _ in range(rounds):
            for preset in presets:
                sample = _in_new_process(preset, size, precision, options)
                samples.setdefault(preset, []).append(sample)
                print(f"{_case(size, precision)}, {preset}: {sample}", flush=True)
                save(found + _of_samples(samples, size, precision))
        found += _of_samples(samples, size, precision)
    return found


def _of_samples(
    samples: dict[str, list[Result]], size: tuple[int, int], precision: str
) -> list[Result]:
    base = [one["seconds"] for one in samples[BASELINE]]
    return [
        {
            "size": list(size),
            "precision": precision,
            "preset": preset,
            "seconds": [one["seconds"] for one in of_preset],
            "peak": [one["peak"] for one in of_preset],
            "ratio": [one["seconds"] / b for one, b in zip(of_preset, base, strict=False)],
        }
        for preset, of_preset in samples.items()
    ]


def _in_new_process(*arguments: Any) -> dict[str, float]:
    """Result of `measure`."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()


def measure(
    preset: str, size: tuple[int, int], precision: str, options: Options
) -> dict[str, float]:
    """Seconds of a pseudo-mask, and the peak in MB (10^6 bytes) above the model, of this process.

    Above what the process holds before the first mask: Python, model and image.
    """
    device, on_gpu = options.device, _on_gpu(options)
    teacher = build_teacher(preset, options, precision == "bf16").to(device)
    generator = torch.Generator().manual_seed(0)
    image = normalize(random_images(1, size, generator), "clip").to(device)
    labels = random_labels(1, generator).to(device)
    before = torch.cuda.memory_allocated() if on_gpu else resident("VmRSS")

    def mask(teacher: MaskCLIP = teacher, image: torch.Tensor = image) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return teacher(image, labels, image.shape[-2:])

    if on_gpu:
        mask()  # CUDA chooses its kernels by the size
        peak = torch.cuda.max_memory_allocated()

        def masks() -> None:
            for _ in range(GPU_CALLS):
                mask()

        seconds = timed(masks, device, GPU_CALLS)["wall"]
    else:
        whole_image = MaskCLIP(teacher.visual, teacher.text_embeddings)
        mask(whole_image, image[..., : WARM_UP[0], : WARM_UP[1]])
        seconds = timed(mask, device, 1)["cpu"]
        peak = resident("VmHWM")
    return {"seconds": seconds, "peak": (peak - before) / 1e6}


def build_teacher(preset: str, options: Options, bf16: bool = False) -> MaskCLIP:
    """The teacher of configs/cityscapes.yaml with the parts of `preset`, on the CPU."""
    config = load_config(ROOT / "configs" / "cityscapes.yaml", [f"teacher={preset}"])
    visual = random_visual(width=QUICK_WIDTH if options.quick else WIDTH)
    generator = torch.Generator().manual_seed(1)
    text = F.normalize(torch.randn(CLASSES, visual.output_dim, generator=generator), dim=1)
    return MaskCLIP(visual, text, build_maskclip_options(config), bf16)


def _on_gpu(options: Options) -> bool:
    return options.device.startswith("cuda")


# --- in words


def table(report: dict[str, Any]) -> str:
    """Markdown: the machine, a table for each size and precision, and the targets missed."""
    unit = "seconds" if report["options"]["device"] != "cpu" else "CPU-seconds"
    rows: dict[str, list[list[str]]] = {}
    missed = []
    for result in report["results"]:
        case = _case(result["size"], result["precision"])
        verdicts = [verdict(result, key) for key in ("ratio", "peak")]
        times = [spread(result[key]) for key in ("seconds", "ratio")]
        peak = spread(result["peak"], ".0f")
        row = [f"`{result['preset']}`", *times, verdicts[0], peak, verdicts[1]]
        rows.setdefault(case, []).append(row)
        missed += [
            f"{result['preset']} at {case} ({text})" for text in verdicts if text.endswith("MISSED")
        ]
    parts = [machine_line(report)]
    for case, of_case in rows.items():
        head = [case, unit, f"relative to `{BASELINE}`", "target", "peak, MB above the model"]
        parts.append(markdown([*head, "target"], of_case))
    parts.append(f"**Targets missed:** {', '.join(missed) or 'none'}.")
    return "\n\n".join(parts)


def verdict(result: Result, key: str) -> str:
    """'≤ 1.1 met', or MISSED, of the median `ratio` or of the largest `peak`; '' without one."""
    target = TIME_TARGETS.get(result["preset"]) if key == "ratio" else PEAK_TARGET
    if target is None:
        return ""
    found = statistics.median(result[key]) if key == "ratio" else max(result[key])
    return at_most(found, target)


def _case(size: Sequence[int], precision: str) -> str:
    return f"{size[0]}x{size[1]}, {precision}"


if __name__ == "__main__":
    run_script(main)
