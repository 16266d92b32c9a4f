"""A checkpoint as a network: another config than its own, another memory format."""

from functools import partial
from pathlib import Path

import pytest
import yaml
from tiny_run import make_run

from models.trained import _compare_official_names, load_trained
from utils.safe.errors import InputError, InputWarning


def test_a_config_file_takes_the_place_of_the_own_one(tmp_path) -> None:
    run = make_run(tmp_path) / "warmup"
    values = yaml.safe_load((run / "config.yaml").read_text())
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(values | {"image_size": [30, 40], "seed": 7}))
    trained = load_trained(run / "warmup.pt", str(other), ["seed=8"])
    assert trained.config.image_size == (30, 40) and trained.config.seed == 8
    assert trained.classes.names == ("road", "pole", "sky")
    assert trained.origin == {"stage": "warmup", "step": 4}


def test_channels_last_is_the_layout_of_the_weights(tmp_path) -> None:
    checkpoint = make_run(tmp_path) / "warmup/warmup.pt"
    for wanted in (False, True):
        trained = load_trained(checkpoint, overrides=[f"channels_last={str(wanted).lower()}"])
        strides = trained.model.backbone.layer1[0].conv1.weight.stride()
        assert (strides[1] == 1) == wanted and not trained.model.training


NAMES = ["road", "pole", "sky"]  # of the run that make_run makes


def classes_file(path: Path, names: list[str]) -> str:
    path.write_text(yaml.safe_dump({"classes": names}))
    return str(path)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize(
    "names, told",
    [
        (["sky", "pole", "road"], "'road' where the class file has 'sky' .class 0, the same names"),
        (["road", "pole", "tree"], "'sky' where the class file has 'tree' .class 2"),
    ],
)
def test_classes_of_another_order_or_kind_are_refused(tmp_path, in_place, names, told) -> None:
    """Another class file is named, or the one of the training was edited."""
    checkpoint = make_run(tmp_path) / "warmup/warmup.pt"
    place = tmp_path / ("data/classes.yaml" if in_place else "other.yaml")
    path = classes_file(place, names)
    overrides = [] if in_place else [f"class_file={path}"]
    with pytest.raises(InputError, match=f"was trained for other classes: {told}"):
        load_trained(checkpoint, overrides=overrides)


def test_names_written_in_another_way_are_the_same(tmp_path) -> None:
    checkpoint = make_run(tmp_path) / "warmup/warmup.pt"
    path = classes_file(tmp_path / "other.yaml", ["Road", "POLE", " sky"])
    with pytest.warns(InputWarning, match="'road'.*'Road'"):
        trained = load_trained(checkpoint, overrides=[f"class_file={path}"])
    assert trained.classes.names == ("Road", "POLE", " sky")


def test_a_checkpoint_is_of_use_without_its_class_file(tmp_path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "data/classes.yaml").unlink()
    assert list(load_trained(run / "warmup/warmup.pt").classes.names) == NAMES


def test_the_authors_names_may_be_other_words_but_in_no_other_order(capsys) -> None:
    compare = partial(_compare_official_names, where="their.pth, classes.yaml")
    compare(("Road", "person", "sky"), ("road", "pedestrian", "sky"))
    assert "note: 1 of 3 class names" in capsys.readouterr().out
    compare(None, ("road", "sky"))
    compare(("road", "sky"), ("Road", "sky"))
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="another order: 'road'.*'sky'.*their.pth"):
        compare(("road", "person", "sky"), ("sky", "pedestrian", "road"))
