"""Write a trained network for use elsewhere: ONNX or torch.export, int8, and a model card.

Reads a checkpoint of train_*.py, or an official one with --config; writes into OUT

    model.onnx, model_int8.onnx, model.pt2    as asked for; metadata: classes, colours, commit
    config.yaml                               every setting of the training
    README.md, MODEL_CARD.md                  the model card; the Hugging Face hub shows README.md
    onnx_segment.py                           runs model.onnx without this repository

so that OUT can be uploaded as it is (read the card before). Each file is compared with the network
before it gets its name. --int8 also needs images like those that the model will see.

    python export.py --ckpt runs/cityscapes/carb/last.pt --format onnx --out exported
    python export.py --ckpt ... --format onnx torch --int8 --calibration frames/ --out exported

Runs on the CPU. Needs the packages of requirements-extra.txt, except for --format torch.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import json
import shlex
import shutil
from contextlib import ExitStack
from pathlib import Path

from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from models.export_check import RUNNERS, check_agreement
from models.exported import LEAST, OPSET, require_packages, write_onnx, write_torch
from models.quantized import ENOUGH, CalibrationImages, write_int8
from models.trained import Trained, load_trained
from utils.card_facts import find_scores, training_record
from utils.cli import add_overrides, path
from utils.config import save_config
from utils.model_card import Facts, model_card
from utils.run_folder import git
from utils.safe.errors import InputError, printable, run_script
from utils.safe.files import check_folder, remove_unfinished, replacing, sha256
from utils.safe.signals import this_command

WRITERS = {"onnx": write_onnx, "torch": write_torch}
FILES = {"onnx": "model.onnx", "torch": "model.pt2", "int8": "model_int8.onnx"}
EXAMPLE = Path(__file__).parent / "scripts/onnx_segment.py"


def main(argv: list[str]) -> None:
    # --- arguments and input
    arguments = parse(argv)
    for file_format in arguments.format:
        require_packages(file_format)
    out, checkpoint = Path(arguments.out), Path(arguments.ckpt)
    print(f"loading {checkpoint}", flush=True)
    trained = load_trained(checkpoint, arguments.config, arguments.overrides)
    images = None
    if arguments.int8:
        images = CalibrationImages(Path(arguments.calibration), trained.config.image_size)
    usual = checkpoint.parent / f"eval_{trained.config.val_split}" / "metrics.json"
    about = trained.origin, trained.classes.names, trained.config.dataset
    scores = find_scores(arguments.scored, usual, *about)

    # --- output
    content = content_of(arguments.format, arguments.int8)
    check_output(out, content, arguments.overwrite)
    remove_unfinished(out, below=False)

    # --- files: each is checked under another name; all get their names at the end, or none does
    metadata = metadata_of(trained, checkpoint)
    checks = []
    with ExitStack() as stack:
        places = {name: stack.enter_context(replacing(out / name)) for name in content}
        for file_format in arguments.format:
            name = FILES[file_format]
            print(f"{name}: exporting, then comparing with the network", flush=True)
            WRITERS[file_format](trained.model, places[name], metadata)
            run = RUNNERS[file_format](places[name])
            checks.append(f"{name} {check_agreement(name, run, trained.model)}.")
            print(checks[-1], flush=True)
        if images is not None:
            print(f"{FILES['int8']}: calibrating on {len(images)} images", flush=True)
            both = places[FILES["onnx"]], places[FILES["int8"]]
            share, count = write_int8(*both, images)
            checks.append(
                f"{FILES['int8']} gives {100 * share:.2f} % of the pixels the class of "
                f"{FILES['onnx']}, on the {count} images that it was calibrated on."
            )
            print(checks[-1], flush=True)
        for name in FILES.values():
            if name in content:
                content[name] += f", {places[name].stat().st_size / 1e6:.1f} MB"
        facts = Facts(
            name=out.resolve().name,
            class_names=trained.classes.names,
            config=trained.config.to_dict(),
            origin=trained.origin,
            export=metadata,
            files={name: what for name, what in content.items() if not name.endswith(".md")},
            checks=checks,
            training=training_record(checkpoint.parent),
            scores=scores,
        )
        for name in ("README.md", "MODEL_CARD.md"):
            places[name].write_text(model_card(facts), encoding="utf-8")
        save_config(trained.config, places["config.yaml"])
        if EXAMPLE.name in places:
            shutil.copyfile(EXAMPLE, places[EXAMPLE.name])
    measured = "not evaluated" if scores is None else f"mIoU {100 * scores['miou']:.1f}"
    print(f"{len(content)} files in {out}; card: {out / 'README.md'} ({measured})")


def content_of(formats: list[str], int8: bool) -> dict[str, str]:
    """The files that will be written -> what each of them is."""
    what = {
        "onnx": f"ONNX, opset {OPSET}, float32; any height, width and batch",
        "torch": f"torch.export archive, float32; any batch, height and width from {LEAST} pixels",
        "int8": f"ONNX, opset {OPSET}, convolutions in int8",
    }
    content = {FILES[key]: what[key] for key in (*formats, *["int8"] * int8)}
    content["config.yaml"] = "all settings of the training"
    if "onnx" in formats:
        content[EXAMPLE.name] = "example: onnxruntime, numpy and Pillow, no torch"
    return content | {"README.md": "this card", "MODEL_CARD.md": "this card"}


def check_output(out: Path, content: dict[str, str], overwrite: bool) -> None:
    """Raise InputError when a model of another export would stay, or files would be replaced."""
    check_folder(out, "--out")
    names = dict.fromkeys((*content, *FILES.values()))
    existing = [name for name in names if (out / name).exists()]
    stale = [name for name in existing if name not in content]
    if stale:
        raise InputError(
            f"{out} holds {stale[0]} of another export, which the new card would not describe; "
            "name another --out, or remove it"
        )
    if existing and not overwrite:
        raise InputError(
            f"{out} holds {', '.join(existing)} already; name another --out, or --overwrite to "
            "replace them"
        )


def metadata_of(trained: Trained, checkpoint: Path) -> dict[str, str]:
    """What a file says about itself; lists and numbers are JSON."""
    config, classes = trained.config, trained.classes
    changes = " with local changes" if git("status", "--porcelain", "-uno") else ""
    return {
        "input": "image, uint8 (batch, height, width, 3), RGB",
        "outputs": "logits, float32 (batch, classes, height, width); labels, uint8 (batch, height, "
        "width), the class of the highest logit",
        "class_names": json.dumps(classes.names),
        "palette": json.dumps(classes.palette.tolist()),
        "image_size": json.dumps(config.image_size),
        "mean": json.dumps(IMAGENET_MEAN),
        "std": json.dumps(IMAGENET_STD),
        "normalisation": "inside: (image - mean) / std",
        "origin": json.dumps(trained.origin),
        "checkpoint_sha256": sha256(checkpoint),
        "git": git("rev-parse", "HEAD") + changes,
        "command": printable(shlex.join(this_command())),
    }


def parse(argv: list[str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--ckpt", type=path, required=True, help="last.pt of a run, or an official .pth")
    add("--format", nargs="+", choices=[*WRITERS], required=True, help="one or both")
    add("--out", type=path, required=True, help="folder for the files")
    add("--int8", action="store_true", help="also model_int8.onnx")
    add("--calibration", type=path, metavar="FOLDER", help=f"images for --int8, {ENOUGH} or more")
    scored_help = "eval.py's scores for the card (default: eval_<val split> beside the checkpoint)"
    add("--scored", type=path, metavar="JSON", help=scored_help)
    add("--overwrite", action="store_true", help="replace an earlier export in OUT")
    add("--config", type=path, help="for an official checkpoint, see configs/official/")
    add("--debug", action="store_true", help="show the traceback of an error")
    add_overrides(result)
    arguments = result.parse_args(argv)
    arguments.format = list(dict.fromkeys(arguments.format))
    if arguments.int8 and "onnx" not in arguments.format:
        result.error("--int8 is made from the ONNX file: add --format onnx")
    if arguments.int8 != (arguments.calibration is not None):
        result.error("--int8 and --calibration belong together: a folder of images")
    return arguments


if __name__ == "__main__":
    run_script(main)
