"""What is known about a mailbox after these answers, for tests without a server."""

from __future__ import annotations

from schemas.reasons import Protocol, Reason
from schemas.standing import NOTHING_KNOWN, Answered, Standing, settle


def standings_after(
    smtp: Reason | None, imap: Reason | None, attempts: int = 0, most: int = 5
) -> dict[Protocol, Standing]:
    """The standings after one test with these reasons; None for a protocol that was not asked.

    Args:
        attempts: How many attempts each protocol had before.
    """
    before = {protocol: one._replace(attempts=attempts) for protocol, one in NOTHING_KNOWN.items()}
    said = {Protocol.SMTP: smtp, Protocol.IMAP: imap}
    answers = [Answered(protocol, reason, None, True) for protocol, reason in said.items() if reason]
    return settle(before, answers, most)
