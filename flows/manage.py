"""Housekeeping by hand: `python -m flows.manage AREA …`; each area is a module of `flows/managing/`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from flows.managing import doctor, imports, installation, keys, mailboxes, template, totp
from flows.managing.output import BROKEN_OFF, NOTHING_FOUND, USAGE
from schemas.settings import SettingsError, load_settings
from tasks.crash import leave_no_core_file
from tasks.database import DATABASE_FAULTS, cause_of

AREAS = (mailboxes, imports, template, totp, keys, installation, doctor)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.manage",
        description="Housekeeping by hand.",
        epilog="Exit codes: 0 done, 1 nothing found or not all of it, 2 wrong usage or settings, "
        "3 the database failed.",
    )
    areas = parser.add_subparsers(dest="area", required=True)
    for area in AREAS:
        area.add_arguments(areas)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    leave_no_core_file()
    try:
        if options.area == "doctor":  # it says itself what is wrong with the settings
            code: int = doctor.examine(options)
        else:
            code = options.run(options, load_settings())
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOTHING_FOUND
    except SettingsError as error:
        sys.stderr.write(f"Settings: {error}\n")
        return USAGE
    except DATABASE_FAULTS as error:
        sys.stderr.write(f"The database failed: {cause_of(error)}. What was said to be done is done.\n")
        return BROKEN_OFF
    return code


if __name__ == "__main__":
    raise SystemExit(main())
