"""The command line that all scripts share."""

import argparse


def parser(description: str | None, config_required: bool = True) -> argparse.ArgumentParser:
    """--config, --set, --device. (--debug is taken by `utils.errors.run_script`.)"""
    result = overrides_parser(description)
    result.add_argument("--config", required=config_required, help="YAML file, see configs/")
    return result


def overrides_parser(description: str | None) -> argparse.ArgumentParser:
    """--set and --device, for tools that find the config in a run folder."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="replace one key of the config; may be given again",
    )
    result.add_argument("--device", help="cpu or cuda (default: cuda when there is one)")
    return result


def training_parser(description: str | None) -> argparse.ArgumentParser:
    """And --run-dir, --overwrite, --keep."""
    result = parser(description)
    result.add_argument("--run-dir", required=True, help="folder for checkpoints and logs")
    result.add_argument(
        "--overwrite", action="store_true", help="remove what the run folder holds and start anew"
    )
    result.add_argument(
        "--keep",
        action="store_true",
        help="keep every checkpoint as step_<number>.pt too, for tools/learning_curves.py",
    )
    return result
