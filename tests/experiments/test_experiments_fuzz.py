"""tests/fuzz on the readers of experiments/, and the faults that it has found there."""

from pathlib import Path

import pytest

from tests.fuzz.checks import DEEP, check_target, check_yaml_bomb
from tests.fuzz.experiments import experiment_targets
from tests.fuzz.reading import read

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of odd tensors
TARGETS = experiment_targets()


@pytest.mark.parametrize("name", TARGETS)
def test_good_files_are_read_and_no_damaged_one_is_a_fault(name: str, reading: Path) -> None:
    check_target(name, TARGETS[name], reading)


YAML = TARGETS["experiments-suite"].files[0]
LONG_NAME = YAML.replace(b"config: ", b"config: " + b"x" * 300)
SUITE = TARGETS["experiments-results"].dump(TARGETS["experiments-results"].values[0])
TEXTS = {
    "experiments-coco": [DEEP],
    "experiments-suite": [
        *(b"!!map a", b"!!int : ", b"0x" + b"f" * 5000, b"!!bool a: 1", LONG_NAME),
        YAML.replace(b"- - Base + CARB", b"- - []"),
    ],
    "experiments-metrics": [
        DEEP + b"}",
        b'{"step": [2]}\n{"step": 4}\n',
        b'{"step": null}\n{"step": 4}\n',
        b'{"step": 0.5}\n',
        b'{"step": 2} {}\n',
        b'{"step": 2, "loss": {"a": 1}}\n',
        b"\xff}\n",
        b"[]}\n",
    ],
    "experiments-scores": [
        DEEP,
        b'{"inference": 3}',
        b'{"inference": {"window": 3}}',
        b'{"classes": [1]}',
    ],
    "experiments-results": [
        DEEP,
        b'{"rows": {"a": {"stage": "carb", "seeds": {"x": 1}}}}',
        SUITE.replace(b'"warmup"', b'["x"]'),
        SUITE.replace(b'"seeds": {"0"', b'"seeds": {"1e3"'),
        SUITE.replace(b'"seeds": {"0": {"mIoU": 50.0}}', b'"seeds": null'),
    ],
    "experiments-curves": [DEEP, b'{"runs": [{"points": [{"scored": [[1]]}]}]}'],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, text) for name, texts in TEXTS.items() for text in texts]
)
def test_texts_that_were_faults_are_refused(name: str, content: bytes, reading: Path) -> None:
    assert read(name, TARGETS[name], content, reading) in ("read", "refused")


def test_ten_lines_of_yaml_are_not_a_thousand_million_values(reading: Path) -> None:
    check_yaml_bomb("experiments-suite", TARGETS["experiments-suite"], reading)
