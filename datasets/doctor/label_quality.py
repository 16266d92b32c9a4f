"""Thresholds of suggested image-level labels, and how good the suggestion is."""

from collections.abc import Sequence

import numpy as np

THRESHOLD = 0.5  # a class that is surer than all others together


def best_thresholds(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """`best_threshold` of every class: scores (N, K), present (N, K) bool -> (K,)."""
    columns = zip(scores.T, present.T, strict=True)
    return np.array([best_threshold(of_class, truth) for of_class, truth in columns])


def best_threshold(scores: np.ndarray, present: np.ndarray) -> float:
    """The threshold of one class with the largest F1 on labelled images: (N,), (N,) bool.

    A class is suggested where its score is above the threshold t. With the true positives TP,
    F1(t) = 2 TP / (suggested + present). It tries THRESHOLD, half the lowest score, and the middle
    between each score and the next. Of equals it takes the one nearest to THRESHOLD, so that a
    class keeps THRESHOLD unless the labels speak against it; a class that is present nowhere keeps
    it too.
    """
    if not present.any():
        return THRESHOLD
    values = np.unique(scores.astype(np.float64))
    tried = [THRESHOLD, values[0] / 2, *(values[:-1] + values[1:]) / 2]
    return float(max(tried, key=lambda t: (_f1(scores > t, present), -abs(t - THRESHOLD))))


def _f1(suggested: np.ndarray, present: np.ndarray) -> float:
    return 2 * (suggested & present).sum() / (suggested.sum() + present.sum())


def thresholds_text(thresholds: np.ndarray, present: np.ndarray, names: Sequence[str]) -> str:
    """The thresholds (K,) of `best_thresholds`, and why some are THRESHOLD: present (N, K) bool."""
    if not len(present):
        return f"threshold of every class: {THRESHOLD} (--calibrate FILE fits them to some labels)"
    named = list(zip(names, thresholds.tolist(), strict=True))
    fitted = [f"{name} {threshold:.3f}" for name, threshold in named if threshold != THRESHOLD]
    absent = [name for name, is_there in zip(names, present.any(0), strict=True) if not is_there]
    as_good = [name for name, t in named if t == THRESHOLD and name not in absent]
    lines = [f"thresholds with the best F1 on the {len(present)} labelled images:"]
    for what, which in (
        ("fitted", fitted),
        (f"{THRESHOLD}, as none is better", as_good),
        (f"{THRESHOLD}, as no labelled image has the class", absent),
    ):
        lines += [f"  {what}: {', '.join(which)}"] * bool(which)
    return "\n".join(lines)


def quality(suggested: np.ndarray, present: np.ndarray, names: Sequence[str]) -> str:
    """Precision and recall of the labels of N images, by class and of all: (N, K) bool each.

    A label is wrong where it is missing or too much. As many classes are in most images, the same
    is said of labels that name every class in every image.
    """
    all_labels = "all labels"
    width = max(len(all_labels), *map(len, names))
    lines = [f"  {'class':{width}}  present  suggested  precision  recall"]
    columns = zip(
        [*names, all_labels], [*suggested.T, suggested], [*present.T, present], strict=True
    )
    for name, said, true in columns:
        right = int((said & true).sum())
        precision, recall = _percent(right, said.sum()), _percent(right, true.sum())
        lines.append(
            f"  {name:{width}}  {true.sum():7d}  {said.sum():9d}  {precision:>9}  {recall:>6}"
        )
    wrong, of_all = (suggested != present).sum(), (~present).sum()
    lines.append(
        f"  wrong labels: {wrong / len(present):.2f} an image; with every class in every image "
        f"{of_all / len(present):.2f}, at a precision of {_percent(present.sum(), present.size)}"
    )
    return "\n".join(lines)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"
