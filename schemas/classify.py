"""Find the reason behind a server's reply.

`classify` looks at the text first, then at the enhanced status code (RFC 3463), then at the reply code.
The codes are not enough: Microsoft uses `535 5.7.139` for seven causes with seven remedies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from schemas.reasons import Protocol, Reason, Reply, Stage

# The first match wins, so specific patterns come before general ones: “locked by … security defaults” is not
# a locked account, and “temporary authentication failure” is not a wrong password. Every repetition is
# bounded, because the text is untrusted.
_SENTENCES = [
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in (
        (
            r"(SmtpClientAuth\w{0,20}|SMTP (client )?auth\w{0,20}|authenticated SMTP) (is |has been |was )?"
            r"(disabled|(turned |switched )?off|not enabled) for (the |this |your )?(mailbox|user)",
            Reason.SMTP_AUTH_OFF_MAILBOX,
        ),
        (
            r"(SmtpClientAuth\w{0,20}|SMTP (client )?auth\w{0,20}|authenticated SMTP) (is |has been |was )?"
            r"(disabled|(turned |switched )?off|not enabled)|smtp_auth_disabled",
            Reason.SMTP_AUTH_OFF_TENANT,
        ),
        (r"security defaults?", Reason.SECURITY_DEFAULTS),
        (
            r"(basic|legacy|password|plain)[ -]?(text )?(auth\w{0,20}|sign-?in|log[io]n)s? (for \w{1,20} )?"
            r"((is|are|was|has been|have been) )?((currently|permanently|now) )?"
            r"(disabled|not (supported|allowed|enabled|available|permitted)|blocked|(turned|switched) off"
            r"|no longer|deprecated|retired|removed)"
            r"|no longer (support|accept|allow)\w{0,3} (basic|legacy|password)"
            r"|passwords? (is |are )?no longer (supported|accepted|allowed)|LOGINDISABLED",
            Reason.PASSWORD_SIGN_IN_DISABLED,
        ),
        (r"(not|n't) meet the criteria|conditional access", Reason.CONDITIONAL_ACCESS),
        (r"federat(ed|ion)|\bAD ?FS\b|\bSTS\b|token service", Reason.FEDERATION_UNREACHABLE),
        (
            r"STARTTLS (is )?required|issue (a )?STARTTLS|(TLS|encryption|secure connection) (is )?required"
            r"|TLS 1\.[01]\b|\[PRIVACYREQUIRED\]",
            Reason.STARTTLS_MISSING,
        ),
        (
            r"throttl|back-?off|(rate|bandwidth) limit|try again later from|\[OVERQUOTA\]"
            r"|too many ((bad|failed|invalid|auth|authentication|login) ){0,2}"
            r"(requests|logins?|attempts|failures)",
            Reason.THROTTLED,
        ),
        (
            r"concurrent(_sending| connections?)|(too many|maximum( number of)?) (\w{1,20} )?connections?"
            r"|connections? limit|\[LIMIT\]",
            Reason.TOO_MANY_CONNECTIONS,
        ),
        (
            # “will be locked” is only a warning, and “mailbox has IMAP disabled” is about IMAP.
            r"(account|user|mailbox|identity)\b((?!will |may |IMAP)[^.;]){0,40}\b"
            r"(locked|blocked|disabled|suspended|on hold|held|quarantined|deactivated)"
            r"|account[^.;]{0,20}expired|\[CONTACTADMIN\]"
            r"|(log|sign) ?in (via|with|through|using) (your |a |the )?(web )?browser",
            Reason.ACCOUNT_BLOCKED,
        ),
        (
            r"temporar(y|ily)|try (again )?later|service (is )?(unavailable|not (available|active))"
            r"|server (is )?(busy|unavailable)|\[(UNAVAILABLE|INUSE|SERVERBUG)\]",
            Reason.SERVER_BUSY,
        ),
        (r"\[(AUTHENTICATIONFAILED|EXPIRED)\]", Reason.WRONG_CREDENTIALS),
        (
            r"authenticated but not connected|not enabled for IMAP"
            r"|IMAP4? (access )?(is )?(disabled|(turned )?off\b|not (enabled|allowed))"
            r"|(not|isn't) licensed|no licen[cs]e|licen[cs]e (is )?(missing|expired)",
            Reason.IMAP_OFF,
        ),
        (
            r"(credentials?|password|user ?name|login) (\w{1,20} ){0,4}"
            r"(incorrect|invalid|wrong|bad|not (correct|valid|accepted)|expired|mismatch)"
            r"|(incorrect|invalid|wrong|bad) (\w{1,20} )?(authentication data|credentials?|password|user\b"
            r"|user ?name|login)|app(lication-specific)? password (is )?(required|needed)",
            Reason.WRONG_CREDENTIALS,
        ),
        (
            r"mechanism|unrecogni[sz]ed authentication type|auth(entication)? type"
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
    "5.7.30": Reason.PASSWORD_SIGN_IN_DISABLED,
    "5.7.57": Reason.CLIENT_FAULT,
    "5.7.139": Reason.LOGIN_REFUSED,
}


_CODES = {
    "421": Reason.SERVER_BUSY,
    "432": Reason.TOO_MANY_CONNECTIONS,
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


_ENHANCED_CODE = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])")


CREDENTIALS_REJECTED = {Reason.WRONG_CREDENTIALS, Reason.LOGIN_REFUSED}


def classify(protocol: Protocol, stage: Stage, reply: Reply) -> Reason:
    """Find the reason behind a negative reply.

    Args:
        protocol: The protocol of the reply.
        stage: What the server replied to. Before the login, the reason is never the password.
        reply: A negative reply; never OK or 2xx.

    Returns:
        A reason other than `Reason.OK`.
    """
    temporary = reply.code.startswith("4")
    impossible = set()
    if temporary or stage is not Stage.LOGIN:
        impossible |= CREDENTIALS_REJECTED
    if temporary:  # a temporary lock
        impossible |= {Reason.ACCOUNT_BLOCKED}
    if protocol is Protocol.SMTP:
        impossible |= {Reason.IMAP_OFF}
    fallback = _FALLBACKS.get((protocol, stage), Reason.UNKNOWN_REFUSAL)
    if temporary:
        fallback = Reason.UNKNOWN_DELAY
    return next((reason for reason in _candidates(reply) if reason not in impossible), fallback)


# The reason by stage, when neither the text nor the codes are known.
_FALLBACKS = {
    (Protocol.SMTP, Stage.STARTTLS): Reason.STARTTLS_MISSING,
    (Protocol.IMAP, Stage.STARTTLS): Reason.STARTTLS_MISSING,
    (Protocol.IMAP, Stage.CHECK): Reason.IMAP_OFF,
}


LONGEST_REPLY = 10_000


def _candidates(reply: Reply) -> Iterator[Reason]:
    # A multi-line reply may break its sentences anywhere. Searching megabytes would block all other logins.
    text = " ".join(reply.text[:LONGEST_REPLY].split())
    yield from (reason for pattern, reason in _SENTENCES if pattern.search(text))
    enhanced = _ENHANCED_CODE.search(text)
    if enhanced and enhanced[1] in _ENHANCED_CODES:
        yield _ENHANCED_CODES[enhanced[1]]
    if _BARE_NO.search(text):
        yield Reason.LOGIN_REFUSED
    if reply.code in _CODES:
        yield _CODES[reply.code]
