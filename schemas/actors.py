"""Who can do something about a mailbox that does not work."""

from __future__ import annotations

from schemas.classify import CREDENTIALS_REJECTED
from schemas.providers import is_personal_domain
from schemas.reasons import EXPLANATIONS, Actor, Protocol, Reason
from schemas.standing import EXPLAIN_BOTH

ACTORS = {reason: why.actor for reason, why in EXPLANATIONS.items() if why.actor}

# Who acts first if the two protocols of a mailbox need different actors, and the order of all lists.
ORDER = (Actor.ADMIN, Actor.OWNER, Actor.UPLOADER, Actor.OPERATOR, Actor.WAIT, Actor.NOBODY)

_OFF = Reason.PASSWORD_SIGN_IN_DISABLED

# Only an organisation has these settings.
_ORGANISATION = {
    _OFF,
    Reason.SMTP_AUTH_OFF_TENANT,
    Reason.SMTP_AUTH_OFF_MAILBOX,
    Reason.SECURITY_DEFAULTS,
    Reason.CONDITIONAL_ACCESS,
}


def is_personal(email: str) -> bool:
    """Whether an address is a personal Microsoft account, such as at outlook.com or hotmail.co.uk."""
    return is_personal_domain(email.rpartition("@")[2].casefold())


def decide_actor(
    smtp: str, imap: str, *, personal: bool = False, exchange_online: bool = False, given_up: bool = False
) -> tuple[Actor, Protocol] | None:
    """Decide who has to act for a mailbox, and which protocol says so.

    Args:
        smtp: The code of SMTP's reason, or "" if SMTP was not tried.
        imap: The code of IMAP's reason, or "" if IMAP was not tried.
        personal: Whether it is a personal Microsoft account, which has no admin.
        exchange_online: Whether IMAP was tried on Exchange Online, which accepts no password over IMAP.
        given_up: Whether no further test is planned.

    Returns:
        The actor and the protocol with the reason for it, or None if neither protocol has a fault.
    """
    codes = {Protocol.SMTP: smtp, Protocol.IMAP: imap}
    reasons = {protocol: Reason(code) for protocol, code in codes.items() if code}
    accepted = Reason.OK in reasons.values()
    explained = bool(EXPLAIN_BOTH & set(reasons.values()))
    found = []
    for protocol, reason in reasons.items():
        if reason is Reason.OK or (reason is Reason.LOGIN_REFUSED and explained):
            continue
        refused = reason in {*CREDENTIALS_REJECTED, Reason.REFUSED_THOUGH_RIGHT}
        if protocol is Protocol.IMAP and exchange_online and ((accepted and refused) or reason is _OFF):
            actor = Actor.NOBODY
        elif refused:
            # If the other protocol accepted the password, it is right.
            actor = Actor.ADMIN if accepted else Actor.OWNER
        else:
            actor = ACTORS[reason]
        if personal and actor is Actor.ADMIN:
            actor = Actor.NOBODY if refused or reason in _ORGANISATION else Actor.OWNER
        if actor is Actor.WAIT and given_up:
            actor = Actor.OPERATOR
        found.append((actor, protocol))
    if personal and (closing := [one for one in found if one[0] is Actor.NOBODY]):
        return closing[0]  # a personal account that refuses passwords refuses them everywhere
    return min(found, key=lambda one: ORDER.index(one[0]), default=None)
