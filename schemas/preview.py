"""What a report says about an import that is only checked."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.outcomes import Document, Outcome
from schemas.summary import Summary


def preview(summary: Summary) -> tuple[Document, list[Outcome]]:
    """The rows of a file with the results that they would have. No mailbox has a status."""
    document = Document(
        import_id=summary.import_id or 0,
        file=summary.file,
        workspace=summary.workspace,
        tag=summary.tag,
        created_at=datetime.now(UTC),
        imported=summary.imported,
        updated=summary.updated,
        skipped=summary.skipped,
        failed=summary.failed,
        notes=tuple((summary.header_line, note) for note in summary.notes),
    )
    outcomes = [
        Outcome(one.line, one.email, None, one.result, one.code, one.reason, one.remedy)
        if one.code
        else Outcome(one.line, one.email, None, one.result, warning=one.reason)
        for one in summary.outcomes
    ]
    return document, outcomes
