"""The result of an import: one type for the API's envelope, Prefect's artifact and the printed table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from schemas.envelope import success
from schemas.labels import counted
from schemas.row_reasons import RowError, SkipReason, why_not_imported

if TYPE_CHECKING:
    from schemas.prepare import Prepared

MAX_ERRORS_SHOWN = 50
MAX_ROWS_STORED = 1000  # of the failed and of the repeated rows of an import, each


NOTE = "note"  # the result of a stored line that is no row but has the notes about the file, one a line


class Result(StrEnum):
    """The result of a row."""

    IMPORTED = "imported"
    UPDATED = "updated"
    SKIPPED = "skipped"
    FAILED = "failed"


TAKEN = (Result.IMPORTED, Result.UPDATED)


def results_of(*, update: bool) -> tuple[Result, ...]:
    """The results that an import can have, in the order that they are shown in."""
    return tuple(result for result in Result if update or result is not Result.UPDATED)


class Outcome(NamedTuple):
    """The result of one row.

    Attributes:
        reason: A row error, a warning, why the row was skipped, or "".
        code: The `RowReason` or `SkipReason` of a row that was not imported, or "".
    """

    line: int
    email: str
    result: Result
    reason: str
    code: str = ""

    @property
    def warning(self) -> str:
        """The warning of an imported row, or of a repeated one whose password is lost; "" for none."""
        return self.reason if self.result in TAKEN or self.code == SkipReason.DUPLICATE_DIFFERS else ""

    @property
    def remedy(self) -> str:
        """What the user can do about a row that was not imported, or ""."""
        return why_not_imported(self.line, self.email, self.code)[1] if self.code else ""


class Warned(NamedTuple):
    """A warning about a row, or a note about the file, which has no email."""

    line: int
    email: str | None
    warning: str


class Cause(NamedTuple):
    """A row error, a warning, or why rows were skipped; the number of its rows, and its remedy."""

    reason: str
    rows: int
    remedy: str


@dataclass(frozen=True)
class Summary:
    """The result of every row of one file.

    Attributes:
        file: Name of the file, without its folder.
        outcomes: One for each row, in the order of the file.
        errors: The rows that failed, in the order of the file.
        ignored: Headers of the columns that are not used.
        import_id: Number of the stored import; None if nothing is stored.
        header_line: The line of the header.
        notes: What was not taken as it is, other than single rows.
        update: Whether the import was to replace passwords of stored mailboxes.
    """

    file: str
    workspace: str
    tag: str | None
    outcomes: tuple[Outcome, ...]
    errors: tuple[RowError, ...]
    ignored: tuple[str, ...] = ()
    import_id: int | None = None
    header_line: int = 1
    notes: tuple[str, ...] = ()
    update: bool = False

    @property
    def imported(self) -> int:
        return self._count(Result.IMPORTED)

    @property
    def updated(self) -> int:
        return self._count(Result.UPDATED)

    @property
    def results(self) -> tuple[Result, ...]:
        """The results that the import can have; see `results_of`."""
        return results_of(update=self.update)

    @property
    def skipped(self) -> int:
        return self._count(Result.SKIPPED)

    @property
    def failed(self) -> int:
        return self._count(Result.FAILED)

    def _count(self, result: Result) -> int:
        return sum(outcome.result is result for outcome in self.outcomes)

    def __str__(self) -> str:
        return ", ".join(f"{result} {self._count(result)}" for result in self.results)

    def envelope(self) -> dict[str, Any]:
        """The response of the import API."""
        counts = {result.value: self._count(result) for result in self.results}
        errors = [(error.email, error.message) for error in self.errors[:MAX_ERRORS_SHOWN]]
        return import_envelope(counts, errors, self.warned()[:MAX_ERRORS_SHOWN])

    def causes(self) -> list[Cause]:
        """Why rows were not imported: row errors, then skipped rows, each with the most frequent first."""
        failed = Counter(error.reason for error in self.errors)
        skipped = Counter(SkipReason(o.code) for o in self.outcomes if o.result is Result.SKIPPED)
        return [Cause(reason.message, rows, reason.remedy) for reason, rows in failed.most_common()] + [
            Cause(reason.message, rows, reason.remedy) for reason, rows in skipped.most_common()
        ]

    def warned(self) -> list[Warned]:
        """The notes about the file, then the rows with a warning, in the order of the file."""
        return [Warned(self.header_line, None, note) for note in self.notes] + [
            Warned(o.line, o.email, o.warning) for o in self.outcomes if o.warning
        ]

    def warnings(self) -> list[Cause]:
        """The warnings of imported rows, the most frequent first."""
        found = Counter(
            text for o in self.outcomes if o.result in TAKEN and o.reason for text in o.reason.split("; ")
        )
        return [Cause(reason, rows, "check it in the file") for reason, rows in found.most_common()]

    def markdown(self) -> str:
        """The text of the Prefect artifact, which is created before the connection tests."""
        parts = [
            f"## {markdown_cell(self.file)}: {self}",
            f"Workspace **{markdown_cell(self.workspace)}**"
            + (f", tag **{markdown_cell(self.tag)}**" if self.tag else "")
            + (f", import {self.import_id}" if self.import_id else "")
            + f", {counted(len(self.outcomes), 'row')}.",
            markdown_table(("Rows", "Result"), [(self._count(one), one) for one in self.results]),
        ]
        if causes := self.causes() + self.warnings():
            parts.append(
                markdown_table(
                    ("Rows", "Reason", "What to do"), [(c.rows, c.reason, c.remedy) for c in causes]
                )
            )
        if self.errors:
            parts.append(f"### Failed rows{_first_note(len(self.errors))}")
            rows = [(e.line, e.email, e.message) for e in self.errors[:MAX_ERRORS_SHOWN]]
            parts.append(markdown_table(("Line", "Email", "Error"), rows))
        if warned := self.warned():
            parts.append(f"### Warnings{_first_note(len(warned))}")
            notes = [(w.line, w.email or "", w.warning) for w in warned[:MAX_ERRORS_SHOWN]]
            parts.append(markdown_table(("Line", "Email", "Warning"), notes))
        if self.ignored:
            parts.append(
                "Columns not used: " + ", ".join(f"“{markdown_cell(name)}”" for name in self.ignored)
            )
        return "\n\n".join(parts)


def import_envelope(
    counts: Mapping[str, int], errors: Iterable[tuple[str, str]], warnings: Iterable[Warned]
) -> dict[str, Any]:
    """The response of the import API.

    Args:
        counts: Each result with the number of its rows.
        errors: Email and message of the first 50 failed rows.
        warnings: The first 50 warnings. The response names them only if there are some.
    """
    warned = [one._asdict() for one in warnings]
    listed = [{"email": email, "error": message} for email, message in errors]
    return success({**counts, "errors": listed} | ({"warnings": warned} if warned else {}))


def _first_note(rows: int) -> str:
    return f" (the first {MAX_ERRORS_SHOWN} of {rows})" if rows > MAX_ERRORS_SHOWN else ""


def summarize(
    prepared: Prepared,
    file: str,
    workspace: str,
    tag: str | None,
    new: Collection[str] | None = None,
    import_id: int | None = None,
    stored: Mapping[str, SkipReason | None] | None = None,
) -> Summary:
    """Collect the result of each row.

    Args:
        prepared: The rows of the file.
        file: Name of the file, without its folder.
        new: Email keys of the mailboxes that are new in the workspace; None if nothing is stored.
        import_id: Number of the stored import; None if nothing is stored.
        stored: For an import that updates: email key of a stored mailbox → why it is skipped, or None if it
            is updated.
    """
    outcomes = []
    for line, email, key, warning in prepared.kept.select(
        "line", "email", "email_key", "warning"
    ).iter_rows():
        if new is None or key in new:
            outcomes.append(Outcome(line, email, Result.IMPORTED, warning))
        elif reason := SkipReason.ALREADY_STORED if stored is None else stored.get(key, SkipReason.UNCHANGED):
            outcomes.append(_skipped(line, email, reason))
        else:
            outcomes.append(Outcome(line, email, Result.UPDATED, warning))
    outcomes += [_skipped(row.line, row.email, row.reason) for row in prepared.duplicates]
    outcomes += [Outcome(e.line, e.email, Result.FAILED, e.message, e.reason) for e in prepared.errors]
    return Summary(
        file=file,
        workspace=workspace,
        tag=tag,
        outcomes=tuple(sorted(outcomes)),
        errors=prepared.errors,
        ignored=prepared.ignored,
        import_id=import_id,
        header_line=prepared.header_line,
        notes=prepared.notes,
        update=stored is not None,
    )


def _skipped(line: int, email: str, reason: SkipReason) -> Outcome:
    return Outcome(line, email, Result.SKIPPED, reason.message, reason)


def defused(cell: str) -> str:
    """Prefix a cell that a spreadsheet would run as a formula.

    Source: OWASP, CSV injection.
    """
    return f"'{cell}" if cell.startswith(tuple("=+-@＝＋－＠\t\r\n")) else cell


def markdown_cell(value: object) -> str:
    """Escape a value for a Markdown table cell, so that text from a file or a server cannot become markup."""
    text = " ".join(str(value).split())
    text = re.sub(r"[\\`*_~\[\]|#]|:(?=//)|(?<=www)\.", r"\\\g<0>", text, flags=re.IGNORECASE)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table. The cells of the rows are escaped; the header is not."""
    lines = [list(header)]
    lines += [[markdown_cell(cell) for cell in row] for row in rows]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
