"""One line about a mailbox from what both protocols said."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.classify import REFUSALS_OF_IDENTITY
from schemas.reasons import Reason

# Causes that lie with the account or the organisation: they explain the other protocol's bare no too.
_EXPLAIN_BOTH = {
    Reason.WRONG_CREDENTIALS,
    Reason.PASSWORD_SIGN_IN_DISABLED,
    Reason.SECURITY_DEFAULTS,
    Reason.CONDITIONAL_ACCESS,
    Reason.ACCOUNT_BLOCKED,
}


def diagnose(smtp: Reason | None, imap: Reason | None) -> str:
    """One line on a mailbox from what both protocols said; None stands for a protocol not tried.

    Where one side names a cause that covers both and the other gives a bare no, the named cause speaks.
    Where one side took the password, the password is right, whatever the other says.
    """
    said = {"SMTP": smtp, "IMAP": imap}
    faults = {name: reason for name, reason in said.items() if reason not in (None, Reason.OK)}
    if not faults:
        return "Works: SMTP and IMAP took the password." if smtp and imap else "Not tested to the end yet."
    reasons = [reason for reason in faults.values() if reason]
    if Reason.OK in said.values():
        (other,) = faults
        if reasons[0] in REFUSALS_OF_IDENTITY:
            return (
                f"The password is right, but {other} refuses it: check that {other} is on for the mailbox "
                "and what the sign-in policy says."
            )
        return f"The password is right. {other}: {_sentence(reasons[0])}"
    left = standing(reasons)
    if len(left) == 1 and (len(faults) == 2 or left <= _EXPLAIN_BOTH):
        return _sentence(left.pop())
    return " ".join(f"{name}: {_sentence(reason)}" for name, reason in faults.items() if reason)


def standing(reasons: Iterable[Reason]) -> set[Reason]:
    """The faults that still say something beside each other: a bare no is explained by a cause for both."""
    faults = set(reasons) - {Reason.OK}
    return faults - {Reason.LOGIN_REFUSED} if faults & _EXPLAIN_BOTH else faults


def _sentence(reason: Reason) -> str:
    return f"{reason.explanation.title}. {reason.explanation.remedy}"
