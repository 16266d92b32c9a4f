"""Print one value of a config, for shell scripts.

python -m scripts.config_key configs/cityscapes.yaml data_root --set data_root=/data/cityscapes
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import json
import os
import sys

from utils.cli import add_overrides, path
from utils.config import KEYS, flatten, load_config
from utils.safe.errors import run_script


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=path, help="YAML file, see configs/")
    parser.add_argument("key", choices=KEYS, metavar="key")
    add_overrides(parser)
    arguments = parser.parse_args(argv)
    values = load_config(arguments.file, arguments.overrides).to_dict()
    value = (values | flatten(values))[arguments.key]
    text = value if isinstance(value, str) else json.dumps(value)  # true, null: as in YAML
    # Encoded like a file name, whatever the encoding of the console is.
    sys.stdout.buffer.write(os.fsencode(text) + b"\n")


if __name__ == "__main__":
    run_script(main)
