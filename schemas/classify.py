"""Find the reason behind a server's reply.

`classify` looks at the text first, then at the enhanced status code (RFC 3463), then at the reply code.
The codes are not enough: Microsoft uses `535 5.7.139` for seven causes with seven remedies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from schemas.reasons import EXPLANATIONS, Protocol, Reason, Reply, Stage

_OFF = r"(disabled|(turned |switched )?off\b|not (enabled|allowed|active|activated))"
_IMAP = r"IMAP4?( (access|service|protocol|login))?( (is|was|has been))?"
_APP_PASSWORD = r"((app|app?lication)([ -]specific)?[ -]password|parol prilozheniya)"  # noqa: S105  a pattern

# The first match wins, so specific patterns come before general ones: “locked by … security defaults” is not
# a locked account, and “temporary authentication failure” is not a wrong password. Every repetition is
# bounded, because the text is untrusted.
_SENTENCES = [
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in (
        (
            r"(SmtpClientAuth\w{0,20}|SMTP (client )?auth\w{0,20}|authenticated SMTP) (is |has been |was )?"
            rf"{_OFF} for (the |this |your )?(mailbox|user)",
            Reason.SMTP_AUTH_OFF_MAILBOX,
        ),
        (
            r"(SmtpClientAuth\w{0,20}|SMTP (client )?auth\w{0,20}|authenticated SMTP) (is |has been |was )?"
            rf"{_OFF}|smtp_auth_disabled",
            Reason.SMTP_AUTH_OFF_TENANT,
        ),
        (r"security defaults?", Reason.SECURITY_DEFAULTS),
        (
            r"issue (a )?STARTTLS|(TLS|encryption|secure connection) (is )?required"
            r"|TLS 1\.[01]\b|\[PRIVACYREQUIRED\]|without (SSL|TLS|encryption)"
            r"|(non-?secure|insecure|unencrypted) (\([\w/]{1,20}\) )?connection",
            Reason.STARTTLS_MISSING,
        ),
        (r"not supported for client submission", Reason.PASSWORDS_RETIRED),
        (
            r"(basic|legacy|password|plain)[ -]?(text )?(auth\w{0,20}|sign-?in|log[io]n)s? (for \w{1,20} )?"
            r"((is|are|was|has been|have been) )?((currently|permanently|now) )?"
            r"(disabled|not (supported|allowed|enabled|available|permitted)|blocked|(turned|switched) off"
            r"|no longer|deprecated|retired|removed)"
            r"|no longer (support|accept|allow)\w{0,3} (basic|legacy|password)"
            r"|passwords? (is |are )?no longer (supported|accepted|allowed)|LOGINDISABLED"
            r"|authentication policy",
            Reason.PASSWORD_SIGN_IN_DISABLED,
        ),
        (r"(not|n't) meet the criteria|conditional access", Reason.CONDITIONAL_ACCESS),
        (r"federat(ed|ion)|\bAD ?FS\b|\bSTS\b|token service", Reason.FEDERATION_UNREACHABLE),
        (
            r"\[WEBALERT|web (log|sign)-?in (is )?(required|needed)"
            r"|(log|sign) ?in (via|with|through|using|on|at) (your |a |the )?(web )?(browser|web)",
            Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN,
        ),
        (
            rf"(create|use|enter|generate|need\w{{0,3}}|requires?)\b[^.;]{{0,40}}{_APP_PASSWORD}"
            rf"|{_APP_PASSWORD}s? (\w{{1,20}} ){{0,3}}(required|needed|necessary)"
            r"|authori[sz]ation code|InvalidSecondFactor",
            Reason.APP_PASSWORD_REQUIRED,
        ),
        (
            rf"(invalid|incorrect|wrong|bad)\b[^.;]{{0,40}}\bor\b[^.;]{{0,20}}\b(IMAP4?|SMTP)\b[^.;]{{0,20}}{_OFF}"
            rf"|\b(IMAP4?|SMTP)\b[^.;]{{0,20}}{_OFF}[^.;]{{0,20}}\bor\b[^.;]{{0,40}}\b(invalid|incorrect|wrong|bad)",
            Reason.WRONG_OR_PROTOCOL_OFF,
        ),
        (r"authenticated but not connected", Reason.IMAP_OFF),
        (
            rf"IMAP4?\b[^.;]{{0,20}}{_OFF} (for|in|on|by) (your |the |this )?"
            r"(domain|organi[sz]ation|server|tenant|(domain )?admin)",
            Reason.IMAP_OFF_DOMAIN,
        ),
        (
            rf"not enabled for IMAP|{_IMAP} {_OFF}|(yet|have|need) to (enable|activate) IMAP"
            r"|(not|isn't) licensed|no licen[cs]e|licen[cs]e (is )?(missing|expired)",
            Reason.IMAP_OFF_MAILBOX,
        ),
        # Before the login there is no mailbox whose IMAP can be off.
        (rf"{_IMAP} {_OFF}", Reason.IMAP_OFF_DOMAIN),
        (
            r"too many (\w{1,20} ){0,2}(bad|failed|invalid|incorrect|wrong|unsuccessful) "
            r"|too many (\w{1,20} ){0,3}failures",
            Reason.THROTTLED_FAILED_LOGINS,
        ),
        (
            r"throttl|back-?off|(rate|bandwidth)[ -]limit|try again later from|\[OVERQUOTA\]"
            r"|too many ((auth|authentication|SMTP|IMAP) ){0,2}"
            r"(requests|commands|log-?in|sign-?in|attempts|messages)",
            Reason.THROTTLED,
        ),
        (
            r"concurrent(_sending| (\w{1,20} )?(connections?|sessions?))"
            r"|(too many|maximum( number of)?) ((\w{1,20} ){0,2}(connections?|sessions)|connected)"
            r"|connections? limit|thread limit|per-source (connection )?limit|\[LIMIT\]",
            Reason.TOO_MANY_CONNECTIONS,
        ),
        (
            r"\[INUSE\]|\b(locked|used|opened|in use) by (another|a different)"
            r"|(mailbox|account|maildrop) (is )?(already )?(in use|locked by a (session|client|process))",
            Reason.MAILBOX_IN_USE,
        ),
        (
            r"(?<!be )temporar(y|ily) (\w{1,20} )?(locked|lock-?out|blocked|suspended|disabled)"
            r"|(?<!be )\b(locked|blocked|lock-?out)( out)?"
            r"( temporarily|[^.;]{0,40} (for|in|after) (a few |some |\d{1,6} ?)(s|m|h)[a-z]{2,})",
            Reason.TEMPORARILY_LOCKED,
        ),
        (
            # “will be locked” is only a warning, and “mailbox has IMAP disabled” is about IMAP.
            r"(account|user|mailbox|identity)\b((?!will |may |IMAP)[^.;]){0,40}\b"
            r"(locked|blocked|disabled|suspended|on hold|held|quarantined|deactivated)"
            r"|account[^.;]{0,20}expired|\[CONTACTADMIN\]",
            Reason.ACCOUNT_BLOCKED,
        ),
        (
            r"(?<!be )temporar(y|ily)|try (again )?later|service (is )?(unavailable|not (available|active))"
            r"|server (is )?(busy|unavailable)|\[(UNAVAILABLE|SERVERBUG)\]",
            Reason.SERVER_BUSY,
        ),
        (r"\[(AUTHENTICATIONFAILED|EXPIRED)\]", Reason.WRONG_CREDENTIALS),
        (
            r"(credentials?|password|user ?name|login) (\w{1,20} ){0,4}"
            r"(incorrect|invalid|wrong|bad|not (correct|valid|accepted)|expired|mismatch)"
            r"|(incorrect|invalid|wrong|bad) (\w{1,20} )?(authentication data|credentials?|password|user\b"
            r"|user ?name|login)",
            Reason.WRONG_CREDENTIALS,
        ),
        (
            r"mechanism|auth(entication)? type"
            r"|auth(entication)? (is )?not (enabled|available|supported)|not advertised",
            Reason.MECHANISM_NOT_OFFERED,
        ),
        (r"not authenticated|authentication (is )?required", Reason.CLIENT_FAULT),
    )
]


# A rejection without a cause. The code may still name one (`535 5.7.8 authentication failed`).
_BARE_NO = re.compile(
    r"(LOGIN|AUTHENTICATE) failed|authentication (unsuccessful|failed|failure)|\[AUTHORIZATIONFAILED\]",
    re.IGNORECASE,
)


# Sources: RFC 4954 section 6, RFC 5248, RFC 3463, Microsoft's list of SMTP replies.
_ENHANCED_CODES = {
    "4.3.2": Reason.SERVER_BUSY,
    "4.7.500": Reason.THROTTLED,
    "4.7.0": Reason.SERVER_BUSY,
    "5.2.1": Reason.ACCOUNT_BLOCKED,
    "5.7.3": Reason.LOGIN_REFUSED,
    "5.7.8": Reason.WRONG_CREDENTIALS,
    "5.7.9": Reason.MECHANISM_NOT_OFFERED,
    "5.7.11": Reason.STARTTLS_MISSING,
    "5.7.13": Reason.ACCOUNT_BLOCKED,
    "5.7.30": Reason.PASSWORDS_RETIRED,
    "5.7.57": Reason.CLIENT_FAULT,
    "5.7.139": Reason.LOGIN_REFUSED,
}


# 432 has one meaning; the enhanced status codes that Microsoft sends with it have several.
_SPECIFIC_CODES = {"432": Reason.TOO_MANY_CONNECTIONS}


_CODES = {
    "421": Reason.SERVER_BUSY,
    "451": Reason.SERVER_BUSY,
    "454": Reason.SERVER_BUSY,
    "504": Reason.MECHANISM_NOT_OFFERED,
    "530": Reason.STARTTLS_MISSING,
    "534": Reason.MECHANISM_NOT_OFFERED,
    "535": Reason.LOGIN_REFUSED,
    "538": Reason.STARTTLS_MISSING,
    "NO": Reason.LOGIN_REFUSED,
    "BYE": Reason.DROPPED,
}


_ENHANCED_CODE = re.compile(r"(?<![\d.])[245]\.\d{1,3}\.\d{1,3}(?![\d.])")


CREDENTIALS_REJECTED = {reason for reason, why in EXPLANATIONS.items() if why.password_refused}

# Reasons that the server checked the password and found it wrong. A second login would only count as a
# second failure.
WRONG_PASSWORD = {Reason.WRONG_CREDENTIALS, Reason.APP_PASSWORD_REQUIRED}

# What an organisation's admin can change. A personal account has no admin.
_BY_ORGANISATION = {
    Reason.PASSWORD_SIGN_IN_DISABLED,
    Reason.PASSWORDS_RETIRED,
    Reason.SMTP_AUTH_OFF_TENANT,
    Reason.SMTP_AUTH_OFF_MAILBOX,
    Reason.SECURITY_DEFAULTS,
    Reason.CONDITIONAL_ACCESS,
}


def classify(protocol: Protocol, stage: Stage, reply: Reply, *, personal: bool = False) -> Reason:
    """Find the reason behind a negative reply.

    Args:
        protocol: The protocol of the reply.
        stage: What the server replied to. Before the login, the reason is never the password.
        reply: A negative reply; never OK or 2xx.
        personal: Whether the mailbox is a personal account at Microsoft, which no admin manages.

    Returns:
        A reason other than `Reason.OK`.
    """
    impossible = _impossible(protocol, stage, temporary=reply.code.startswith("4"))
    reason = next((reason for reason in _candidates(protocol, reply) if reason not in impossible), None)
    if reason is None:
        return _fallback(protocol, stage, reply)
    return Reason.PERSONAL_PASSWORDS_RETIRED if personal and reason in _BY_ORGANISATION else reason


def _impossible(protocol: Protocol, stage: Stage, *, temporary: bool) -> set[Reason]:
    """The reasons that a reply cannot have at this stage, whatever its text."""
    impossible = set()
    if temporary or stage is not Stage.LOGIN:
        impossible |= CREDENTIALS_REJECTED
    if temporary:
        impossible |= {Reason.ACCOUNT_BLOCKED}
    if protocol is Protocol.SMTP:
        impossible |= {Reason.IMAP_OFF, Reason.IMAP_OFF_MAILBOX, Reason.IMAP_OFF_DOMAIN}
    elif stage is Stage.CHECK:  # the login was accepted: Reason.IMAP_OFF says so
        impossible |= {Reason.IMAP_OFF_MAILBOX, Reason.IMAP_OFF_DOMAIN}
    elif stage is not Stage.LOGIN:
        impossible |= {Reason.IMAP_OFF, Reason.IMAP_OFF_MAILBOX}
    return impossible


def _fallback(protocol: Protocol, stage: Stage, reply: Reply) -> Reason:
    """The reason by stage, when neither the text nor the codes are known."""
    if reply.code.startswith("4"):
        return Reason.UNKNOWN_DELAY
    if stage is Stage.STARTTLS:
        return Reason.STARTTLS_MISSING
    return Reason.IMAP_OFF if (protocol, stage) == (Protocol.IMAP, Stage.CHECK) else Reason.UNKNOWN_REFUSAL


LONGEST_REPLY = 10_000


def _candidates(protocol: Protocol, reply: Reply) -> Iterator[Reason]:
    # A multi-line reply may break its sentences anywhere. Searching megabytes would block all other logins.
    text = " ".join(reply.text[:LONGEST_REPLY].split())
    for pattern, reason in _SENTENCES:
        if pattern.search(text):
            yield _as_told(protocol, reply, reason)
    if reply.code in _SPECIFIC_CODES:
        yield _SPECIFIC_CODES[reply.code]
    enhanced = _ENHANCED_CODE.search(text)
    if enhanced and enhanced[0] in _ENHANCED_CODES:
        yield _ENHANCED_CODES[enhanced[0]]
    if _BARE_NO.search(text):
        yield Reason.LOGIN_REFUSED
    if reply.code in _CODES:
        yield _CODES[reply.code]


def _as_told(protocol: Protocol, reply: Reply, reason: Reason) -> Reason:
    """What a sentence means in this reply."""
    if reason is Reason.PASSWORD_SIGN_IN_DISABLED and protocol is Protocol.IMAP:
        return Reason.PASSWORDS_RETIRED  # unlike SMTP AUTH, no admin can allow it again
    if reason is Reason.ACCOUNT_BLOCKED and reply.code.startswith("4"):
        return Reason.TEMPORARILY_LOCKED
    return reason
