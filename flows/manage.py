"""Housekeeping by hand: `python -m flows.manage AREA …`; each area is a module of `flows/managing/`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from flows.managing import installation, keys, mailboxes
from flows.managing.output import USAGE
from schemas.settings import SettingsError, load_settings

AREAS = (mailboxes, keys, installation)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.manage", description="Housekeeping by hand.")
    areas = parser.add_subparsers(dest="area", required=True)
    for area in AREAS:
        area.add_arguments(areas)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    try:
        code: int = options.run(options, load_settings())
    except SettingsError as error:
        sys.stderr.write(f"Settings: {error}\n")
        return USAGE
    return code


if __name__ == "__main__":
    raise SystemExit(main())
