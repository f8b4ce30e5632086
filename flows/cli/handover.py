"""What follows from a past import, as files: `imports report` and `imports handover`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.exit_codes import DONE, REFUSED
from flows.cli.options import ImportId, Workspace
from flows.cli.output import cell, no_such_import, tell, wrong_usage
from flows.cli.selection import Selection
from schemas.handover import handover, zipped
from schemas.handover.readme import README
from schemas.labels import DEFAULT_WORKSPACE, counted
from schemas.outcomes import who_has_to_act
from tasks.configuration import load_settings
from tasks.files.private_files import write_folder, write_privately
from tasks.files.report_file import SUFFIXES, refuse_report, write_report_file
from tasks.hints import command
from tasks.storage.database import database
from tasks.storage.mailboxes import Filters
from tasks.storage.outcomes import find_outcomes

EVERY = Selection()


def write_report(
    import_id: ImportId,
    /,
    *,
    to: Annotated[Path, Parameter(help="The file: .csv, .xlsx or .html. Overwrites only a report.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> int:
    """Write a report of an import as it is now: a table, a workbook or a page to print."""
    if to.suffix not in SUFFIXES:
        return wrong_usage(f"The report's name must end in {', '.join(SUFFIXES)}.")
    try:
        if refusal := refuse_report(to, None):
            tell(f"{refusal.message}.")
            return REFUSED
        with database(load_settings()) as opened:
            found = find_outcomes(opened, workspace, import_id)
        if found is None:
            return no_such_import(import_id, workspace)
        write_report_file(to, *found)
    except OSError as error:
        return wrong_usage(f"{cell(to)} cannot be written: {error.strerror}.")
    print(f"Wrote {cell(to)}.")  # noqa: T201
    return DONE


def write_handover(
    import_id: ImportId,
    /,
    *,
    to: Annotated[Path | None, Parameter(help="The folder, which must be new or empty.")] = None,
    zip_: Annotated[Path | None, Parameter(name="--zip", help="A ZIP file instead of a folder.")] = None,
    selection: Selection = EVERY,
) -> int:
    """Write what each person needs who has to act: scripts for admins, letters, lists to fill in."""
    if (to is None) == (zip_ is None):
        return wrong_usage("Name a folder with --to, or a ZIP file with --zip.")
    filters = None if selection.filters == Filters() else selection.filters
    with database(load_settings()) as opened:
        found = find_outcomes(opened, selection.workspace, import_id, filters)
    if found is None:
        return no_such_import(import_id, selection.workspace)
    files = handover(*found, program=command())
    place = to or zip_
    assert place is not None  # noqa: S101  one of them was given
    try:
        if place.exists() and (zip_ or not place.is_dir() or any(place.iterdir())):
            return wrong_usage(f"{cell(place)} exists and was left as it is: name another place.")
        if zip_:
            write_privately(zip_, zipped(files))
        else:
            write_folder(place, files)
    except OSError as error:
        return wrong_usage(f"{cell(place)} cannot be written: {error.strerror}.")
    print(f"Wrote {counted(len(files), 'file')} to {cell(place)}. Begin with {README}.")  # noqa: T201
    if act := who_has_to_act(found[1]):
        print(f"{act}.")  # noqa: T201
    return DONE
