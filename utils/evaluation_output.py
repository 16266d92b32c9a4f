"""Files that eval.py writes: scores and the Cityscapes server's zip."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.made_from import changed, listed
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError
from utils.safe.files import check_folder, parse_json, replacing, write_json


def check_scores(path: Path, made_from: dict[str, Any], overwrite: bool) -> None:
    """Raise InputError when `path` holds scores of something else or can't be written.

    made_from: what determines the scores, as written to the file.
    """
    check_folder(path.parent, "--out")
    if overwrite or not path.exists():
        return
    try:
        old = dict(parse_json(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise InputError(f"{path} can't be read; name another --out, or --overwrite") from None
    new = dict(made_from)
    for content in (old, new):  # a file may be named by several paths
        for key in {"checkpoint", "masks"} & content.keys():
            content[key] = str(Path(str(content[key])).resolve())
    if other := changed(old, new):
        raise InputError(
            f"{path} holds the scores of another {', '.join(other)} ({listed(other, 1)}); name "
            "another --out, or --overwrite to replace them"
        )


def check_submission(folder: Path, overwrite: bool) -> None:
    """Raise InputError when a submission can't be written to `folder` or its zip is finished."""
    check_folder(folder, "--export-submission")
    if zip_path(folder).exists() and not overwrite:
        raise InputError(
            f"{zip_path(folder)} is a finished submission; name another folder for "
            "--export-submission, or --overwrite to replace it"
        )


def submission_name(name: str) -> str:
    """<city>/<city>_<sequence>_<frame> -> the file name that the server expects."""
    return f"{Path(name).name}_pred_labelIds.png"


def zip_path(folder: Path) -> Path:
    """Path of the zip, beside a submission's folder."""
    return folder.resolve().with_name(f"{folder.resolve().name}.zip")


def zip_submission(folder: Path, names: list[str]) -> None:
    """Write <folder>.zip with exactly one prediction per image."""
    path = zip_path(folder)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in names:
            archive.write(folder / submission_name(name), submission_name(name))
    print(f"{len(names)} label maps in {folder}; upload {path}")


def report(
    matrix: ConfusionMatrix,
    names: Sequence[str],
    small: Sequence[bool],
    path: Path,
    content: dict[str, Any],
) -> None:
    """Write the scores atomically, then print the table and its caveats.

    content: what was scored, with "split" and "num_images".
    """
    write_json(path, content | matrix.to_dict(names, small))
    print(matrix.table(names, small))
    if "labelled_pixels" in content:
        print(f"labelled pixels: {100 * content['labelled_pixels']:.2f} %")
    if matrix.counts[-1].any():
        print(
            f"note: {int(matrix.counts[-1].sum())} labelled pixels have an id outside "
            f"0..{len(names) - 1} (and not 255); predictions there count as wrong"
        )
    for note in matrix.notes(names, content["split"]):
        print(f"note: {note}")
    print(f"{content['num_images']} images of {content['split']}; written to {path}")
