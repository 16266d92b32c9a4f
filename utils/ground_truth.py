"""Ground truth that makes scores meaningless: one class, or classes without pixels."""

from collections.abc import Sequence

ONE_CLASS = (
    "there is only one class, so there is nothing to learn: the loss is 0 and the mIoU 100 % "
    "whatever the network does; add a class for the rest to the class file, for example "
    "{name: background, prompt: [wall, ground]}, and give it pixels (255 in a mask means "
    "'no label', it is not the background)"
)


def truth_notes(pixels: Sequence[int], ignored: int, names: Sequence[str], split: str) -> list[str]:
    """Reasons in the ground truth of a split why scores mean little; usually none.

    pixels: number for each class. ignored: number of 255.
    """
    truth = "what is trained on" if split == "training" else f"the ground truth of {split}"
    present = [name for name, count in zip(names, pixels, strict=True) if count]
    if not present:
        use = "learn" if split == "training" else "score"
        return [f"{truth} is 255 ('no label') everywhere: there is nothing to {use}"]
    if len(names) == 1:
        return [ONE_CLASS]
    if len(present) > 1:
        return []
    if pixels[0] and ignored:
        return [
            f"{truth} holds only the values 0 and 255: 255 is 'no label', so only "
            f"{present[0]} counts; where white means {names[1]}, save it as 1"
        ]
    return [f"{truth} has no class but {present[0]}: predicting it everywhere scores 100 %"]


def absent_note(pixels: Sequence[int], names: Sequence[str], split: str) -> list[str]:
    """A line about classes without ground truth, where others have some."""
    absent = [name for name, count in zip(names, pixels, strict=True) if not count]
    if not absent or len(absent) == len(names):
        return []
    return [
        f"no pixel of {', '.join(absent)} in the ground truth of {split}: an IoU of such a class "
        "counts false alarms only (0, or '-' where it is not predicted)"
    ]


def score_notes(
    pixels: Sequence[int], ignored: int, right: int, names: Sequence[str], split: str
) -> list[str]:
    """Caveats to print beside the scores of a split; usually none. right: correct pixels."""
    notes = truth_notes(pixels, ignored, names, split) + absent_note(pixels, names, split)
    if sum(pixels) and not right:
        text = "no pixel is right: check that labels, masks and ground truth number the classes"
        notes.append(f"{text} in the same way, from 0")
    return notes
