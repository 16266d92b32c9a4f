"""Model card of an exported network: Markdown below the YAML that the Hugging Face hub reads.

Only facts that are known go into it; what was not measured is said to be so. Form:
huggingface.co/docs/hub/model-cards.
"""

import html
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from utils.licences import CLIP, DATA, IMAGENET, Terms
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
    parts = (_front_matter, _head, _use, _data, _training, _metrics, _limits, _licences)
    return "\n\n".join(part(facts) for part in parts) + "\n"


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
        name = terms.name if terms else "own pictures"
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
        f"# {_text(facts.name)}\n\nA network that gives every pixel of a picture of a driving "
        f"scene one of {len(facts.class_names)} classes: {_listed(facts.class_names)}. Backbone "
        f"{_text(facts.config['backbone'])}, DeepLab head, stage {_text(stage)} of an unofficial "
        "PyTorch implementation of CARB (Kim et al., AAAI 2024, "
        "[arXiv 2312.13646](https://arxiv.org/abs/2312.13646))."
    )


def _use(facts: Facts) -> str:
    height, width = facts.config["image_size"]
    files = "\n".join(f"| `{name}` | {_text(what)} |" for name, what in facts.files.items())
    checks = "".join(f"- {_text(check)}\n" for check in facts.checks)
    example = ""
    if "onnx_segment.py" in facts.files:
        example = (
            "\n\n```bash\npip install onnxruntime numpy pillow\n"
            "python onnx_segment.py model.onnx street.jpg --out labels\n```"
        )
    return (
        f"## Use\n\n| file | content |\n|---|---|\n{files}\n\n"
        f"Input: {_text(facts.export['input'])}. Outputs: {_text(facts.export['outputs'])}. The "
        "normalisation and the resizing of the scores are inside. Before it goes in, shrink or "
        "enlarge a picture, bilinearly without antialiasing and in its proportions, to "
        f"{width}x{height} pixels at most, as in the "
        "training. Class names, colours and this size are in the metadata of the file.\n\n"
        f"When the files were written:\n\n{checks.rstrip()}{example}"
    )


def _data(facts: Facts) -> str:
    config, terms = facts.config, DATA.get(facts.config["dataset"])
    name = terms.name if terms else "own pictures (name and describe them here)"
    stage = facts.origin.get("stage")
    labels = _LABELS.get(str(stage), "image-level labels: for each picture, the classes in it")
    text = (
        f"## Data and labels\n\n- **Pictures:** {name}, split {_text(config['train_split'])}.\n"
        f"- **Labels:** {labels}."
    )
    if labels != _PIXELS and stage != "official" and config["image_labels"]:
        text += (
            f" They were read from {_code(config['image_labels'])}; how they got there is not "
            "recorded (from ground truth, by hand, suggested): fill in."
        )
    if stage in ("warmup", "carb"):
        how = (
            "made in each training step, of the whole image and of an enlarged part"
            if config["views"] == "dual"
            else f"stored before the training, in {_code(config['pseudo_masks'])}"
        )
        text += (
            "\n- **Masks:** CLIP scores each pixel against the names of the classes; the best "
            f"class among the image's labels is its pseudo-label. They were {how}. The training "
            "read no labels of pixels."
        )
    return text


def _training(facts: Facts) -> str:
    command, git = facts.training.get("command"), facts.training.get("git", "not recorded")
    config = facts.config
    shown = _block(command) if command else "The command was not recorded beside the checkpoint."
    return (
        f"## Training\n\nAll settings are in `config.yaml`: {config['steps']} steps, batches of "
        f"{config['batch_size']}, crops of {config['crop_size'][1]}x{config['crop_size'][0]} "
        f"pixels. Commit of the code: {_text(git)}.\n\n{shown}\n\nExported at commit "
        f"{_text(facts.export['git'])} by\n\n{_block(facts.export['command'])}"
    )


def _metrics(facts: Facts) -> str:
    scores = facts.scores
    if not scores:
        return "## Metrics\n\nNot evaluated: no scores of this checkpoint were given or found."
    rows = "\n".join(
        f"| {_text(name)} | {_percent(row['iou'])} |" for name, row in scores["classes"].items()
    )
    options = scores.get("inference")
    options = options if isinstance(options, dict) else {}
    inference = ", ".join(f"{key} {value}" for key, value in options.items() if value)
    return (
        f"## Metrics\n\nmIoU **{_percent(scores['miou'])}**, pixel accuracy "
        f"{_percent(scores['pixel_accuracy'])} (percent), on {_text(scores.get('num_images'))} "
        f"pictures of the split {_text(scores['split'])}. `eval.py` measured the network itself "
        f"({_text(inference or 'inference options not recorded')}), one picture at a time; the "
        f"files above were compared with it.\n\n| class | IoU |\n|---|---|\n{rows}"
    )


def _limits(facts: Facts) -> str:
    config, scores = facts.config, facts.scores or {"classes": {}}
    height, width = config["image_size"]
    lines = [
        "Every pixel gets one of the classes above, also where the picture shows something else. "
        "Pixels without a class in the ground truth were not evaluated.",
        f"Trained on the pictures named above only, fitted into {width}x{height} pixels. Other "
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
        lines.append(f"IoU below {_percent(_POOR)}, so not usable: {_listed(poor)}.")
    missing = [name for name, row in scores["classes"].items() if row["iou"] is None]
    if missing:
        lines.append(f"Not in the evaluated pictures, so unknown: {_listed(missing)}.")
    lines.append("Not tested for, and not to be used in, anything that safety depends on.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licences(facts: Facts) -> str:
    config, stage = facts.config, facts.origin.get("stage")
    terms = DATA.get(config["dataset"])
    lines = ["**Code:** Apache-2.0."]
    lines.append(f"**Data:** {_terms(terms)}" if terms else "**Data:** yours: fill in.")
    if config["classifier"] == "text" or stage in ("warmup", "carb", "official"):
        if str(config["clip_model"]).startswith(("ViT-", "RN")) or stage == "official":
            lines.append(f"**Text embeddings and masks:** {_terms(CLIP)}")
        else:
            lines.append("**Text embeddings and masks:** your own CLIP: fill in.")
    weights = config["backbone_weights"]
    if weights == "imagenet" or stage == "official":
        lines.append(f"**Start of the training:** {_terms(IMAGENET)}")
    elif weights is not None:
        lines.append(f"**Start of the training:** {_code(weights)}: fill in its terms.")
    text = "".join(f"\n- {line}" for line in lines)
    return f"## Licences\n\nThe weights may fall under terms of what they were made from:\n{text}"


def _terms(terms: Terms) -> str:
    return f"{terms.name}, {terms.summary} (<{terms.address}>)."


def _text(value: Any) -> str:
    """A value as Markdown text: nothing in it is markup, and it stays on its line."""
    escaped = html.escape(printable(str(value)), quote=False)
    return re.sub(r"[\\`*_\[\]|~$#]", lambda found: f"&#{ord(found[0])};", escaped)


def _code(value: Any) -> str:
    """A value as code within a line."""
    return f"<code>{_text(value)}</code>"


def _block(text: str) -> str:
    """Lines as a block of code, behind a fence that none of them closes."""
    lines = "\n".join(printable(line) for line in text.split("\n"))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", lines)), default=0))
    return f"{fence}\n{lines}\n{fence}"


def _listed(names: Any) -> str:
    return ", ".join(map(_text, names))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
