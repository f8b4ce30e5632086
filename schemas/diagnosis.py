"""The diagnosis of a mailbox: what it can do, why not more, and what to do about it, in one line."""

from __future__ import annotations

from schemas.reasons import Protocol, Reason
from schemas.standing import MailboxStatus, Needs, Standings, State, reasons_of, status_of


def diagnose(standings: Standings, needs: Needs = Needs.BOTH) -> str:
    """Describe a mailbox in one line: one or more sentences.

    Args:
        standings: What is known about each protocol.
        needs: What the mailbox is needed for. The other protocol is not mentioned.
    """
    wanted = {protocol: standings[protocol] for protocol in needs.protocols}
    accepted = [protocol.upper() for protocol, one in wanted.items() if one.state is State.ACCEPTED]
    status = status_of(standings, needs)
    if status is MailboxStatus.ACTIVE:
        return f"Works: {' and '.join(accepted)} accepted the password."
    why = _why(wanted, reasons_of(standings, needs))
    if status is MailboxStatus.PARTIAL:
        can = "send" if Protocol.SMTP.upper() in accepted else "receive"
        return f"Can only {can}: {accepted[0]} accepted the password. {why}"
    if accepted:
        return f"{accepted[0]} accepted the password. {why or 'The other protocol is not tested yet.'}"
    return why or "Not fully tested yet."


def _why(wanted: Standings, reasons: set[Reason]) -> str:
    """The reasons with their remedies. One that holds for all that was asked stands without a protocol."""
    faults = {protocol: one.reason for protocol, one in wanted.items() if one.reason}
    asked = [one for one in wanted.values() if one.state is not State.UNTESTED]
    if len(reasons) == 1 and len(faults) == len(asked):
        (reason,) = reasons
        return _sentence(reason)
    return " ".join(f"{protocol.upper()}: {_sentence(reason)}" for protocol, reason in faults.items())


def _sentence(reason: Reason) -> str:
    return f"{reason.explanation.heading} {reason.explanation.remedy}"
