"""A checkpoint as a network: another config than its own, another memory format."""

import yaml
from tiny_run import make_run

from models.trained import load_trained


def test_a_config_file_takes_the_place_of_the_own_one(tmp_path) -> None:
    run = make_run(tmp_path).folder / "warmup"
    values = yaml.safe_load((run / "config.yaml").read_text())
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(values | {"resize_to": [30, 40], "seed": 7}))
    trained = load_trained(run / "warmup.pt", str(other), ["seed=8"])
    assert trained.config.resize_to == (30, 40) and trained.config.seed == 8
    assert trained.classes.names == ("road", "pole", "sky")
    assert trained.origin == {"stage": "warmup", "step": 4}


def test_channels_last_is_the_layout_of_the_weights(tmp_path) -> None:
    checkpoint = make_run(tmp_path).folder / "warmup/warmup.pt"
    for wanted in (False, True):
        trained = load_trained(checkpoint, overrides=[f"channels_last={str(wanted).lower()}"])
        strides = trained.model.backbone.layer1[0].conv1.weight.stride()
        assert (strides[1] == 1) == wanted and not trained.model.training
