"""Past imports: `imports list|show|errors`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.table import Column, Table

from flows.cli.exit_codes import DONE, NOTHING_FOUND
from flows.cli.options import Csv, ImportId, Json, Limit, Workspace
from flows.cli.output import (
    cell,
    no_such_import,
    one_of,
    plain_table,
    print_json,
    print_list,
    print_rows,
    tell,
    tell_hidden,
    terminal,
)
from flows.cli.selection import why_nothing
from schemas.labels import DEFAULT_WORKSPACE, counted
from schemas.outcomes import who_has_to_act
from schemas.reasons import Reason
from schemas.responses import Import, ImportSummary, StoredRow
from schemas.row_reasons import RowReason
from tasks.configuration import load_settings
from tasks.hints import command
from tasks.storage.database import database
from tasks.storage.imports import (
    FAILED_ROWS,
    WARNED_ROWS,
    RowFilters,
    count_imports,
    count_reasons,
    count_row_errors,
    find_import,
    find_imports,
    find_rows,
)
from tasks.storage.mailboxes import Filters
from tasks.storage.outcomes import find_outcomes

COLUMNS = (
    *("id", "created_at", "file", "tag", "rows", "imported", "skipped", "failed"),
    *("mailboxes", "tested", "active", "mailboxes_failed", "pending"),
)
ERROR_COLUMNS = ("line", "email", "error", "code")
WARNING_COLUMNS = ("line", "email", "warning")


def list_imports(
    *, workspace: Workspace = DEFAULT_WORKSPACE, limit: Limit = 50, csv: Csv = False, json: Json = False
) -> int:
    """List imports, newest first."""
    if (code := one_of(as_csv=csv, as_json=json)) is not None:
        return code
    with database(load_settings()) as opened:
        imports = find_imports(opened, workspace, limit)
        total = count_imports(opened, workspace)
        nothing = "" if imports else why_nothing(opened, workspace)
    if json or csv:
        records = [one.model_dump(mode="json") for one in imports]
        print_list(records if json else [_row(one) for one in imports], COLUMNS, as_csv=csv, as_json=json)
    elif nothing:
        tell(nothing)
    elif sys.stdout.isatty():
        terminal().print(_stacked(imports))
    else:
        print_rows([_row(one) for one in imports], COLUMNS)
    tell_hidden(len(imports), total)
    return DONE if imports else NOTHING_FOUND


def _row(one: ImportSummary) -> dict[str, object]:
    progress = one.progress.model_dump()
    return {
        **progress,
        "mailboxes_failed": progress["failed"],
        **one.model_dump(exclude={"progress"}),
        "rows": rows_of(one),
    }


def rows_of(one: ImportSummary) -> int:
    return one.imported + one.updated + one.skipped + one.failed


def _stacked(imports: Sequence[ImportSummary]) -> Table:
    """Two lines for each import: what became of its rows, and of its mailboxes."""
    table = plain_table(
        Column("id", justify="right"),
        Column("file\ntime (UTC)", overflow="fold"),
        Column("tag", overflow="fold"),
        "rows\nmailboxes",
    )
    for one in imports:
        table.add_row(
            str(one.id),
            f"{cell(one.file)}\n{cell(one.created_at)}",
            cell(one.tag),
            f"{_rows(one)}\n{_mailboxes(one)}",
        )
    return table


def _rows(one: ImportSummary) -> str:
    updated = f"{one.updated} updated, " if one.updated else ""
    rest = f"{updated}{one.skipped} skipped, {one.failed} failed"
    return f"{counted(rows_of(one), 'row')}: {one.imported} imported, {rest}"


def _mailboxes(one: ImportSummary) -> str:
    """The state of an import's mailboxes; those deleted or imported again since are not counted."""
    progress = one.progress
    if not progress.mailboxes:
        return "no mailbox"
    states = {name: getattr(progress, name) for name in ("active", "partial", "failed", "pending")}
    found = ", ".join(f"{count} {name}" for name, count in states.items() if count)
    return f"{progress.tested} of {progress.mailboxes} tested: {found}"


def show_import(
    import_id: ImportId, /, *, workspace: Workspace = DEFAULT_WORKSPACE, json: Json = False
) -> int:
    """Show the result of an import, why its mailboxes do not work, and what to do."""
    with database(load_settings()) as opened:
        found = find_import(opened, workspace, import_id, 0, 0)
        if found is None:
            return no_such_import(import_id, workspace)
        reasons = count_reasons(opened, workspace, Filters(import_id=found.id))
        faults = count_row_errors(opened, found.id)
        outcomes = find_outcomes(opened, workspace, found.id)
    act = who_has_to_act(outcomes[1]) if outcomes else ""
    if json:
        print_json(
            found.model_dump(mode="json", exclude={"errors", "next_cursor"})
            | {"reasons": [_reason(reason, count) for reason, count in reasons]}
            | {"row_errors": [_fault(reason, count) for reason, count in faults]}
            | {"who_has_to_act": act}
        )
        return DONE
    out, elsewhere = terminal(), () if workspace == DEFAULT_WORKSPACE else ("--workspace", workspace)
    out.print(f"Import {found.id}: {cell(found.file)}", style="bold")
    out.print(f"{cell(found.created_at)} UTC, tag {cell(found.tag) or '–'}, workspace {workspace}")
    out.print(f"{_rows(found)}\n{_mailboxes(found)}")
    if act:
        out.print(f"{act}.", style="bold")
    if reasons:
        out.print()
        out.print(_causes("Mailboxes", [(count, *_words(reason)) for reason, count in reasons]))
        listing = command("mailboxes", "list", "--import", found.id, *elsewhere, "--reason", reasons[0][0])
        out.print(f"Which ones, by reason:\n  {listing}", soft_wrap=True)
    if faults:
        out.print()
        out.print(_causes("Rows", [(count, reason.message, "", reason.remedy) for reason, count in faults]))
        if found.errors_stored < found.failed:
            out.print(_first_errors(found))
        out.print(f"Which ones:\n  {command('imports', 'errors', found.id, *elsewhere)}", soft_wrap=True)
    return DONE


def _words(reason: Reason) -> tuple[str, str, str]:
    return reason.explanation.title, reason.value, reason.explanation.remedy


def _reason(reason: Reason, count: int) -> dict[str, object]:
    why = reason.explanation
    return {
        "reason": reason,
        "mailboxes": count,
        "title": why.title,
        "meaning": why.meaning,
        "remedy": why.remedy,
    }


def _fault(reason: RowReason, count: int) -> dict[str, object]:
    return {"reason": reason, "rows": count, "error": reason.message, "remedy": reason.remedy}


def _causes(what: str, rows: Iterable[tuple[int, str, str, str]]) -> Table:
    """Reasons, how many they hold for, and what to do about each; the code, if any, below the title."""
    # Narrow enough to leave room for the names of an admin's commands, which want to be copied.
    reason = Column("Reason, code", max_width=30)
    table = plain_table(Column(what, justify="right"), reason, Column("What to do", overflow="fold"))
    for count, title, code, remedy in rows:
        table.add_row(str(count), f"{title}\n{code}".strip(), remedy)
    return table


def list_errors(
    import_id: ImportId,
    /,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    csv_: Csv = False,
    json: Json = False,
) -> int:
    """List the rows of an import that failed, by line."""
    found = _print_stored(import_id, workspace, FAILED_ROWS, ERROR_COLUMNS, as_csv=csv_, as_json=json)
    if isinstance(found, int):
        return found
    one, rows = found
    if one.failed and not rows:
        tell(f"{counted(one.failed, 'row')} failed; the errors are no longer kept.")
    elif not rows:
        tell("No row failed.")
    elif len(rows) < one.failed:
        tell(_first_errors(one))
    return DONE


def list_warnings(
    import_id: ImportId,
    /,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    csv_: Csv = False,
    json: Json = False,
) -> int:
    """List the warnings of an import, by line."""
    found = _print_stored(import_id, workspace, WARNED_ROWS, WARNING_COLUMNS, as_csv=csv_, as_json=json)
    if isinstance(found, int):
        return found
    if not found[1]:
        tell("No warning is stored.")
    return DONE


def _print_stored(
    import_id: int,
    workspace: str,
    filters: RowFilters,
    columns: Sequence[str],
    *,
    as_csv: bool,
    as_json: bool,
) -> int | tuple[Import, list[StoredRow]]:
    """Print rows of an import; returns an exit code if there is nothing to print from."""
    if (code := one_of(as_csv=as_csv, as_json=as_json)) is not None:
        return code
    with database(load_settings()) as opened:
        found = find_import(opened, workspace, import_id, 0, 0)
        if found is None:
            return no_such_import(import_id, workspace)
        stored = find_rows(opened, found.id, filters)
    shown = {"line", "email", "warning", "code"}
    rows = [{"error": row.message, **row.model_dump(include=shown)} for row in stored]
    records = [{column: row[column] for column in columns} for row in rows]
    if not print_list(records, columns, as_csv=as_csv, as_json=as_json) and rows:
        print_rows(rows, columns[:3])
    return found, stored


def _first_errors(found: Import) -> str:
    first = f"These are the first {found.errors_stored:,} of {found.failed:,} failed rows"
    return f"{first}; the others are not stored."
