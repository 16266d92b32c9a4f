"""Mean and spread over seeds, differences row by row, and their tables in Markdown."""

import statistics
from collections.abc import Iterable
from typing import Any

# Column heading of a mean IoU -> its key in metrics.json; a data set may have no small classes.
MEASURES = {"mIoU": "miou", "small": "miou_small", "large": "miou_large"}

Scores = dict[str, float | None]  # by heading, in percent


def scores_of(metrics: dict[str, Any]) -> Scores:
    """The mean IoUs of a metrics.json or score.json, None where it has none."""
    values = {heading: metrics.get(key) for heading, key in MEASURES.items()}
    return {heading: None if v is None else 100 * v for heading, v in values.items()}


def mean_std(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Over what is not None; the sample's standard deviation, None for a single value."""
    found = [value for value in values if value is not None]
    mean = statistics.mean(found) if found else None
    return mean, statistics.stdev(found) if len(found) > 1 else None


def summary(by_seed: dict[str, Scores]) -> dict[str, Any]:
    """{"seeds": by_seed, "mean": .., "std": ..}, the latter two by heading."""
    both = {key: mean_std(scores[key] for scores in by_seed.values()) for key in MEASURES}
    mean, std = ({key: pair[k] for key, pair in both.items()} for k in (0, 1))
    return {"seeds": by_seed, "mean": mean, "std": std}


def difference(a: dict[str, Scores], b: dict[str, Scores]) -> dict[str, Any]:
    """Summary of row less row, for the seeds that both have."""
    pairs = {seed: (a[seed], b[seed]) for seed in a if seed in b}
    return summary(
        {
            seed: {key: None if None in (x[key], y[key]) else x[key] - y[key] for key in MEASURES}
            for seed, (x, y) in pairs.items()
        }
    )


def suite_tables(content: dict[str, Any]) -> str:
    """Markdown of an ablation.json: CLIP's masks, the rows, and a table for each contrast."""
    rows, masks = content["rows"], content.get("pseudo_masks")
    columns = sorted({seed for row in rows.values() for seed in row["seeds"]}, key=int)
    lines = _table("row", rows, columns)
    if masks:
        cells = [percent(value) for value in scores_of(masks).values()]
        lines.insert(2, _line(["CLIP's pseudo-masks", "-", *cells, *("" for _ in columns)]))
    for title, differences in content.get("contrasts", {}).items():
        lines += ["", f"**{title}**", "", *_table("difference", differences, columns, "+")]
    return "\n".join(lines)


def percent(value: float | None, sign: str = "") -> str:
    """38.5; '-' where there is no value."""
    return "-" if value is None else f"{value:{sign}.1f}"


def spread(mean: float | None, std: float | None, sign: str = "") -> str:
    """38.5 ± 0.3; without a spread for a single value."""
    return percent(mean, sign) + (f" ± {std:.1f}" if std is not None else "")


def _table(
    heading: str, lines: dict[str, dict[str, Any]], seeds: list[str], sign: str = ""
) -> list[str]:
    """`lines`: name -> summary."""
    headings = [heading, "seeds", *MEASURES, *(f"seed {seed}" for seed in seeds)]
    table = [_line(headings), "|" + "---|" * len(headings)]
    for name, line in lines.items():
        cells = ["not run"]
        if line["seeds"]:
            cells = [spread(line["mean"].get(key), line["std"].get(key), sign) for key in MEASURES]
            values = [line["seeds"].get(seed, {}).get("mIoU") for seed in seeds]
            cells += [percent(value, sign) for value in values]
        table.append(_line([name, len(line["seeds"]), *cells]))
    return table


def _line(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
