"""Comparison of class names: those of a class file, and those that a file was made with."""

from collections.abc import Sequence
from itertools import zip_longest

from utils.safe.errors import InputError, warn


def compare_class_names(
    found: Sequence[str], expected: Sequence[str], what: str, remedy: str
) -> None:
    """Raise InputError with the first pair that differs; names and their order both count.

    found: the names that `what` ("the masks in clip_masks were made") holds. expected: those of
    the class file. Names that differ only in case, blanks, hyphens or underscores are the same.
    """
    for k, (theirs, ours) in enumerate(zip_longest(found, expected)):
        if theirs is None or ours is None or plain_name(theirs) != plain_name(ours):
            theirs, ours = ("no class" if name is None else repr(name) for name in (theirs, ours))
            is_order = sorted(map(plain_name, found)) == sorted(map(plain_name, expected))
            order = ", the same names in another order" if is_order else ""
            raise InputError(
                f"{what} for other classes: {theirs} where the class file has {ours} "
                f"(class {k}{order}); {remedy}"
            )
    renamed = [pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1]]
    if renamed:
        warn(
            f"{what} with the class name {renamed[0][0]!r}, the class file has {renamed[0][1]!r}; "
            "they count as the same class"
        )


def plain_name(name: str) -> str:
    """'Traffic_Light' -> 'trafficlight'."""
    return "".join(letter for letter in str(name).casefold() if letter not in " _-")
