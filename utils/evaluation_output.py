"""What eval.py leaves behind: metrics.json and the Cityscapes server's zip."""

import json
import zipfile
from pathlib import Path
from typing import Any

from datasets.labels import ClassTable
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError
from utils.safe.files import check_folder, parse_json, replacing, write_json


def check_out(
    out: Path, made_from: dict[str, Any], submission: str | None, overwrite: bool
) -> None:
    """Raises InputError when `out` holds another evaluation or can't be written."""
    check_folder(out, "--out")
    if submission:
        check_folder(Path(submission), "--export-submission")
    if overwrite:
        return
    if submission and zip_path(Path(submission)).exists():
        raise InputError(
            f"{zip_path(Path(submission))} is a finished submission; name another "
            "folder for --export-submission, or --overwrite to replace it"
        )
    path = out / "metrics.json"
    if not path.exists():
        return
    try:
        old = dict(parse_json(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise InputError(f"{path} can't be read; name another --out, or --overwrite") from None
    new = json.loads(json.dumps(made_from))  # tuples become lists, as in the file
    for content in (old, new):  # the same file however it is written
        content["checkpoint"] = str(Path(str(content.get("checkpoint"))).resolve())
    changed = [key for key in new if old.get(key) != new[key]]
    if changed:
        raise InputError(
            f"{path} holds the numbers of another {', '.join(changed)} "
            f"({changed[0]}: {old.get(changed[0])} -> {new[changed[0]]}); name another --out, or "
            "--overwrite to replace them"
        )


def submission_name(name: str) -> str:
    """<city>/<city>_<sequence>_<frame> -> the file name that the server finds the image by."""
    return f"{Path(name).name}_pred_labelIds.png"


def zip_path(folder: Path) -> Path:
    """Where the zip of a submission's folder lies: beside it."""
    return folder.resolve().with_name(f"{folder.resolve().name}.zip")


def zip_submission(folder: Path, names: list[str]) -> None:
    """<folder>.zip with exactly one prediction per image."""
    path = zip_path(folder)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in names:
            archive.write(folder / submission_name(name), submission_name(name))
    print(f"{len(names)} label maps in {folder}; upload {path}")


def report(
    matrix: ConfusionMatrix, classes: ClassTable, out: Path, content: dict[str, Any]
) -> None:
    """Write metrics.json, whole or not at all; then print the table and what it can't say."""
    path = out / "metrics.json"
    write_json(path, content | matrix.to_dict(classes.names, classes.small))
    print(matrix.table(classes.names, classes.small))
    if matrix.counts[-1].any():
        print(
            f"note: {int(matrix.counts[-1].sum())} labelled pixels have an id outside "
            f"0..{len(classes) - 1} (and not 255); predictions there count as wrong"
        )
    for note in matrix.notes(classes.names, content["split"]):
        print(f"note: {note}")
    print(f"{content['num_images']} images of {content['split']}; written to {path}")
