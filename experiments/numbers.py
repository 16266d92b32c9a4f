"""Mean and spread over seeds, differences row by row, and their tables in Markdown."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from experiments.figures.style import markdown
from experiments.methods import TRAINING_FREE

# Column heading of a mean IoU -> its key in metrics.json; a data set may have no small classes.
MEASURES = {"mIoU": "miou", "small": "miou_small", "large": "miou_large"}

# The same for the masks of a method; recall is the mean accuracy of the classes. All but the share
# of the labelled pixels are of these pixels alone.
OF_MASKS = {"precision": "mean_precision", "recall": "mean_accuracy", "labelled": "labelled_pixels"}
THRESHOLD = "at threshold"  # heading: where the best mIoU of such masks is, 0 to 1

LEAST_IOU = 3.0  # percent: a class below it has nothing to lose

Scores = dict[str, float | None]  # by heading, in percent


class Mean(NamedTuple):
    """Mean and sample standard deviation over seeds; a single value has no deviation."""

    mean: float | None
    std: float | None


_NO_MEAN = Mean(None, None)


def in_percent(value: float | None) -> float | None:
    """A value of 0..1 in percent; None stays None."""
    return None if value is None else 100 * value


def scores_of(metrics: dict[str, Any]) -> Scores:
    """The mean IoUs of a metrics.json or score.json, in percent; None for a missing one."""
    return {heading: in_percent(metrics.get(key)) for heading, key in MEASURES.items()}


def scores_of_method(score: dict[str, Any]) -> Scores:
    """The score.json of a method's masks: `scores_of`, precision and recall (means over the
    classes), the share of the labelled pixels, and the best of its "thresholds", if any:
    [{"threshold": 0..1, "miou": 0..1}, ...]."""
    found = {heading: in_percent(score.get(key)) for heading, key in OF_MASKS.items()}
    curve = [one for one in score.get("thresholds", []) if one["miou"] is not None]
    if curve:
        best = max(curve, key=lambda one: one["miou"])  # the first of equals
        found |= {"best mIoU": in_percent(best["miou"]), THRESHOLD: best["threshold"]}
    return scores_of(score) | {key: value for key, value in found.items() if value is not None}


def mean_and_spread(values: Iterable[float | None]) -> Mean:
    """Mean and sample standard deviation of the values that are not None."""
    found = [value for value in values if value is not None]
    mean = statistics.mean(found) if found else None
    return Mean(mean, statistics.stdev(found) if len(found) > 1 else None)


def means_of(scores: Sequence[Scores]) -> dict[str, Mean]:
    """`mean_and_spread` over seeds, by heading: `MEASURES`, then others that any seed has."""
    headings = dict.fromkeys([*MEASURES, *(key for one in scores for key in one)])
    return {key: mean_and_spread(one.get(key) for one in scores) for key in headings}


def summary(by_seed: dict[str, Scores]) -> dict[str, Any]:
    """{"seeds": by_seed, "mean": .., "std": ..}, mean and std by heading."""
    means = means_of([*by_seed.values()])
    mean, std = ({key: pair[k] for key, pair in means.items()} for k in (0, 1))
    return {"seeds": by_seed, "mean": mean, "std": std}


def difference(a: dict[str, Scores], b: dict[str, Scores]) -> dict[str, Any]:
    """Summary of a minus b, over the seeds that both have and the scores that both have."""
    pairs = {seed: (a[seed], b[seed]) for seed in a if seed in b}
    return summary(
        {
            seed: {
                key: None if None in (x[key], y[key]) else x[key] - y[key]
                for key in x
                if key in y and key != THRESHOLD
            }
            for seed, (x, y) in pairs.items()
        }
    )


def iou_by_class(networks: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Mean]]:
    """Network -> class -> IoU in percent; `networks`: name -> metrics.json of each run."""
    found: dict[str, dict[str, Mean]] = {}
    for network, runs in networks.items():
        classes = [metrics.get("classes", {}) for metrics in runs]
        found[network] = {
            name: mean_and_spread(in_percent(one.get(name, {}).get("iou")) for one in classes)
            for name in dict.fromkeys(name for one in classes for name in one)
        }
    return found


def class_table(networks: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown of `iou_by_class`: a line for each class, a column for each network."""
    values = iou_by_class(networks)
    rows = [
        [name, *(percent(found[name].mean if name in found else None) for found in values.values())]
        for name in dict.fromkeys(name for found in values.values() for name in found)
    ]
    mious = (means_of([*map(scores_of, runs)])["mIoU"].mean for runs in networks.values())
    table = markdown(["class", *networks], [*rows, ["**mean**", *map(percent, mious)]])
    return f"**IoU by class**\n\n{table}"


def class_differences(a: str, b: str, rows: dict[str, dict[str, Any]]) -> str:
    """Markdown of the IoU by class of two rows, means over the seeds, and in how many a leads."""
    found = iou_by_class({name: [*rows[name]["metrics"].values()] for name in (a, b)})
    pairs = {name: (found[a][name].mean, found[b].get(name, _NO_MEAN).mean) for name in found[a]}
    pairs = {name: pair for name, pair in pairs.items() if None not in pair}
    lines = [[n, percent(x), percent(y), percent(x - y, "+")] for n, (x, y) in pairs.items()]
    better = sum(x > y for x, y in pairs.values())
    title = f"**{a} and {b} by class**: {a} is better in {better} of {len(pairs)} classes"
    return f"{title}\n\n{markdown(['class', a, b, 'difference'], lines)}" if pairs else ""


def class_pairs(metrics: dict[str, Any], plain: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Class -> its IoU in percent in a metrics.json and in another, where both have one."""
    one, other = metrics.get("classes", {}), plain.get("classes", {})
    pairs = {
        name: (in_percent(one[name].get("iou")), in_percent(other[name].get("iou")))
        for name in one
        if name in other
    }
    return {name: pair for name, pair in pairs.items() if None not in pair}


def lost_classes(metrics: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    """Classes whose IoU is below half of that in `plain`, where that is at least LEAST_IOU."""
    pairs = class_pairs(metrics, plain)
    return [name for name, (iou, usual) in pairs.items() if usual >= LEAST_IOU and iou < usual / 2]


def worst_class(metrics: dict[str, Any], plain: dict[str, Any]) -> tuple[str, float] | None:
    """The class that loses most IoU against `plain`, or gains least, and its change in points."""
    changes = {name: iou - usual for name, (iou, usual) in class_pairs(metrics, plain).items()}
    return min(changes.items(), key=lambda one: one[1]) if changes else None


def kept_table(plain: str, others: list[str], rows: dict[str, dict[str, Any]]) -> str:
    """Markdown of the classes that `others` lose against `plain`, in runs with the same seed."""
    usual, lines = rows[plain]["metrics"], []
    for name in others:
        row = rows[name]
        seeds = [seed for seed in row["metrics"] if seed in usual]
        pairs = [(row["metrics"][seed], usual[seed]) for seed in seeds]
        worst = [found for pair in pairs if (found := worst_class(*pair))]
        if not worst:
            continue
        lost = [lost_classes(*pair) for pair in pairs]
        names = ", ".join(dict.fromkeys(name for one in lost for name in one)) or "none"
        change = spread(*mean_and_spread(change for _, change in worst), "+")
        by_seed = ", ".join(f"{name} {percent(change, '+')}" for name, change in worst)
        lines.append([name, " ".join(str(len(one)) for one in lost), names, change, by_seed])
    title = (
        f"**Classes lost against {plain}** (IoU below half of its IoU, where that is at least "
        f"{LEAST_IOU:g}; by seed), and the change of the worst class"
    )
    head = ["row", "lost, by seed", "lost classes", "worst class", "worst class, by seed"]
    return f"{title}\n\n{markdown(head, lines)}" if lines else ""


def suite_tables(content: dict[str, Any]) -> str:
    """Markdown of an ablation.json: pseudo-masks and rows, then a table for each contrast."""
    rows, masks = content["rows"], content.get("pseudo_masks")
    trained = [row for row in rows.values() if row["stage"] != "masks"]
    seeds = sorted({seed for row in trained for seed in row["seeds"]}, key=int)
    first = {}
    if masks:
        first = {"CLIP's pseudo-masks": {"stage": "masks"} | summary({"0": scores_of(masks)})}
    parts = [_table("row", first | rows, seeds)]
    for title, differences in content.get("contrasts", {}).items():
        parts += [f"**{title}**", _table("difference", differences, seeds, "+")]
    groups = content.get("against", {}).items()
    parts += [kept_table(plain, others, rows) for plain, others in groups]
    parts += [class_differences(a, b, rows) for a, b in content.get("by_class", [])]
    return "\n\n".join(filter(None, parts))


def percent(value: float | None, sign: str = "") -> str:
    """'38.5'; '-' for None."""
    return "-" if value is None else f"{value:{sign}.1f}"


def spread(mean: float | None, std: float | None, sign: str = "") -> str:
    """'38.5 ± 0.3', or '38.5' without a deviation."""
    return percent(mean, sign) + (f" ± {std:.1f}" if std is not None else "")


def _table(
    heading: str, summaries: dict[str, dict[str, Any]], seeds: list[str], sign: str = ""
) -> str:
    """Rows of name, number of seeds, means and each seed's mIoU; `summaries`: see `summary`."""
    means = [line["mean"] for line in summaries.values() if line["seeds"]]
    scores = [*dict.fromkeys([*MEASURES, *(key for mean in means for key in mean)])]
    lines = []
    for name, line in summaries.items():
        masks = line.get("stage") in ("masks", *TRAINING_FREE)  # one for all seeds
        cells = ["not run"]
        if line["seeds"]:
            cells = [_cell(line, key, sign) for key in scores]
            values = [line["seeds"].get(seed, {}).get("mIoU") for seed in seeds]
            cells += ["" if masks else percent(value, sign) for value in values]
        lines.append([name, "-" if masks else len(line["seeds"]), *cells])
    return markdown([heading, "seeds", *scores, *(f"seed {seed}" for seed in seeds)], lines)


def _cell(line: dict[str, Any], key: str, sign: str) -> str:
    """Mean and deviation of a score; empty for one that other rows have."""
    if key not in MEASURES and key not in line["mean"]:
        return ""
    mean, std = line["mean"].get(key), line["std"].get(key)
    if key == THRESHOLD and mean is not None:
        return f"{mean:.2f}" + (f" ± {std:.2f}" if std is not None else "")
    return spread(mean, std, sign)
