"""The reasons that replies get: Microsoft's, other servers', and invented ones."""

from __future__ import annotations

import base64
import itertools
import time
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.classify import classify
from schemas.diagnosis import diagnose
from schemas.reasons import EXPLANATIONS, Actor, Protocol, Reason, Reply, Stage
from schemas.reply_text import LONGEST_BACKOFF, LONGEST_TEXT, backoff_named, join_lines, one_line
from tests.support.standings import standings_after

TRAILER = "[AM0PR01CA0123.eurprd01.prod.exchangelabs.com 2025-01-26T18:54:30.055Z 08DD3DD7D75D7743]"
CANARY = "Canary-5ecret"

IDENTITY = {
    *(Reason.WRONG_CREDENTIALS, Reason.APP_PASSWORD_REQUIRED),
    *(Reason.LOGIN_REFUSED, Reason.WRONG_OR_PROTOCOL_OFF),
}
BEFORE_LOGIN = [stage for stage in Stage if stage not in (Stage.LOGIN, Stage.CHECK)]

# Stage, whole reply, reason, transient.
Row = tuple[Stage, str, Reason, bool]

SMTP: list[Row] = [
    (
        Stage.LOGIN,
        "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
        Reason.PASSWORD_SIGN_IN_DISABLED,
        False,
    ),
    (
        Stage.LOGIN,
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. "
        "Visit https://aka.ms/smtp_auth_disabled for more information.",
        Reason.SMTP_AUTH_OFF_TENANT,
        False,
    ),
    (
        Stage.LOGIN,
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox. "
        "Visit https://aka.ms/smtp_auth_disabled for more information.",
        Reason.SMTP_AUTH_OFF_MAILBOX,
        False,
    ),
    (
        Stage.LOGIN,
        "535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults "
        "policy. Contact your administrator.",
        Reason.SECURITY_DEFAULTS,
        False,
    ),
    (
        Stage.LOGIN,
        "535 5.7.139 Authentication unsuccessful, the request did not meet the criteria to be authenticated "
        "successfully. Contact your administrator.",
        Reason.CONDITIONAL_ACCESS,
        False,
    ),
    (
        Stage.LOGIN,
        "535 5.7.139 Authentication unsuccessful, the user credentials were incorrect.",
        Reason.WRONG_CREDENTIALS,
        False,
    ),
    (Stage.LOGIN, "535 5.7.3 Authentication unsuccessful", Reason.LOGIN_REFUSED, False),
    (
        Stage.LOGIN,
        "550 5.7.30 Basic authentication is not supported for Client Submission.",
        Reason.PASSWORDS_RETIRED,
        False,
    ),
    (Stage.CHECK, "530 5.7.57 Client not authenticated to send mail.", Reason.CLIENT_FAULT, False),
    (Stage.LOGIN, "451 5.7.3 STARTTLS is required to send mail", Reason.STARTTLS_MISSING, False),
    (
        Stage.LOGIN,
        "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending for more "
        "information.",
        Reason.TOO_MANY_CONNECTIONS,
        True,
    ),
    (Stage.GREETING, "421 4.3.2 Service not available", Reason.SERVER_BUSY, True),
    (Stage.LOGIN, "421 4.3.2 Service not active", Reason.SERVER_BUSY, True),
    (
        Stage.LOGIN,
        "451 4.7.0 Temporary server error. Please try again later. PRX4",
        Reason.SERVER_BUSY,
        True,
    ),
    (Stage.LOGIN, "454 4.7.0 Temporary authentication failure", Reason.SERVER_BUSY, True),
    (
        Stage.LOGIN,
        "451 4.7.500 Server busy. Please try again later from [192.0.2.1].",
        Reason.THROTTLED,
        True,
    ),
]

IMAP: list[Row] = [
    (Stage.LOGIN, "NO Basic authentication is disabled.", Reason.PASSWORDS_RETIRED, False),
    (Stage.LOGIN, "BYE Microsoft Exchange Server IMAP4 server signing off.", Reason.DROPPED, True),
    (
        Stage.CAPABILITY,
        "NO CAPABILITY IMAP4 IMAP4rev1 AUTH=XOAUTH2 LOGINDISABLED SASL-IR",
        Reason.PASSWORDS_RETIRED,
        False,
    ),
    (Stage.LOGIN, "NO LOGIN failed.", Reason.LOGIN_REFUSED, False),
    (Stage.LOGIN, "NO AUTHENTICATE failed.", Reason.LOGIN_REFUSED, False),
    (Stage.CHECK, "BAD User is authenticated but not connected.", Reason.IMAP_OFF, True),
    (Stage.LOGIN, "NO [AUTHENTICATIONFAILED] Authentication failed.", Reason.WRONG_CREDENTIALS, False),
    (Stage.LOGIN, "NO [UNAVAILABLE] Backend is down", Reason.SERVER_BUSY, True),
    (Stage.LOGIN, "NO [LIMIT] No more of you", Reason.TOO_MANY_CONNECTIONS, True),
    (Stage.LOGIN, "NO [INUSE] Come back", Reason.MAILBOX_IN_USE, True),
    (Stage.LOGIN, "NO Server Unavailable. 15", Reason.SERVER_BUSY, True),
]

REWORDED_SMTP: list[Row] = [
    *[
        (Stage.LOGIN, f"535 5.7.139 {text}", Reason.PASSWORD_SIGN_IN_DISABLED, False)
        for text in (
            "Basic Auth has been permanently disabled for this organization",
            "Legacy authentication is no longer supported",
            "Password sign-in was turned off",
            "We no longer support basic authentication",
            "Basic authentication for SMTP is blocked",
            "Passwords are no longer accepted here",
        )
    ],
    (
        Stage.LOGIN,
        "535 5.7.139 SMTP AUTH is disabled for this mailbox",
        Reason.SMTP_AUTH_OFF_MAILBOX,
        False,
    ),
    (Stage.LOGIN, "535 5.7.139 Authenticated SMTP is off for your user", Reason.SMTP_AUTH_OFF_MAILBOX, False),
    (Stage.LOGIN, "535 5.7.139 SMTP client authentication is disabled", Reason.SMTP_AUTH_OFF_TENANT, False),
    (Stage.LOGIN, "535 5.7.139 See https://aka.ms/smtp_auth_disabled", Reason.SMTP_AUTH_OFF_TENANT, False),
    (Stage.LOGIN, "535 5.7.139 Blocked by a security default", Reason.SECURITY_DEFAULTS, False),
    (
        Stage.LOGIN,
        "535 5.7.139 The sign-in doesn't meet the criteria of the user account",
        Reason.CONDITIONAL_ACCESS,
        False,
    ),
    (
        Stage.LOGIN,
        "535 5.7.139 User is blocked by a Conditional Access policy",
        Reason.CONDITIONAL_ACCESS,
        False,
    ),
    (
        Stage.LOGIN,
        "535 5.7.139 The federated identity provider did not answer",
        Reason.FEDERATION_UNREACHABLE,
        True,
    ),
    (Stage.LOGIN, "535 5.7.139 Your account has been locked", Reason.ACCOUNT_BLOCKED, False),
    (Stage.LOGIN, "535 5.7.139 The account is temporarily locked", Reason.TEMPORARILY_LOCKED, True),
    (Stage.LOGIN, "550 5.7.0 User mailbox was suspended by its owner", Reason.ACCOUNT_BLOCKED, False),
    (Stage.LOGIN, "454 4.7.0 Account locked for 15 minutes", Reason.TEMPORARILY_LOCKED, True),
    (
        Stage.LOGIN,
        "535 5.7.139 Wrong password. The account will be locked after three more",
        Reason.WRONG_CREDENTIALS,
        False,
    ),
    (
        Stage.LOGIN,
        "535 5.7.139 The password that was entered is incorrect",
        Reason.WRONG_CREDENTIALS,
        False,
    ),
    (Stage.LOGIN, "535 Invalid user or password!", Reason.WRONG_CREDENTIALS, False),
    (Stage.LOGIN, "535 The user name is not valid", Reason.WRONG_CREDENTIALS, False),
    (Stage.LOGIN, "550 Too many failed login attempts", Reason.THROTTLED_FAILED_LOGINS, True),
    (Stage.LOGIN, "421 Request was throttled. Backoff time 30000 ms", Reason.THROTTLED, True),
    (Stage.GREETING, "421 Too many connections from you", Reason.TOO_MANY_CONNECTIONS, True),
    (Stage.CAPABILITY, "554 Service unavailable", Reason.SERVER_BUSY, True),
    (Stage.LOGIN, "421 4.7.66 TLS 1.0 and 1.1 are not supported", Reason.STARTTLS_MISSING, False),
    (Stage.STARTTLS, "502 5.5.1 What?", Reason.STARTTLS_MISSING, False),
    (Stage.STARTTLS, "454 TLS is not there just now", Reason.SERVER_BUSY, True),
    (
        Stage.LOGIN,
        "530 5.7.0 Must issue a STARTTLS command first\nand then again",
        Reason.STARTTLS_MISSING,
        False,
    ),
    (Stage.LOGIN, "504 5.7.4 Unrecognized\nauthentication type", Reason.MECHANISM_NOT_OFFERED, False),
]

REWORDED_IMAP: list[Row] = [
    (
        Stage.LOGIN,
        "NO Basic authentication was retired, use OAuth",
        Reason.PASSWORDS_RETIRED,
        False,
    ),
    (
        Stage.LOGIN,
        "NO [AUTHENTICATIONFAILED] Basic authentication is blocked",
        Reason.PASSWORDS_RETIRED,
        False,
    ),
    (Stage.LOGIN, "NO [AUTHENTICATIONFAILED] The account is disabled", Reason.ACCOUNT_BLOCKED, False),
    (Stage.LOGIN, "NO [EXPIRED] Change it", Reason.WRONG_CREDENTIALS, False),
    (Stage.LOGIN, "NO [AUTHORIZATIONFAILED] Not for you", Reason.LOGIN_REFUSED, False),
    (Stage.LOGIN, "NO [PRIVACYREQUIRED] Not like this", Reason.STARTTLS_MISSING, False),
    (Stage.LOGIN, "NO [CONTACTADMIN] Ask somebody", Reason.ACCOUNT_BLOCKED, False),
    (Stage.LOGIN, "NO User's mailbox has IMAP disabled", Reason.IMAP_OFF_MAILBOX, False),
    (Stage.CHECK, "NO The mailbox is not licensed", Reason.IMAP_OFF, True),
    (Stage.CHECK, "NO Whatever that is", Reason.IMAP_OFF, True),
    (Stage.CHECK, "NO LOGIN failed.", Reason.IMAP_OFF, True),
    (Stage.GREETING, "BYE Too many connections", Reason.TOO_MANY_CONNECTIONS, True),
    (Stage.GREETING, "BYE Good night", Reason.DROPPED, True),
    (Stage.LOGIN, "BAD Command Argument Error. 11", Reason.UNKNOWN_REFUSAL, False),
]

NEW_SMTP: list[Row] = [
    (
        Stage.LOGIN,
        "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded",
        Reason.TOO_MANY_CONNECTIONS,
        True,
    ),
    (
        Stage.GREETING,
        "421 4.3.2 The maximum number of concurrent server connections has exceeded a per-source limit, "
        "closing transmission channel",
        Reason.TOO_MANY_CONNECTIONS,
        True,
    ),
    (Stage.LOGIN, "421 4.7.0 Too many concurrent SMTP sessions from you", Reason.TOO_MANY_CONNECTIONS, True),
    (Stage.LOGIN, "450 4.7.1 Error: too many AUTH commands from 192.0.2.1", Reason.THROTTLED, True),
    (Stage.GREETING, "421 4.7.0 Connection rate limit exceeded", Reason.THROTTLED, True),
    (Stage.LOGIN, "454 4.7.0 Temporary authentication failure (rate-limit)", Reason.THROTTLED, True),
    (Stage.LOGIN, "535 5.7.0 Too many bad auth attempts.", Reason.THROTTLED_FAILED_LOGINS, True),
    (
        Stage.LOGIN,
        "535 5.7.1 Account temporarily locked, try again in 300 seconds",
        Reason.TEMPORARILY_LOCKED,
        True,
    ),
    (Stage.LOGIN, "535 5.7.1 User locked out for 20 minutes", Reason.TEMPORARILY_LOCKED, True),
    (Stage.LOGIN, "421 4.7.1 Your account is locked", Reason.TEMPORARILY_LOCKED, True),
    (Stage.LOGIN, "535 5.7.8 Account locked for security reasons", Reason.ACCOUNT_BLOCKED, False),
    (Stage.LOGIN, "535 5.7.1 The account is blocked by another policy", Reason.ACCOUNT_BLOCKED, False),
    *(
        (
            Stage.LOGIN,
            f"535 5.7.8 Wrong password. The account will be {locked}",
            Reason.WRONG_CREDENTIALS,
            False,
        )
        for locked in ("temporarily locked", "blocked in 5 minutes", "locked for 2 hours")
    ),
    (Stage.LOGIN, "535 Login fail. Please use your authorization code", Reason.APP_PASSWORD_REQUIRED, False),
    (
        Stage.LOGIN,
        "535 5.7.1 You need to create an application password",
        Reason.APP_PASSWORD_REQUIRED,
        False,
    ),
    (Stage.LOGIN, "535 5.7.8 Incorrect app password", Reason.WRONG_CREDENTIALS, False),
    (Stage.LOGIN, "534 5.7.14 Web login required", Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN, False),
    (
        Stage.LOGIN,
        "535 5.7.139 Blocked by the authentication policy",
        Reason.PASSWORD_SIGN_IN_DISABLED,
        False,
    ),
    (Stage.LOGIN, "535 5.7.8 Invalid login, or SMTP is not enabled", Reason.WRONG_OR_PROTOCOL_OFF, False),
]

NEW_IMAP: list[Row] = [
    (Stage.LOGIN, "NO Invalid credentials or IMAP is disabled", Reason.WRONG_OR_PROTOCOL_OFF, False),
    (Stage.LOGIN, "NO IMAP is turned off or the password is wrong", Reason.WRONG_OR_PROTOCOL_OFF, False),
    (Stage.LOGIN, "NO [ALERT] You are yet to enable IMAP for your account.", Reason.IMAP_OFF_MAILBOX, False),
    (Stage.LOGIN, "NO The mailbox is not licensed", Reason.IMAP_OFF_MAILBOX, False),
    (Stage.LOGIN, "NO [ALERT] IMAP access is disabled for your domain.", Reason.IMAP_OFF_DOMAIN, False),
    (
        Stage.LOGIN,
        "NO [AUTHENTICATIONFAILED] IMAP is disabled by your administrator",
        Reason.IMAP_OFF_DOMAIN,
        False,
    ),
    (Stage.GREETING, "BYE IMAP access disabled", Reason.IMAP_OFF_DOMAIN, False),
    (Stage.CHECK, "NO IMAP access is disabled for your domain.", Reason.IMAP_OFF, True),
    (
        Stage.LOGIN,
        "NO [WEBALERT https://example.com/x] Sign in first",
        Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN,
        False,
    ),
    (Stage.LOGIN, "NO The mailbox is locked by another session", Reason.MAILBOX_IN_USE, True),
    (Stage.LOGIN, "NO [ALERT] Too many sessions", Reason.TOO_MANY_CONNECTIONS, True),
    (
        Stage.LOGIN,
        "NO Plaintext authentication is not allowed on unencrypted connections",
        Reason.STARTTLS_MISSING,
        False,
    ),
]

OTHER_SMTP: list[Row] = [
    (Stage.LOGIN, "535 Incorrect authentication data", Reason.WRONG_CREDENTIALS, False),  # Exim
    (Stage.LOGIN, "435 Unable to authenticate at present", Reason.UNKNOWN_DELAY, True),  # Exim
    (Stage.LOGIN, "503 AUTH command used when not advertised", Reason.MECHANISM_NOT_OFFERED, False),  # Exim
    # Postfix, alone and in Zimbra
    (
        Stage.LOGIN,
        "535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6",
        Reason.WRONG_CREDENTIALS,
        False,
    ),
    (
        Stage.LOGIN,
        "535 5.7.8 Error: authentication failed: authentication failure",
        Reason.WRONG_CREDENTIALS,
        False,
    ),
    (
        Stage.LOGIN,
        "535 5.7.8 Error: authentication failed: no mechanism available",
        Reason.MECHANISM_NOT_OFFERED,
        False,
    ),
    (
        Stage.LOGIN,
        "454 4.7.0 Temporary authentication failure: Connection lost to authentication server",
        Reason.SERVER_BUSY,
        True,
    ),
    (Stage.LOGIN, "503 5.5.1 Error: authentication not enabled", Reason.MECHANISM_NOT_OFFERED, False),
    (
        Stage.LOGIN,
        "538 5.7.11 Encryption required for requested authentication mechanism",
        Reason.STARTTLS_MISSING,
        False,
    ),
    # Gmail
    (
        Stage.LOGIN,
        "535 5.7.8 Username and Password not accepted. For more information, go to\n"
        "5.7.8  https://support.google.com/mail/?p=BadCredentials",
        Reason.WRONG_CREDENTIALS,
        False,
    ),
    (
        Stage.LOGIN,
        "534 5.7.9 Application-specific password required. Learn more at\n5.7.9  https://support.google.com",
        Reason.APP_PASSWORD_REQUIRED,
        False,
    ),
    (
        Stage.LOGIN,
        "534 5.7.14 Please log in via your web browser and then try again.",
        Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN,
        False,
    ),
    (
        Stage.LOGIN,
        "454 4.7.0 Too many login attempts, please try again later.",
        Reason.THROTTLED,
        True,
    ),
]

OTHER_IMAP: list[Row] = [
    # Dovecot
    (Stage.LOGIN, "NO [AUTHENTICATIONFAILED] Authentication failed.", Reason.WRONG_CREDENTIALS, False),
    (Stage.LOGIN, "NO [UNAVAILABLE] Temporary authentication failure.", Reason.SERVER_BUSY, True),
    (
        Stage.LOGIN,
        "NO [LIMIT] Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)",
        Reason.TOO_MANY_CONNECTIONS,
        True,
    ),
    (
        Stage.LOGIN,
        "NO [PRIVACYREQUIRED] Plaintext authentication disallowed on non-secure (SSL/TLS) connections.",
        Reason.STARTTLS_MISSING,
        False,
    ),
    # Gmail
    (Stage.LOGIN, "NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", Reason.WRONG_CREDENTIALS, False),
    (
        Stage.LOGIN,
        "NO [ALERT] Application-specific password required: https://support.google.com (Failure)",
        Reason.APP_PASSWORD_REQUIRED,
        False,
    ),
    (
        Stage.LOGIN,
        "NO [ALERT] Please log in via your web browser: https://support.google.com (Failure)",
        Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN,
        False,
    ),
    (
        Stage.LOGIN,
        "NO [ALERT] Your account is not enabled for IMAP use. Please visit your Gmail settings page",
        Reason.IMAP_OFF_MAILBOX,
        False,
    ),
    (
        Stage.LOGIN,
        "NO [OVERQUOTA] Account exceeded command or bandwidth limits. (Failure)",
        Reason.THROTTLED,
        True,
    ),
    (
        Stage.LOGIN,
        "NO [ALERT] Too many simultaneous connections. (Failure)",
        Reason.TOO_MANY_CONNECTIONS,
        True,
    ),
    # Yahoo, Yandex, Zimbra
    (Stage.LOGIN, "NO [LIMIT] LOGIN Rate limit hit.", Reason.THROTTLED, True),
    (
        Stage.LOGIN,
        "NO [AUTHENTICATIONFAILED] LOGIN invalid credentials or IMAP is disabled",
        Reason.WRONG_OR_PROTOCOL_OFF,
        False,
    ),
    (Stage.LOGIN, "NO LOGIN failed", Reason.LOGIN_REFUSED, False),
]

KNOWN = [
    *((Protocol.SMTP, *row) for row in (*SMTP, *REWORDED_SMTP, *NEW_SMTP, *OTHER_SMTP)),
    *((Protocol.IMAP, *row) for row in (*IMAP, *REWORDED_IMAP, *NEW_IMAP, *OTHER_IMAP)),
]
IDS = [f"{protocol} {stage}: {said[:90]}" for protocol, stage, said, _, _ in KNOWN]


def reply_of(said: str) -> Reply:
    code, _, text = said.partition(" ")
    return Reply(code, text)


@pytest.mark.parametrize(("protocol", "stage", "said", "reason", "transient"), KNOWN, ids=IDS)
def test_known_replies(protocol: Protocol, stage: Stage, said: str, reason: Reason, transient: bool) -> None:
    """A reply gives its reason, with and without the trailer and in any letter case."""
    code, text = reply_of(said)
    for variant in (text, f"{text} {TRAILER}", text.upper(), text.lower(), one_line(text)):
        assert classify(protocol, stage, Reply(code, variant)) is reason
    assert reason.explanation.transient is transient


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("535 5.7.8 Nope", Reason.WRONG_CREDENTIALS),
        ("535 5.7.9 Nope", Reason.MECHANISM_NOT_OFFERED),
        ("535 5.7.13 Nope", Reason.ACCOUNT_BLOCKED),
        ("550 5.7.30 Nope", Reason.PASSWORDS_RETIRED),
        ("535 5.7.139 Nope", Reason.LOGIN_REFUSED),
        ("550 5.2.1 Nope", Reason.ACCOUNT_BLOCKED),
        ("450 4.3.2 Nope", Reason.SERVER_BUSY),
        ("450 4.7.0 Nope", Reason.SERVER_BUSY),
        ("550 5.7.3 Nope", Reason.LOGIN_REFUSED),
        ("550 5.7.8 Nope", Reason.WRONG_CREDENTIALS),
        ("550 5.7.9 Nope", Reason.MECHANISM_NOT_OFFERED),
        ("550 5.7.11 Nope", Reason.STARTTLS_MISSING),
        ("550 5.7.57 Nope", Reason.CLIENT_FAULT),
        ("550 5.7.139 Nope", Reason.LOGIN_REFUSED),
        ("421 4.7.500 Nope", Reason.THROTTLED),
        ("535 5.9.99 Nope", Reason.LOGIN_REFUSED),
        ("535 Nope", Reason.LOGIN_REFUSED),
        ("535", Reason.LOGIN_REFUSED),
        ("535 Version 15.7.8.1 says nope", Reason.LOGIN_REFUSED),
        ("530 Nope", Reason.STARTTLS_MISSING),
        ("534 Nope", Reason.MECHANISM_NOT_OFFERED),
        ("421 Nope", Reason.SERVER_BUSY),
        ("451 Nope", Reason.SERVER_BUSY),
        ("504 Nope", Reason.MECHANISM_NOT_OFFERED),
        ("538 Nope", Reason.STARTTLS_MISSING),
        ("432 Nope", Reason.TOO_MANY_CONNECTIONS),
        ("432 4.3.2 Nope", Reason.TOO_MANY_CONNECTIONS),
        ("454 Nope", Reason.SERVER_BUSY),
        ("450 4.9.9 Nope", Reason.UNKNOWN_DELAY),
        ("599 Nope", Reason.UNKNOWN_REFUSAL),
    ],
)
def test_from_the_sentence_to_the_code(said: str, reason: Reason) -> None:
    """For an unknown sentence the enhanced status code decides, and if that is unknown, the basic code."""
    assert classify(Protocol.SMTP, Stage.LOGIN, reply_of(said)) is reason


def test_sentence_before_code() -> None:
    """The sentence takes priority over the codes, and the enhanced code over the basic one."""
    said = "535 5.7.9 the user credentials were incorrect"
    assert classify(Protocol.SMTP, Stage.LOGIN, reply_of(said)) is Reason.WRONG_CREDENTIALS


ALL_TEXTS = sorted({reply_of(said).text for _, _, said, _, _ in KNOWN})


@pytest.mark.parametrize("code", ["421", "432", "451", "454", "499"])
@pytest.mark.parametrize("protocol", Protocol)
def test_a_temporary_failure_is_not_a_wrong_password(protocol: Protocol, code: str) -> None:
    """A 4xx reply never becomes a verdict on the password or the account, whatever its text."""
    for stage, text in itertools.product(Stage, ALL_TEXTS):
        reason = classify(protocol, stage, Reply(code, text))
        assert reason not in {*IDENTITY, Reason.ACCOUNT_BLOCKED}, text


@pytest.mark.parametrize("stage", [*BEFORE_LOGIN, Stage.CHECK])
@pytest.mark.parametrize("protocol", Protocol)
def test_only_a_login_is_a_wrong_password(protocol: Protocol, stage: Stage) -> None:
    """A reply before or after the login never becomes a wrong password."""
    codes = ("220", "421", "500", "530", "535", "550", "554", "NO", "BAD", "BYE")
    for code, text in itertools.product(codes, ALL_TEXTS):
        assert classify(protocol, stage, Reply(code, text)) not in IDENTITY, text


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.sampled_from(Protocol),
    st.sampled_from(Stage),
    st.one_of(st.sampled_from(["NO", "BAD", "BYE"]), st.integers(400, 599).map(str)),
    st.one_of(st.text(max_size=80), st.sampled_from(ALL_TEXTS)),
)
def test_any_reply_has_a_reason(protocol: Protocol, stage: Stage, code: str, text: str) -> None:
    """Any reply gets a reason, which is never OK, and an SMTP reply never gets an IMAP reason."""
    reason = classify(protocol, stage, Reply(code, text))
    assert reason is not Reason.OK
    assert not (protocol is Protocol.SMTP and reason is Reason.IMAP_OFF)


# What a policy says, and what servers put in front of it.
POLICIES = [
    (Protocol.SMTP, "basic authentication is disabled.", Reason.PASSWORD_SIGN_IN_DISABLED),
    (Protocol.IMAP, "Basic authentication is disabled.", Reason.PASSWORDS_RETIRED),
    (Protocol.SMTP, "Basic authentication is not supported for Client Submission.", Reason.PASSWORDS_RETIRED),
    (Protocol.SMTP, "SmtpClientAuthentication is disabled for the Tenant.", Reason.SMTP_AUTH_OFF_TENANT),
    (Protocol.SMTP, "SmtpClientAuthentication is disabled for the Mailbox.", Reason.SMTP_AUTH_OFF_MAILBOX),
    *(
        (protocol, sentence, reason)
        for protocol in Protocol
        for sentence, reason in (
            ("user is locked by your organization's security defaults policy.", Reason.SECURITY_DEFAULTS),
            ("the request did not meet the criteria to be authenticated.", Reason.CONDITIONAL_ACCESS),
            ("the user account is blocked by the administrator", Reason.ACCOUNT_BLOCKED),
            ("please log in via your web browser", Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN),
            ("account temporarily locked, try again in 60 seconds", Reason.TEMPORARILY_LOCKED),
        )
    ),
    (Protocol.IMAP, "IMAP access is disabled for your domain.", Reason.IMAP_OFF_DOMAIN),
    (Protocol.IMAP, "Your account is not enabled for IMAP use.", Reason.IMAP_OFF_MAILBOX),
]
PREFIXES = ["", "Authentication unsuccessful, ", "Error: authentication failed: ", "Invalid credentials. "]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.sampled_from(POLICIES),
    st.sampled_from(["", "5.7.3 ", "5.7.8 ", "5.7.139 ", "[AUTHENTICATIONFAILED] "]),
    st.sampled_from(PREFIXES),
    st.sets(st.integers(0, 20)),
    st.sampled_from(["", " ", "\t"]),
    st.booleans(),
)
def test_a_policy_is_not_a_wrong_password(
    policy: tuple[Protocol, str, Reason], code: str, prefix: str, breaks: set[int], edge: str, repeats: bool
) -> None:
    """A reply that names a policy has that reason, wherever its lines break and whatever its code says."""
    protocol, sentence, reason = policy
    lines = [code]
    for at, word in enumerate(f"{prefix}{sentence}".split()):
        if at in breaks:
            lines.append(code if repeats and code[:1].isdigit() else "")
        lines[-1] += f"{word} "
    text = join_lines([f"{line.strip()}{edge}" for line in lines])
    basic = "535" if protocol is Protocol.SMTP else "NO"
    assert classify(protocol, Stage.LOGIN, Reply(basic, text)) is reason


@pytest.mark.parametrize("protocol", Protocol)
def test_personal_accounts_have_no_admin(protocol: Protocol) -> None:
    """A policy of a personal account means that Microsoft accepts no passwords, and all else is the same."""
    code = "535" if protocol is Protocol.SMTP else "NO"
    for text in ALL_TEXTS:
        reply = Reply(code, text)
        business = classify(protocol, Stage.LOGIN, reply)
        personal = classify(protocol, Stage.LOGIN, reply, personal=True)
        if business.explanation.actor is Actor.ADMIN and personal is not business:
            assert personal is Reason.PERSONAL_PASSWORDS_RETIRED
        assert personal in (business, Reason.PERSONAL_PASSWORDS_RETIRED)
    disabled = Reply(code, "Basic authentication is disabled.")
    assert classify(protocol, Stage.LOGIN, disabled, personal=True) is Reason.PERSONAL_PASSWORDS_RETIRED


OF_AN_ORGANISATION = {
    *(Reason.PASSWORD_SIGN_IN_DISABLED, Reason.PASSWORDS_RETIRED, Reason.SECURITY_DEFAULTS),
    *(Reason.SMTP_AUTH_OFF_TENANT, Reason.SMTP_AUTH_OFF_MAILBOX, Reason.CONDITIONAL_ACCESS),
}


@pytest.mark.parametrize(("protocol", "sentence", "reason"), POLICIES)
def test_policies_of_a_personal_account(protocol: Protocol, sentence: str, reason: Reason) -> None:
    """What an organisation sets is no reason for a personal account, and what concerns the account is."""
    reply = Reply("535" if protocol is Protocol.SMTP else "NO", sentence)
    expected = Reason.PERSONAL_PASSWORDS_RETIRED if reason in OF_AN_ORGANISATION else reason
    assert classify(protocol, Stage.LOGIN, reply, personal=True) is expected


def test_reply_shows_itself() -> None:
    """A reply is shown as the server sent it."""
    assert str(Reply("535", "5.7.3 No")) == "535 5.7.3 No"
    assert str(Reply("535", "")) == "535"


# --- explanations ----------------------------------------------------


@pytest.mark.parametrize("reason", Reason)
def test_explanations(reason: Reason) -> None:
    """Every reason has a unique title, a meaning and a remedy."""
    explanation = reason.explanation
    assert explanation is EXPLANATIONS[reason]
    assert all((explanation.title, explanation.meaning, explanation.remedy))
    assert not explanation.title.endswith(".")
    assert explanation.meaning.endswith(".")
    assert explanation.remedy.endswith(".")
    assert explanation.attempts is None or explanation.transient
    assert [other for other in Reason if other.explanation.title == explanation.title] == [reason]


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.OK])
def test_consequences(reason: Reason) -> None:
    """What follows from a reason fits together: who acts, whether it passes, and whose doing it is."""
    why = reason.explanation
    assert why.actor is not None
    assert why.transient or why.actor is not Actor.WAIT
    if why.self_made:
        assert (why.actor, why.transient, why.attempts) == (Actor.WAIT, True, None)
    if why.password_refused:
        assert not why.transient
    if why.actor is Actor.NOBODY:
        assert "OAuth" in why.remedy
    assert why.actor is not Actor.ADMIN or "admin" in why.remedy.lower() or reason is Reason.IMAP_OFF


def test_stored_codes_stay_readable() -> None:
    """Every code that an earlier version stored is still a reason."""
    for code in [
        "ok",
        "wrong_credentials",
        "login_refused",
        "password_sign_in_disabled",
        "smtp_auth_off_tenant",
        "smtp_auth_off_mailbox",
        "security_defaults",
        "conditional_access",
        "account_blocked",
        "federation_unreachable",
        "not_at_microsoft",
        "mechanism_not_offered",
        "imap_off",
        "too_many_connections",
        "throttled",
        "server_busy",
        "name_not_found",
        "connection_refused",
        "unreachable",
        "timed_out",
        "dropped",
        "tls_failure",
        "certificate_not_trusted",
        "starttls_missing",
        "protocol_error",
        "client_fault",
        "unknown_refusal",
        "unknown_delay",
    ]:
        assert Reason(code).explanation.title
    assert max(map(len, Reason)) <= 40  # the column of the database


def test_nothing_but_reasons_is_explained() -> None:
    """The table contains the reasons and nothing else."""
    assert list(EXPLANATIONS) == list(Reason)


# --- pauses ----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pause"),
    [
        ("Request is throttled. Suggested Backoff Time: 299999 milliseconds", timedelta(seconds=299.999)),
        ("Back-off time 5,000 ms", timedelta(seconds=5)),
        ("Retry after 10 seconds", timedelta(seconds=10)),
        ("retry-after: 120", timedelta(seconds=120)),
        ("Try again in 15 minutes.", timedelta(minutes=15)),
        ("try again after 2 hrs", timedelta(hours=2)),
        ("try again after 2 hours", timedelta(hours=2)),
        ("Please wait for another 5 min", timedelta(minutes=5)),
        ("wait 1h", timedelta(hours=1)),
        ("wait 1.5 minutes", timedelta(seconds=90)),
        ("wait 90s, then call", timedelta(seconds=90)),
        ("User locked out for 20 minutes", timedelta(minutes=20)),
        ("temporarily locked, try again in 300 seconds", timedelta(seconds=300)),
        ("Account locked for security reasons", None),
        ("Temporary System Problem. Try again later (10).", None),
        ("wait 0", timedelta(0)),
        ("wait 3 days", LONGEST_BACKOFF),
        ("wait 99999999999999999999 hours", LONGEST_BACKOFF),
        ("wait 48 hours", LONGEST_BACKOFF),
        ("Server busy. Please try again later from [192.0.2.1].", None),
        ("Please wait. [192.0.2.1]", None),
        ("Please wait until 10:30", None),
        ("We await 5 things", None),
        ("4.7.500 Server busy", None),
        ("", None),
    ],
)  # fmt: skip
def test_backoff_named(text: str, pause: timedelta | None) -> None:
    """The pause that a reply names is read in its unit and is at most a day."""
    assert backoff_named(text) == pause


# --- texts -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"535 5.7.3 Authentication unsuccessful {TRAILER}", "535 5.7.3 Authentication unsuccessful"),
        (f"5.7.3 No {TRAILER.lower()}", "5.7.3 No"),
        ("5.7.3 No [AM0PR01CA0123.eurprd01.prod.outlook.com]", "5.7.3 No"),
        ("5.7.3 No [BJXPR01CA0056.CHNPR01.prod.partner.outlook.cn]", "5.7.3 No"),
        (
            "5.7.3 No [BJXPR01CA0056.CHNPR01.prod.partner.outlook.cn 2024-01-26T18:54:30.055Z 08DC]",
            "5.7.3 No",
        ),
        ("5.7.3 No [BN0P110CA0001.NAMP110.PROD.OUTLOOK.COM]", "5.7.3 No"),
        ("5.7.3 No [FR2P281CA0001.DEUP281.PROD.OUTLOOK.DE]", "5.7.3 No"),
        ("5.7.3 No [PH1P110CA0012.mail.protection.office365.us]", "5.7.3 No"),
        ("[UNAVAILABLE] No. [mail-7qsr6:2020-06-11 13:56:19]", "[UNAVAILABLE] No."),
        ("Try from [192.0.2.1].", "Try from [192.0.2.1]."),
        ("[AUTHENTICATIONFAILED] No.", "[AUTHENTICATIONFAILED] No."),
        ("a\r\nb\tc\0d\x1b[31me\u202ef\u2028g  h", "a b c d [31me f g h"),
        ("", ""),
        ("x" * LONGEST_TEXT, "x" * LONGEST_TEXT),
        ("x" * 10_000, "x" * (LONGEST_TEXT - 1) + "…"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    """A text becomes one printable line of limited length without the trailer."""
    assert one_line(text) == line


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["5.7.8 Your account has", "5.7.8 been locked"], "5.7.8 Your account has\nbeen locked"),
        (["5.7.9 Application password", "5.7.9  needed"], "5.7.9 Application password\nneeded"),
        (["Your account has", "5.7.8 been locked"], "5.7.8 Your account has\nbeen locked"),
        (["Version 5.7.8 of it", "5.7.80.1 too"], "Version 5.7.8 of it\n5.7.80.1 too"),
        (["5.7.8", "5.7.8"], "5.7.8"),
        ([""], ""),
    ],
)
def test_lines_repeat_their_code(lines: list[str], text: str) -> None:
    """The enhanced status code that each line of a reply repeats is kept once, in front."""
    assert join_lines(lines) == text


SECRET = 'p"a\\ss wörd  x'
PLAIN = base64.b64encode(f"\0ann@example.com\0{SECRET}".encode()).decode()


@pytest.mark.parametrize(
    ("secret", "echo"),
    [
        pytest.param(CANARY, CANARY, id="as it is"),
        pytest.param(SECRET, SECRET, id="with spaces and marks"),
        pytest.param(SECRET, 'p\\"a\\\\ss wörd  x', id="as an IMAP string"),
        pytest.param(CANARY, base64.b64encode(CANARY.encode()).decode(), id="base64"),
        pytest.param(CANARY, base64.b64encode(CANARY.encode()).decode().rstrip("="), id="unpadded"),
    ],
)
def test_no_credentials(secret: str, echo: str) -> None:
    """If a server repeats the password, in any form, it is removed from the text."""
    assert one_line(f"Cannot take <{echo}>, {echo}!", secret) == "Cannot take <…>, …!"


@pytest.mark.parametrize("user", ["a@x.co", "an@x.co", "ann@x.co"])
def test_no_credentials_in_plain(user: str) -> None:
    """A password inside a longer base64 text, as in AUTH PLAIN, is removed as well."""
    blob = base64.b64encode(f"\0{user}\0{CANARY}".encode()).decode()
    line = one_line(f"AUTH PLAIN {blob}", CANARY)
    rest = line.removeprefix("AUTH PLAIN ").rstrip("=").partition("…")
    assert rest[1] == "…"
    head = base64.b64decode(rest[0] + "A" * (-len(rest[0]) % 4))
    assert CANARY[1:] not in head.decode(errors="replace")
    assert len(rest[2]) <= 1


@pytest.mark.parametrize("gap", ["\r\n", "\t ", " [x.outlook.com] "])
def test_no_credentials_in_two_pieces(gap: str) -> None:
    """A password that a server repeats with a removable character instead of a space is still removed."""
    echo = f"{CANARY[:5]}{gap}{CANARY[5:]}"
    assert one_line(f"Cannot take <{echo}>", f"{CANARY[:5]} {CANARY[5:]}") == "Cannot take <…>"


def test_no_trimmed_credentials() -> None:
    """A password that a server trims before repeating it is removed as well."""
    assert one_line("Cannot take <pass word>", " pass  word ") == "Cannot take <…>"


def test_longer_secrets_go_first() -> None:
    """If one secret contains another, both are removed completely."""
    assert one_line("no sesame-open", "sesame", "sesame-open") == "no …"


@pytest.mark.parametrize("secret", ["", "a", "abc"])
def test_short_secrets(secret: str) -> None:
    """A secret of fewer than four characters is not removed, because that would only garble the text."""
    assert one_line("abc is a bad password", secret) == "abc is a bad password"


def test_a_secret_at_the_bound() -> None:
    """A secret that crosses the length limit is removed before the text is cut."""
    assert CANARY[:4] not in one_line("x" * (LONGEST_TEXT - 6) + CANARY, CANARY)


HOSTILE = [
    *("basicauth", "basic ", "SmtpClientAuth", "maximum number of a ", "password a ", "account ", "user a"),
    *("too many bad ", "login ", "[", "[a.", "[a 2025-01-01T", "wait ", "wait 1", "1,", "try again in ", " "),
    *(
        "invalid or imap ",
        "imap is ",
        "bad or ",
        "create an app",
        "locked in ",
        "too many a b ",
        "app password a ",
    ),
    *("5.7.", "4.7.500", "imap4 access ", "not ", "a" * 50 + " ", ".outlook.com", "\n", "no longer accept"),
]


@pytest.mark.parametrize("piece", HOSTILE, ids=repr)
def test_hostile_text(piece: str) -> None:
    """10 kB of hostile text take almost no time."""
    text = (piece * 10_000)[:10_000]
    started = time.process_time()
    for variant in (text, f"[{text}", f"wait {text}!", f"basic {text}", f"account{text}"):
        classify(Protocol.SMTP, Stage.LOGIN, Reply("535", variant))
        backoff_named(variant)
        one_line(variant, CANARY)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("piece", ["account ", "wait ", "too many "])
def test_hostile_reply(piece: str) -> None:
    """A reply as long as a login accepts takes little time, because all other logins wait for it."""
    started = time.process_time()
    classify(Protocol.SMTP, Stage.LOGIN, Reply("535", piece * (3_000_000 // len(piece))))
    assert time.process_time() - started < 0.5


# --- diagnoses -------------------------------------------------------

PAIRS = list(itertools.product([None, *Reason], repeat=2))


def said(reason: Reason) -> str:
    return f"{reason.explanation.heading} {reason.explanation.remedy}"


def test_every_pair_is_one_line() -> None:
    """For any two answers the diagnosis is one line that ends in a full stop."""
    for smtp, imap in PAIRS:
        line = diagnose(standings_after(smtp, imap))
        assert line.endswith(".")
        assert line.isprintable()
        assert 10 < len(line) < 600


def test_password_is_right() -> None:
    """If one protocol accepted the password, the diagnosis says so, and suggests no new app password."""
    for reason in set(Reason) - {Reason.OK}:
        for pair, works in (((Reason.OK, reason), "SMTP"), ((reason, Reason.OK), "IMAP")):
            line = diagnose(standings_after(*pair))
            assert f"{works} accepted the password." in line
            assert "Create a new app password" not in line
            told = reason in {*IDENTITY, Reason.REFUSED_THOUGH_RIGHT}
            assert told == ("although the password is right" in line)


@pytest.mark.parametrize(
    "named",
    [
        Reason.WRONG_CREDENTIALS,
        Reason.PASSWORD_SIGN_IN_DISABLED,
        Reason.SECURITY_DEFAULTS,
        Reason.CONDITIONAL_ACCESS,
        Reason.ACCOUNT_BLOCKED,
        Reason.APP_PASSWORD_REQUIRED,
        Reason.PERSONAL_PASSWORDS_RETIRED,
        Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN,
        Reason.TEMPORARILY_LOCKED,
        Reason.NOT_AT_MICROSOFT,
    ],
)
def test_named_cause_explains_the_bare_no(named: Reason) -> None:
    """A cause in the account explains an unexplained refusal by the other protocol, or a skipped one."""
    bare = Reason.LOGIN_REFUSED
    for smtp, imap in ((named, bare), (bare, named), (named, None), (named, named)):
        assert diagnose(standings_after(smtp, imap)) == said(named)


@pytest.mark.parametrize(
    ("smtp", "imap", "line"),
    [
        (Reason.OK, Reason.OK, "Works: SMTP and IMAP accepted the password."),
        (None, None, "Not fully tested yet."),
        (Reason.OK, None, "SMTP accepted the password. The other protocol is not tested yet."),
        (Reason.OK, Reason.TIMED_OUT, f"SMTP accepted the password. IMAP: {said(Reason.TIMED_OUT)}"),
        (
            Reason.OK,
            Reason.PASSWORDS_RETIRED,
            f"Can only send: SMTP accepted the password. IMAP: {said(Reason.PASSWORDS_RETIRED)}",
        ),
        (
            Reason.LOGIN_REFUSED,
            Reason.OK,
            f"Can only receive: IMAP accepted the password. SMTP: {said(Reason.REFUSED_THOUGH_RIGHT)}",
        ),
        (
            Reason.SMTP_AUTH_OFF_MAILBOX,
            Reason.LOGIN_REFUSED,
            f"SMTP: {said(Reason.SMTP_AUTH_OFF_MAILBOX)} IMAP: {said(Reason.LOGIN_REFUSED)}",
        ),
        (
            Reason.WRONG_CREDENTIALS,
            Reason.PASSWORD_SIGN_IN_DISABLED,
            f"SMTP: {said(Reason.WRONG_CREDENTIALS)} IMAP: {said(Reason.PASSWORD_SIGN_IN_DISABLED)}",
        ),
        (Reason.SERVER_BUSY, Reason.SERVER_BUSY, said(Reason.SERVER_BUSY)),
        (Reason.LOGIN_REFUSED, Reason.LOGIN_REFUSED, said(Reason.LOGIN_REFUSED)),
        (None, Reason.DROPPED, said(Reason.DROPPED)),
    ],
)
def test_diagnoses(smtp: Reason | None, imap: Reason | None, line: str) -> None:
    """If the protocols differ both are named, and if they agree one sentence is enough."""
    assert diagnose(standings_after(smtp, imap)) == line
