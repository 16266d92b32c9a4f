"""Readers of experiments/: labels of VOC and COCO, suites, and run folders for the report."""

import shutil
from pathlib import Path

from experiments import learning_curves
from experiments.figures.commands import evaluation
from experiments.figures.runs import read_inputs, run_of
from experiments.object_labels import VOC_CLASSES, read_coco, read_voc
from experiments.suite_file import read_suite
from tests.fuzz.labels import of_json
from tests.fuzz.logs import LINES, SCORES, dump_lines, lines_of, run_folder
from tests.fuzz.reading import ROOT, Target
from tests.fuzz.settings import of_yaml


def experiment_targets() -> dict[str, Target]:
    """Labels of VOC and COCO, suite files, and what the report reads."""
    row = {"stage": "warmup", "settings": {"views": "base"}, "seeds": {"0": {"mIoU": 50.0}}}
    row |= {"mean": {"mIoU": 50.0}, "std": {"mIoU": None}, "metrics": {"0": SCORES}}
    results = {"command": "python", "suite": "s.yaml", "config": "c.yaml", "settings": {}}
    results |= {"split": "val", "rows": {"Base": row, "Base + CARB": row | {"stage": "carb"}}}
    point = {"step": 2, "epoch": 0.5, "miou": 0.5, "miou_small": None, "miou_large": 0.5}
    point |= {"iou": {"road": 0.5}, "scored": ["a.pt", 10, 5, "val"]}
    suite = {
        "config": str(ROOT / "configs/tiny_cpu.yaml"),
        "split": "val",
        "seeds": [0, 1],
        "make_masks": False,
        "rows": {
            "Base": {"stage": "warmup", "views": "base"},
            "Base + CARB": {"stage": "carb", "views": "base", "queue_size": 3},
        },
        "contrasts": {"CARB": [["Base + CARB", "Base"]]},
    }

    coco = {
        "categories": [{"id": 3, "name": "car"}, {"id": 9, "name": "dog"}],
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [{"image_id": 1, "category_id": 9}, {"image_id": 2, "category_id": 3}],
    }
    xml_tokens = (b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"&x;", b"<", b"/>", b"<name>", b"\0", b"\xff")
    xml = "<annotation><object><name>{}</name></object></annotation>"

    def as_voc(path: Path) -> None:
        folder = path.parent / "VOC2012"
        for name in ("ImageSets/Segmentation", "Annotations"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets/Segmentation/train.txt").write_text("one\n")
        shutil.copyfile(path, folder / "Annotations/one.xml")
        read_voc(folder)

    def read_run(folder: Path) -> None:
        (run,), _ = read_inputs([str(folder)])
        assert all(isinstance(line["step"], int) for line in run.log)
        evaluation(run.last, "val")

    def as_log(path: Path) -> None:
        folder = run_folder(path)
        shutil.copyfile(path, folder / "metrics.jsonl")
        read_run(folder)

    def as_scores(path: Path) -> None:
        folder = run_folder(path)
        shutil.copyfile(path, folder / "eval_val/metrics.json")
        read_run(folder)

    def as_suite(path: Path) -> None:
        folder = run_folder(path).rename(path.parent / "base_0").parent / "suite"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (path.parent / "base_0").rename(folder / "base_0")
        shutil.copyfile(path, folder / "ablation.json")
        _, (found,) = read_inputs([str(folder)])
        run_of(found)

    files = [xml.format(name).encode() for name in VOC_CLASSES[:3]]
    log = of_json(as_log, *LINES)
    return {
        "experiments-voc": Target(".xml", as_voc, files, xml_tokens),
        "experiments-coco": of_json(read_coco, coco),
        "experiments-suite": of_yaml(lambda p: read_suite(str(p), []), suite),
        "experiments-metrics": Target(
            ".jsonl", as_log, [dump_lines(LINES)], log.tokens, (LINES,), lines_of(dump_lines)
        ),
        "experiments-scores": of_json(as_scores, SCORES),
        "experiments-results": of_json(as_suite, results),
        "experiments-curves": of_json(learning_curves.read_scores, {"runs": [{"points": [point]}]}),
    }
