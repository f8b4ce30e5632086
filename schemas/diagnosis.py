"""The diagnosis of a mailbox: one line from the reasons of both protocols."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.classify import CREDENTIALS_REJECTED
from schemas.reasons import Reason

# Reasons about the account or the organisation. They also explain why the other protocol rejects the login.
_EXPLAIN_BOTH = {
    Reason.WRONG_CREDENTIALS,
    Reason.APP_PASSWORD_REQUIRED,
    Reason.PASSWORD_SIGN_IN_DISABLED,
    Reason.PERSONAL_PASSWORDS_RETIRED,
    Reason.SECURITY_DEFAULTS,
    Reason.CONDITIONAL_ACCESS,
    Reason.ACCOUNT_BLOCKED,
    Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN,
    Reason.TEMPORARILY_LOCKED,
    Reason.NOT_AT_MICROSOFT,
}


def diagnose(smtp: Reason | None, imap: Reason | None) -> str:
    """Describe a mailbox in one line.

    If one protocol gives a reason that covers both and the other gives none, the line uses the given reason.
    If one protocol accepted the password, the password is right, even if the other rejects it.

    Args:
        smtp: The reason of the SMTP probe; None if SMTP was not tried.
        imap: The reason of the IMAP probe; None if IMAP was not tried.

    Returns:
        One or more sentences: what is wrong and what to do about it.
    """
    said = {"SMTP": smtp, "IMAP": imap}
    faults = {name: reason for name, reason in said.items() if reason not in (None, Reason.OK)}
    if not faults:
        return "Works: SMTP and IMAP accepted the password." if smtp and imap else "Not fully tested yet."
    reasons = [reason for reason in faults.values() if reason]
    if Reason.OK in said.values():
        (other,) = faults
        if reasons[0] in CREDENTIALS_REJECTED:
            return (
                f"The password is right, but {other} rejects it: check that {other} is on for the mailbox "
                "and that the sign-in policy allows it."
            )
        return f"The password is right. {other}: {_sentence(reasons[0])}"
    left = unexplained(reasons)
    if len(left) == 1 and (len(faults) == 2 or left <= _EXPLAIN_BOTH):
        return _sentence(left.pop())
    return " ".join(f"{name}: {_sentence(reason)}" for name, reason in faults.items() if reason)


def unexplained(reasons: Iterable[Reason]) -> set[Reason]:
    """The reasons that no other reason explains.

    Args:
        reasons: The reasons of both protocols of one mailbox.

    Returns:
        The reasons without `Reason.OK`, and without `Reason.LOGIN_REFUSED` if another reason covers both
        protocols.
    """
    faults = set(reasons) - {Reason.OK}
    return faults - {Reason.LOGIN_REFUSED} if faults & _EXPLAIN_BOTH else faults


def _sentence(reason: Reason) -> str:
    return f"{reason.explanation.heading} {reason.explanation.remedy}"
