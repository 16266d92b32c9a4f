"""prepare_data.py, image-level labels, and the import of the authors' labels without pickle."""

import dataclasses
import json
import os
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_data
from PIL import Image
from test_datasets import camvid_original, id_map, picture, save, wilddash_release

import prepare_data
from datasets import open_dataset
from datasets.doctor.official_labels import import_official_labels
from datasets.doctor.statistics import always_present
from datasets.files import read_image, read_mask
from datasets.image_labels import drop_suffix, read_image_labels, write_image_labels
from datasets.labels import load_classes
from datasets.split_labels import labels_of_split
from datasets.wilddash2 import categories
from utils.safe.errors import InputError, InputWarning

NAMES = ("road", "traffic light", "car")

# ---------------------------------------------------------------- label files


def test_label_files_in_every_form(tmp_path: Path) -> None:
    expected = {"a/1": (0, 2), "b": (1,), "c.d": ()}
    forms = {
        "ids.json": '{"a/1": [2, 0], "b": [1], "c.d": []}',
        "names.json": '{"a/1.jpg": ["car", "Road"], "b.PNG": ["traffic light"], "c.d": []}',
        "ids.csv": "image,labels\na/1.jpg,0 2\nb,1\nc.d,\n",
        "names.csv": "Image,Labels\na/1.jpg,car;road\nb.png,traffic light;\n\nc.d,\n",
        "columns.csv": "image,car,road,traffic light\na/1.jpeg,1,1,0\nb, 0,0,1\nc.d,0,0,0\n",
        "blank.csv": "image,labels\na/1.jpg,car road\nb.png,Traffic Light\nc.d,\n",
        "bom.csv": "\ufeffimage,labels\r\na/1,0;2\r\nb,1\r\nc.d,\r\n",
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_image_labels(tmp_path / name, 3, NAMES) == expected, name
    write_image_labels(tmp_path / "new" / "out.json", expected)
    assert read_image_labels(tmp_path / "new" / "out.json", 3) == expected
    assert len((tmp_path / "new" / "out.json").read_text().splitlines()) == 5
    assert drop_suffix("a.b/c") == "a.b/c" and drop_suffix("a.JPG") == "a"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.json", '{"a": [3]}', "image 'a'.*0..2.*found 3"),
        ("l.json", '{"a": [-1]}', "found -1"),
        ("l.json", '{"a": [true]}', "found True"),
        ("l.json", '{"a": [0.0]}', "found 0.0"),
        ("l.json", '{"a": ["bus"]}', "found 'bus'"),
        ("l.json", '{"a": 1}', "found 1 for 'a'"),
        ("l.json", '{"a": {"b": 1}}', "image 'a'"),
        ("l.json", "[[1, 2]]", r"expected \{"),
        ("l.json", "{}", "no image"),
        ("l.json", '{"a": [0], "a": [1]}', "'a' is listed twice"),
        ("l.json", '{"a": [2, 0, 2]}', "'a': .2, 0, 2. has 2 twice"),
        ("l.json", '{"a": [0], "a.jpg": [1]}', "'a' is listed twice"),
        ("l.json", '{"a": [0', "not valid JSON"),
        ("l.csv", "a.jpg,0 1\n", "first line must be.*a.jpg"),
        ("l.csv", "picture;labels\na;0\n", "first line must be"),
        ("l.csv", "", "first line must be"),
        ("l.csv", "image,labels\na,0,1\n", "line 2: expected 2 cells, found 3"),
        ("l.csv", "image,road,car\na,0,1\n", "one column for each of the 3"),
        ("l.csv", "image,road,car,bus\na,0,1,1\n", "first line.*'bus'"),
        ("l.csv", "image,road,car,traffic light\n\na,0,2,1\n", "line 3.*0 or 1"),
        ("l.csv", "image,labels\na,road;bus\n", "image 'a'.*'bus'"),
    ],
)
def test_bad_label_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        read_image_labels(tmp_path / name, 3, NAMES)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "image;labels\na.jpg;road, car\nb;traffic light\n"),
        ("l.csv", "sep=;\nimage;labels\na.jpg;road|car\nb;1\n"),
        ("l.tsv", "image\tlabels\r\na.jpg\troad;car\r\nb\tTraffic Light\r\n"),
        ("l.csv", 'filename,labels,\na.jpg,"[0, 2]",\nb,"[\'traffic light\']",\n'),
        ("l.csv", ",image_id,road,traffic light,car\n0,a.jpg,1,0,1\n1,b,0,1,0\n"),
        ("l.csv", ",road,traffic light,car\na.jpg,True,False,1.0\nb,no,yes,0\n"),
        ("l.csv", "Image ID,car,road,traffic light\na.jpg,x,x,\nb,,,x\n"),
        ("l.csv", 'image,labels\na,"[1, 0, 1]"\nb,0 1 0\n'),
        ("l.json", '{"a": [1, 0, 1], "b": [0, 1, 0]}'),
        ("l.json", '{"a": [1.0, 0.0, 1.0], "b": [0.0, 1.0, 0.0]}'),
        ("l.json", '{"a": [true, false, true], "b": [false, true, false]}'),
        ("l.json", '{"a": {"road": true, "car": 1}, "b": {"traffic light": true, "car": false}}'),
        ("l.json", '{"a": "road; car", "b": "traffic light"}'),
    ],
)
def test_label_files_of_other_programs(tmp_path: Path, name: str, text: str) -> None:
    for encoding in ("utf-8", "utf-16"):  # a spreadsheet's "Unicode text"
        (tmp_path / name).write_text(text, encoding=encoding)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert read_image_labels(tmp_path / name, 3, NAMES) == {"a": (0, 2), "b": (1,)}
        is_vector = "1, 0, 1" in text or "[1.0" in text or "[true" in text
        assert [("one 0/1 for each" in str(one.message)) for one in said] == [True] * is_vector


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.json", '{"a": [1, 0, 1], "b": [2]}', r"of 'a' looks like one 0/1.*\[2\] of 'b' like"),
        ("l.json", '{"a": [1, 0, 1, 0]}', "has 4 places for 3 classes"),
        ("l.json", '{"a": [1, 3], "b": [2]}', "image 'a'.*found 3.*counted from 1"),
        ("l.csv", "image,labels\na,1 3\n", "image 'a'.*counted from 1.*subtract 1"),
        ("l.json", '{"a": {"road": 0.3}}', "found {\"road\": 0.3} for 'a'"),
        ("l.json", '{"a": [[0, 1]]}', r"image 'a'.*found \[0, 1\]"),
        ("l.json", '{"a": [0.5]}', "image 'a'.*found 0.5"),
        ("l.csv", "image,road,traffic light,car\na,1,,0\n", "line 2.*0 or 1.*found ''"),
        ("l.csv", "image,labels\n,road\n", "line 2: no image"),
        ("l.csv", "image,labels\na,road\na,car\n", "'a' is listed twice.*all its labels"),
        ("l.csv", "image,labels\na,001\nb,000\n", "found '001'.*write 1;.*separate them: 0;0;1"),
        ("l.json", '{"a": "01", "b": "00"}', "found '01'.*separate them: 0;1"),
        ("l.csv", "image,labels\na,01;02\n", "found '01'; if it is an id, write 1"),
        ("l.csv", b"image,labels\n\xe4,road\n", "save it as UTF-8"),
        ("l.csv", b"PK\x03\x04\xff", "spreadsheet; save the table as CSV"),
    ],
)
def test_two_readings_or_none(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        read_image_labels(tmp_path / name, 3, NAMES)


def test_two_classes_fit_both_readings(tmp_path: Path) -> None:
    path, names = tmp_path / "l.json", ("road", "car")
    for text in ('{"a": [0, 1], "b": [1, 0]}', '{"a": [0, 1]}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"of 'a' may be two class ids or.*\[\"road\", \"car"):
            read_image_labels(path, 2, names)
    path.write_text('{"a": [0, 1], "b": [0]}')
    assert read_image_labels(path, 2, names) == {"a": (0, 1), "b": (0,)}
    write_image_labels(path, {"a": (0, 1), "b": (0, 1)})  # our own form is read back
    assert read_image_labels(path, 2, names) == {"a": (0, 1), "b": (0, 1)}
    path.write_text('{"a": [0, 1], "b": [1, 1]}')
    with pytest.warns(InputWarning, match="one 0/1"):
        assert read_image_labels(path, 2, names) == {"a": (1,), "b": (0, 1)}


@pytest.mark.parametrize("name", ["1", "007", "2.5", " 3 "])
def test_class_names_that_are_numbers(tmp_path: Path, name: str) -> None:
    """In labels they may be ids."""
    (tmp_path / "classes.yaml").write_text(f'classes: [road, "{name}"]\n')
    with pytest.raises(InputError, match=f"class 1: .*class id {name} or the class named '{name}'"):
        load_classes(tmp_path / "classes.yaml")


def test_class_names_travel_with_labels(tmp_path: Path) -> None:
    small_camvid(tmp_path)
    out, own = tmp_path / "labels.json", tmp_path / "own.yaml"
    run("camvid", "--root", tmp_path, "--out", out)
    names = json.loads((tmp_path / "labels.meta.json").read_text())["class_names"]
    dataset = open_dataset("camvid", tmp_path)
    own.write_text(json.dumps({"classes": [*names[:2][::-1], *names[2:]]}))
    expected = f"labels in .*were made for other classes: '{names[0]}' where.*another order"
    with pytest.raises(InputError, match=expected):
        labels_of_split(dataset, "train", out, load_classes(own))
    with pytest.raises(InputError, match=expected):
        run("camvid", "--root", tmp_path, "--out", out, "--class-file", own)
    run("camvid", "--root", tmp_path, "--out", out, "--class-file", own, "--overwrite")
    labels_of_split(dataset, "train", out, load_classes(own))


def test_labels_that_lie_beside(tmp_path: Path) -> None:
    small_camvid(tmp_path)
    classes, dataset = (
        load_classes("datasets/classes/camvid.yaml"),
        open_dataset("camvid", tmp_path),
    )
    (tmp_path / "labels.csv").write_text("image,labels\ntrain/t0.png,sky;car\nt1,road\n")
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsky,128,128,128\n")  # no labels
    with pytest.warns(InputWarning, match=r"gone\.json: reading .*labels\.csv"):
        labels = labels_of_split(dataset, "train", tmp_path / "gone.json", classes)
    assert {name: [classes.names[k] for k in ids] for name, ids in labels.items()} == {
        "t0": ["sky", "car"],
        "t1": ["road"],
    }
    with pytest.raises(
        InputError, match=r"no image labels at .*gone\.json, but.*labels\.csv; name"
    ):
        run("camvid", "--root", tmp_path, "--labels", tmp_path / "gone.json", "--stats")


def test_missing_and_binary_label_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image labels at .*l.json.*prepare_data.py"):
        read_image_labels(tmp_path / "l.json", 3)
    (tmp_path / "l.json").write_bytes(b"\x93NUMPY\xff\xfe")
    with pytest.raises(InputError, match=r"l.json is not a text file"):
        read_image_labels(tmp_path / "l.json", 3)


# ---------------------------------------------------------------- the authors' labels.npy


def test_official_labels_of_real_camvid() -> None:
    labels, num_classes = import_official_labels(shared_data("image_labels/camvid_official.npy"))
    assert num_classes == 11
    assert labels == read_image_labels(shared_data("image_labels/camvid.json"), 11)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", ">f4"])
def test_official_labels_written_by_numpy(tmp_path: Path, dtype: str) -> None:
    table = {"x/a": np.array([1, 0, 1], dtype), "b": np.array([0, 0, 0], dtype)}
    np.save(tmp_path / "labels.npy", table, allow_pickle=True)
    expected = ({"b": (), "x/a": (0, 2)}, 3)
    assert import_official_labels(tmp_path / "labels.npy") == expected


def npy_with_pickle(path: Path, payload: bytes) -> Path:
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(payload)
    return path


class Harmful:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("hidden", [False, True])
def test_malicious_pickle_does_nothing(tmp_path: Path, protocol: int, hidden: bool) -> None:
    trace = tmp_path / "executed"
    harm = Harmful(trace)
    table = np.array({"a": np.ones(2), "b": harm} if hidden else harm, dtype=object)
    path = npy_with_pickle(tmp_path / "labels.npy", pickle.dumps(table, protocol))
    with pytest.raises(InputError, match=r"labels.npy.*it names \S+, which"):
        import_official_labels(path)
    assert not trace.exists()
    np.load(path, allow_pickle=True)  # the file is dangerous indeed
    assert trace.exists()


def test_tampering_with_the_stand_ins_does_nothing(tmp_path: Path) -> None:
    """The names that are allowed give no way to anything else."""
    for payload in (
        b"cnumpy\nndarray\n(S'load'\ncbuiltins\neval\ndb.",
        b"cnumpy\nload\n(S'x.npy'\ntR.",
        b"cnumpy.core.multiarray\nndarray.tofile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.tofile\x93.",
        b"\x82\x01.",  # a code of the extension registry
        b"Pmkdir\n.",  # a persistent id
        b"cnumpy\nndarray\n)R.",  # allowed, but no table
    ):
        path = npy_with_pickle(tmp_path / "labels.npy", payload)
        with pytest.raises(InputError, match=r"labels.npy"):
            import_official_labels(path)


def test_other_npy_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.npy"

    def refuse(message: str) -> None:
        with pytest.raises(InputError, match=f"labels.npy.*{message}"):
            import_official_labels(path)

    refuse("no file|expected")
    path.write_bytes(b"PK\x03\x04")
    refuse("magic string")
    np.save(path, np.zeros((3, 4)))
    refuse(r"float64 array of shape \(3, 4\)")
    np.save(path, {"a": np.array([0.5, 1.0])}, allow_pickle=True)
    refuse("0/1 vectors")
    np.save(path, {"a": np.ones(2), "b": np.ones(3)}, allow_pickle=True)
    refuse(r"lengths \[2, 3\]")
    np.save(path, {"a": [1, 0]}, allow_pickle=True)
    refuse("not the official")
    np.save(path, {"a": np.ones(2)}, allow_pickle=True)
    path.write_bytes(path.read_bytes()[:-20])
    refuse("not the official")


# ---------------------------------------------------------------- the script


def run(*arguments: object) -> None:
    prepare_data.main([*map(str, arguments), "--workers", "0"])


def small_camvid(root: Path) -> dict[str, np.ndarray]:
    """Two train images and one of val in the authors' form."""
    ids = {name: id_map(11, seed=i) for i, name in enumerate(("t0", "t1", "v0"))}
    ids["t1"][:] = 255
    ids["t1"][0, :3] = (4, 4, 9)
    for name, values in ids.items():
        split = "val" if name == "v0" else "train"
        save(root / "img" / split / f"{name}.png", picture(seed=ord(name[0]) + int(name[1])))
        save(root / "mask" / split / f"{name}.png", values)
    return ids


def test_labels_from_ground_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = small_camvid(tmp_path)
    out = tmp_path / "labels.json"
    run("camvid", "--root", tmp_path, "--out", out)
    labels = read_image_labels(out, 11)
    expected = {n: tuple(sorted(set(v.ravel().tolist()) - {255})) for n, v in ids.items()}
    assert labels == expected and labels["t1"] == (4, 9)
    run(
        "camvid",
        "--root",
        tmp_path,
        "--out",
        out,
        "--min-pixels",
        2,
        "--splits",
        "train",
        "--overwrite",
    )
    assert read_image_labels(out, 11)["t1"] == (4,)
    assert set(read_image_labels(out, 11)) == {"t0", "t1"}
    capsys.readouterr()
    arguments = ["--out", str(out), "--workers", "2", "--overwrite"]
    prepare_data.main(["camvid", "--root", str(tmp_path), *arguments])
    assert read_image_labels(out, 11) == expected
    assert f"wrote {out}: 3 images" in capsys.readouterr().out


def test_labels_are_never_overwritten_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_camvid(tmp_path)
    out = tmp_path / "labels.json"
    run("camvid", "--root", tmp_path, "--out", out)
    before = out.read_text()
    run("camvid", "--root", tmp_path, "--out", out)  # equal: nothing to lose
    assert f"unchanged {out}: 3 images" in capsys.readouterr().out
    with pytest.raises(
        InputError, match=r"labels\.json already holds different.*--out.*--overwrite"
    ):
        run("camvid", "--root", tmp_path, "--out", out, "--min-pixels", 3)
    assert out.read_text() == before
    run("camvid", "--root", tmp_path, "--out", out, "--min-pixels", 3, "--overwrite")
    assert out.read_text() != before
    with pytest.raises(InputError, match=r"mask is a folder; name a file in it"):
        run("camvid", "--root", tmp_path, "--out", tmp_path / "mask")


def test_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_camvid(tmp_path)
    labels = {"t0": (0, 1, 2), "t1": (1,), "v0": (0, 10)}
    write_image_labels(tmp_path / "l.json", labels)
    run("camvid", "--root", tmp_path, "--labels", tmp_path / "l.json", "--stats")
    train, val = capsys.readouterr().out.split("val: ")
    assert "2 images, 2.00 classes per image" in train
    assert "1 images, 2.00 classes per image" in val
    for line in (r"1 +1", r"3 +1", r"sky +1 +1", r"building +2 +0", r"bicyclist +0 +2"):
        assert re.search(rf"^ +{line}$", train, re.MULTILINE), line
    assert re.search(r"^ +bicyclist +1 +0$", val, re.MULTILINE)
    assert "a classifier of images learns nothing: building\n" in train
    assert "a classifier of images learns nothing: sky, bicyclist\n" in val


def test_classes_of_almost_every_image() -> None:
    """Above 95 %, and not the background, which is no class of an image."""
    classes = load_classes("datasets/classes/camvid.yaml")
    labels = [(0, 1, 2)] * 96 + [(0, 1)] + [(0,)] * 3
    assert always_present(labels, classes).endswith(": sky, building (97.0 %), pole (96.0 %)")
    background = dataclasses.replace(classes, names=("Background", *classes.names[1:]))
    assert always_present(labels, background).endswith(": building (97.0 %), pole (96.0 %)")
    assert always_present([(0, 1)] * 95 + [()] * 5, classes) == ""


def test_check_of_good_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_camvid(tmp_path)
    run("camvid", "--root", tmp_path, "--check")
    assert "3 images checked, 0 problems" in capsys.readouterr().out


def test_check_names_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    img, mask = tmp_path / "img" / "train", tmp_path / "mask" / "train"
    names = [f"n{i}" for i in range(8)]
    for i, name in enumerate(names):
        save(img / f"{name}.png", picture(seed=i))
        save(mask / f"{name}.png", id_map(11))
    (mask / "n0.png").unlink()
    (img / "n1.png").unlink()
    save(mask / "n2.png", id_map(11, 5, 8))
    save(mask / "n3.png", np.full((6, 8), 12, np.uint8))
    (img / "n4.png").write_bytes((img / "n4.png").read_bytes()[:70])
    (mask / "n5.png").write_bytes(b"nothing")
    labels = {name: [0] for name in names if name not in ("n1", "n6")} | {"n7": [], "ghost": [1]}
    (tmp_path / "l.json").write_text(json.dumps(labels))
    with pytest.raises(SystemExit) as stopped:
        run("camvid", "--root", tmp_path, "--labels", tmp_path / "l.json", "--check")
    assert stopped.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    for problem in (
        r"img/train/n0.png has no mask; add",
        r"mask/train/n1.png has no image in 'train'; add",
        r"mask/train/n2.png is 5x8 .* image 6x8; make",
        r"mask/train/n3.png holds the ids \[12\]; expected 0 to 10 or 255",
        r"cannot decode .*img/train/n4.png.*; copy or download",
        r"cannot decode .*mask/train/n5.png.*; copy or download",
        r"n6.png \('n6'\) has no image-level labels; add",
        r"the labels of 'n7' are empty; add",
        r"labels for 'ghost', but there is no such image .*; add",
    ):
        assert sum(bool(re.search(problem, line)) for line in lines) == 1, problem
    problems = [line for line in lines if not line.startswith("warning: ")]
    assert lines[-1].startswith("7 images checked, 9 problems, ") and len(problems) == 10


def test_broken_ground_truth_stops_the_extraction(tmp_path: Path) -> None:
    small_camvid(tmp_path)
    out = tmp_path / "labels.json"
    save(tmp_path / "mask/train/t0.png", np.full((6, 8), 11, np.uint8))
    with pytest.raises(InputError, match=r"t0.png holds the ids \[11\].*--check"):
        run("camvid", "--root", tmp_path, "--out", out)
    (tmp_path / "mask/train/t0.png").unlink()
    with pytest.raises(InputError, match=r"'t0' of 'train' has no mask; add it.*--labels.*--check"):
        run("camvid", "--root", tmp_path, "--out", out)
    assert not out.exists()


def test_same_names_in_two_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = small_camvid(tmp_path)
    save(tmp_path / "img/val/t0.png", picture(seed=9))
    save(tmp_path / "mask/val/t0.png", np.full((6, 8), 3, np.uint8))
    out, classes = tmp_path / "labels.json", load_classes("datasets/classes/camvid.yaml")
    run("camvid", "--root", tmp_path, "--out", out, "--splits", "train")
    assert "the keys are '<split>/<image id>'" in capsys.readouterr().out
    assert list(json.loads(out.read_text())) == ["train/t0", "train/t1"]
    run("camvid", "--root", tmp_path, "--out", out, "--overwrite", "--stats")
    assert re.search(r"^ +sky +1 +1$", capsys.readouterr().out.split("val: ")[1], re.MULTILINE)
    dataset = open_dataset("camvid", tmp_path)
    labels = labels_of_split(dataset, "val", out, classes)
    assert labels == {"t0": (3,), "v0": tuple(sorted(set(ids["v0"].ravel().tolist()) - {255}))}
    assert labels_of_split(dataset, "train", out, classes)["t0"] != (3,)
    run("camvid", "--root", tmp_path, "--labels", out, "--check")
    assert " 0 problems" in capsys.readouterr().out
    out.write_text('{"t0": [1], "t1": [4], "v0": [0]}')
    for split in ("train", "val"):
        with pytest.raises(
            InputError, match="'t0' is in two splits.*can't tell train and val apart"
        ):
            labels_of_split(dataset, split, out, classes)
    with pytest.raises(SystemExit):
        run("camvid", "--root", tmp_path, "--labels", out, "--check")
    assert "'t0' is in two splits" in capsys.readouterr().out


def test_import_of_official_labels(tmp_path: Path) -> None:
    small_camvid(tmp_path)
    vectors = {name: np.eye(11)[i] for i, name in enumerate(("t0", "t1", "v0"))}
    np.save(tmp_path / "labels.npy", vectors, allow_pickle=True)
    arguments = ["--root", tmp_path, "--import-labels", tmp_path / "labels.npy"]
    run("camvid", *arguments, "--out", tmp_path / "l.json", "--check")
    assert read_image_labels(tmp_path / "l.json", 11) == {"t0": (0,), "t1": (1,), "v0": (2,)}
    np.save(tmp_path / "labels.npy", {"t0": np.ones(19)}, allow_pickle=True)
    with pytest.raises(InputError, match=r"labels.npy has 19 classes, camvid 11"):
        run("camvid", *arguments, "--out", tmp_path / "m.json")
    assert not (tmp_path / "m.json").exists()


def test_own_data_without_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "sub/b"):
        save(tmp_path / "images" / f"{name}.jpg", picture())
    (tmp_path / "classes.yaml").write_text("classes: [road, traffic light, car]")
    (tmp_path / "l.csv").write_text("image,labels\na.jpg,car;road\nsub/b.jpg,1\n")
    arguments = ["folder", "--root", tmp_path]
    run(*arguments, "--labels", tmp_path / "l.csv", "--check", "--stats")
    assert "2 images checked, 0 problems" in capsys.readouterr().out
    run(*arguments, "--out", tmp_path / "image_labels.json")  # the one file of labels there
    assert "labels: " in capsys.readouterr().out
    assert read_image_labels(tmp_path / "image_labels.json", 3) == {"a": (0, 2), "sub/b": (1,)}
    (tmp_path / "image_labels.json").unlink()
    (tmp_path / "labels_old.json").write_text("{}")
    with pytest.raises(InputError, match=r"l\.csv, .*labels_old\.json may all be.*--labels"):
        run(*arguments, "--stats")
    (tmp_path / "labels_old.json").unlink()
    (tmp_path / "l.csv").rename(tmp_path / "more.csv.gone")
    with pytest.raises(InputError, match=r"no readable ground truth.*--labels"):
        run(*arguments, "--stats")
    (tmp_path / "more.csv.gone").rename(tmp_path / "l.csv")
    (tmp_path / "classes.yaml").rename(tmp_path / "names.yaml")
    with pytest.raises(InputError, match=r"classes\.yaml or --class-file"):
        run(*arguments, "--stats")
    run(
        *arguments,
        "--class-file",
        tmp_path / "names.yaml",
        "--labels",
        tmp_path / "l.csv",
        "--stats",
    )


def test_only_training_images_need_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(("train/a", "train/b", "val/c", "val/d")):
        save(tmp_path / "images" / f"{name}.jpg", picture(seed=i))
    (tmp_path / "classes.yaml").write_text("classes: [road, car]")
    arguments = ["folder", "--root", tmp_path, "--class-file", tmp_path / "classes.yaml", "--check"]
    arguments += ["--labels", tmp_path / "l.csv"]
    (tmp_path / "l.csv").write_text("image,labels\na,0\nb,1\nd,1\n")
    run(*arguments)
    assert "4 images checked, 0 problems" in capsys.readouterr().out
    (tmp_path / "l.csv").write_text("image,labels\na,0\nghost,1\n")
    with pytest.raises(SystemExit):
        run(*arguments)
    lines = capsys.readouterr().out.splitlines()
    assert "('b') has no image-level labels" in lines[0]
    assert "labels for 'ghost', but there is no such image" in lines[1]
    assert "no training image has car" in lines[2]
    assert lines[3] == "4 images checked, 2 problems, 1 warnings" and len(lines) == 4


def test_convert_camvid(tmp_path: Path) -> None:
    ids = {name: id_map(11, seed=i) for i, name in enumerate(("0006R0_f00930", "0016E5_07959"))}
    camvid_original(tmp_path / "in", list(ids), ids)
    run("camvid", "--root", tmp_path / "in", "--convert", tmp_path / "out")
    dataset = open_dataset("camvid", tmp_path / "out")
    for split, name in (("train", "0006R0_f00930"), ("val", "0016E5_07959")):
        (image,), (mask,) = dataset.images(split).values(), dataset.ground_truth(split).values()
        assert np.array_equal(read_image(image), picture())
        assert np.array_equal(read_mask(mask), ids[name])
        with Image.open(mask.path) as paletted:
            assert paletted.mode == "P" and paletted.getpalette()[:6] == [128, 128, 128, 128, 0, 0]
    with pytest.raises(InputError, match=r"out has files in it.*--overwrite"):
        run("camvid", "--root", tmp_path / "in", "--convert", tmp_path / "out")
    run("camvid", "--root", tmp_path / "in", "--convert", tmp_path / "out", "--overwrite")


def test_convert_wilddash2(tmp_path: Path) -> None:
    maps = wilddash_release(tmp_path / "in")
    run("wilddash2", "--root", tmp_path / "in", "--convert", tmp_path / "out")
    mask = tmp_path / "out/mask/train/ae0000_100000_labelTrainIds.png"
    assert (tmp_path / "out/img/train/ae0000_100000.jpg").is_file()
    class_ids = np.array([class_id for _, class_id in categories()])
    (file,) = open_dataset("wilddash2", tmp_path / "out").ground_truth("train").values()
    assert file.path == str(mask)
    assert np.array_equal(read_mask(file), class_ids[maps["ae0000_100000"]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to do"),
        (("--stats", "--min-pixels", "0"), "min-pixels"),
        (("--stats", "--splits", "trian"), "no split 'trian'"),
        (("--stats", "--class-file", "gone.yaml"), "no class file at gone.yaml"),
        (("--stats", "--labels", "gone.json"), "no image labels at gone.json"),
    ],
)
def test_bad_command_lines(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    small_camvid(tmp_path)
    with pytest.raises(InputError, match=message):
        run("camvid", "--root", tmp_path, *arguments)


def test_cityscapes_needs_no_conversion(tmp_path: Path) -> None:
    save(tmp_path / "leftImg8bit/train/a/a_000000_000019_leftImg8bit.png", picture())
    with pytest.raises(InputError, match=r"cityscapes is read as it is"):
        run("cityscapes", "--root", tmp_path, "--convert", tmp_path / "out")
