"""Model card of an exported network: Markdown below the YAML that the Hugging Face hub reads.

Only facts that are known go into it; what was not measured is said to be so. Form:
huggingface.co/docs/hub/model-cards.
"""

from dataclasses import dataclass, field
from typing import Any

import yaml

from utils.licences import DATA, licences
from utils.markdown_text import block, code, listed, text
from utils.safe.errors import printable

_POOR = 0.1  # IoU below which a class is named among the limits
_TAGS = ["semantic-segmentation", "weakly-supervised", "driving-scenes", "carb", "arxiv:2312.13646"]
_PIXELS = "labels of every pixel"
_LABELS = {"supervised": _PIXELS, "points": "points, one or more for each class of an image"}


@dataclass(frozen=True)
class Facts:
    """What is known of an exported network. The texts may hold anything: they are escaped."""

    name: str
    class_names: tuple[str, ...]
    config: dict[str, Any]  # `Config.to_dict`
    origin: dict[str, Any]  # stage and step of the checkpoint
    export: dict[str, str]  # metadata of the files: input, outputs, git, command
    files: dict[str, str]  # file name -> what it is
    checks: list[str]  # sentences about what was compared when the files were written
    training: dict[str, str] = field(default_factory=dict)  # see `training_record`
    scores: dict[str, Any] | None = None  # see `read_scores`


def model_card(facts: Facts) -> str:
    """The text of README.md."""
    parts = (_front_matter, _head, _use, _data, _training, _metrics, _limits)
    terms = licences(facts.config, facts.origin.get("stage"))
    return "\n\n".join([*(part(facts) for part in parts), terms]) + "\n"


def _front_matter(facts: Facts) -> str:
    dataset, terms = facts.config["dataset"], DATA.get(facts.config["dataset"])
    values: dict[str, Any] = {"license": "unknown"}
    if terms:
        values = {
            "license": "other",
            "license_name": f"{dataset}-terms",
            "license_link": terms.address,
        }
    onnx = any(name.endswith(".onnx") for name in facts.files)
    values["pipeline_tag"] = "image-segmentation"
    values["library_name"] = "onnx" if onnx else "pytorch"
    values["tags"] = [*_TAGS, "onnx"] if onnx else _TAGS
    if terms:
        values["datasets"] = [dataset]
    if facts.scores:
        name = terms.name if terms else "own images"
        values["metrics"] = ["mean_iou"]
        data = {"type": dataset, "name": name, "split": printable(facts.scores["split"])}
        metrics = [
            {"type": kind, "name": shown, "value": facts.scores[key]}
            for kind, shown, key in (
                ("mean_iou", "mIoU", "miou"),
                ("accuracy", "pixel accuracy", "pixel_accuracy"),
            )
        ]
        result = {"task": {"type": "image-segmentation"}, "dataset": data, "metrics": metrics}
        values["model-index"] = [{"name": printable(facts.name), "results": [result]}]
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def _head(facts: Facts) -> str:
    step = facts.origin.get("step")
    stage = f"{facts.origin.get('stage')}" + ("" if step is None else f", step {step}")
    return (
        f"# {text(facts.name)}\n\nA network that gives every pixel of an image of a driving "
        f"scene one of {len(facts.class_names)} classes: {listed(facts.class_names)}. Backbone "
        f"{text(facts.config['backbone'])}, DeepLab head, stage {text(stage)} of an unofficial "
        "PyTorch implementation of CARB (Kim et al., AAAI 2024, "
        "[arXiv 2312.13646](https://arxiv.org/abs/2312.13646))."
    )


def _use(facts: Facts) -> str:
    height, width = facts.config["image_size"]
    files = "\n".join(f"| `{name}` | {text(what)} |" for name, what in facts.files.items())
    checks = "".join(f"- {text(check)}\n" for check in facts.checks)
    example = ""
    if "onnx_segment.py" in facts.files:
        example = (
            "\n\n```bash\npip install onnxruntime numpy pillow\n"
            "python onnx_segment.py model.onnx street.jpg --out labels\n```"
        )
    return (
        f"## Use\n\n| file | content |\n|---|---|\n{files}\n\n"
        f"Input: {text(facts.export['input'])}. Outputs: {text(facts.export['outputs'])}. The "
        "normalisation and the resizing of the scores are inside. Before it goes in, shrink or "
        "enlarge an image, bilinearly without antialiasing and in its proportions, to "
        f"{width}x{height} pixels at most, as in the "
        "training. Class names, colours and this size are in the metadata of the file.\n\n"
        f"When the files were written:\n\n{checks.rstrip()}{example}"
    )


def _data(facts: Facts) -> str:
    config, terms = facts.config, DATA.get(facts.config["dataset"])
    name = terms.name if terms else "own images (name and describe them here)"
    stage = facts.origin.get("stage")
    labels = _LABELS.get(str(stage), "image-level labels: for each image, the classes in it")
    content = (
        f"## Data and labels\n\n- **Images:** {name}, split {text(config['train_split'])}.\n"
        f"- **Labels:** {labels}."
    )
    if labels != _PIXELS and stage != "official" and config["image_labels"]:
        content += (
            f" They were read from {code(config['image_labels'])}; how they got there is not "
            "recorded (from ground truth, by hand, suggested): fill in."
        )
    if stage in ("warmup", "carb"):
        how = (
            "made in each training step, of the whole image and of an enlarged part"
            if config["views"] == "dual"
            else f"stored before the training, in {code(config['pseudo_masks'])}"
        )
        content += (
            "\n- **Masks:** CLIP scores each pixel against the names of the classes; the best "
            f"class among the image's labels is its pseudo-label. They were {how}. The training "
            "read no labels of pixels."
        )
    return content


def _training(facts: Facts) -> str:
    command, git = facts.training.get("command"), facts.training.get("git", "not recorded")
    config = facts.config
    shown = block(command) if command else "The command was not recorded beside the checkpoint."
    return (
        f"## Training\n\nAll settings are in `config.yaml`: {config['steps']} steps, batches of "
        f"{config['batch_size']}, crops of {config['crop_size'][1]}x{config['crop_size'][0]} "
        f"pixels. Commit of the code: {text(git)}.\n\n{shown}\n\nExported at commit "
        f"{text(facts.export['git'])} by\n\n{block(facts.export['command'])}"
    )


def _metrics(facts: Facts) -> str:
    scores = facts.scores
    if not scores:
        return "## Metrics\n\nNot evaluated: no scores of this checkpoint were given or found."
    rows = "\n".join(
        f"| {text(name)} | {_percent(row['iou'])} |" for name, row in scores["classes"].items()
    )
    options = scores.get("inference")
    options = options if isinstance(options, dict) else {}
    inference = ", ".join(f"{key} {value}" for key, value in options.items() if value)
    return (
        f"## Metrics\n\nmIoU **{_percent(scores['miou'])}**, pixel accuracy "
        f"{_percent(scores['pixel_accuracy'])} (percent), on {text(scores.get('num_images'))} "
        f"images of the split {text(scores['split'])}. `eval.py` measured the network itself "
        f"({text(inference or 'inference options not recorded')}), one image at a time; the "
        f"files above were compared with it.\n\n| class | IoU |\n|---|---|\n{rows}"
    )


def _limits(facts: Facts) -> str:
    config, scores = facts.config, facts.scores or {"classes": {}}
    height, width = config["image_size"]
    lines = [
        "Every pixel gets one of the classes above, also where the image shows something else. "
        "Pixels without a class in the ground truth were not evaluated.",
        f"Trained on the images named above only, fitted into {width}x{height} pixels. Other "
        "cameras, countries, weather, night and sizes were not tested.",
    ]
    if _LABELS.get(str(facts.origin.get("stage"))) != _PIXELS:
        lines.append(
            "Trained from weak labels: outlines are coarser than with labels of every pixel, and "
            "small and thin objects suffer most."
        )
    sizes = [scores.get("miou_small"), scores.get("miou_large")]
    if all(type(size) is float for size in sizes):
        small, large = map(_percent, sizes)
        lines.append(f"mIoU of the small classes {small}, of the others {large}.")
    poor = [
        name
        for name, row in scores["classes"].items()
        if row["iou"] is not None and row["iou"] < _POOR
    ]
    if poor:
        lines.append(f"IoU below {_percent(_POOR)}, so not usable: {listed(poor)}.")
    missing = [name for name, row in scores["classes"].items() if row["iou"] is None]
    if missing:
        lines.append(f"Not in the evaluated images, so unknown: {listed(missing)}.")
    lines.append("Not tested for, and not to be used in, anything that safety depends on.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
