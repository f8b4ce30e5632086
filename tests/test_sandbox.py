"""The Outlook stand-in, tested from outside with smtplib, imaplib and plain sockets."""

import asyncio
import base64
import csv
import imaplib
import json
import os
import select
import shlex
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from sandbox.outlook import Outlook, running
from sandbox.script import (
    AFTER_LOGIN,
    MAILBOX_STAGES,
    REPLIES,
    SERVER_FAULTS,
    SERVER_STAGES,
    Account,
    Protocol,
    ScriptError,
    ServerFaults,
    mailbox_play,
    read_accounts,
    read_servers,
    server_play,
)
from sandbox.wire import DRIP_INTERVAL, OVERLONG

ADDRESS = "anna@outlook.com"
PASSWORD = "abcdefghijklmnop"
ODD = "größe, \"{7}\" \\ 'ñ'"
GOOD = {ADDRESS: Account(PASSWORD)}
PROTOCOLS: tuple[Protocol, ...] = ("smtp", "imap")
SAMPLE = Path(__file__).parent.parent / "data" / "samples" / "sandbox.csv"
# Long enough for a slow machine; a healthy server answers much sooner.
PATIENCE = 5.0

Start = Callable[..., Outlook]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def start(ca: trustme.CA, tmp_path: Path) -> Iterator[Start]:
    """Start servers with these mailboxes, by default one good one; all of them stop when the test ends."""
    with ExitStack() as stack:

        def run(
            mailboxes: Mapping[str, Account] = GOOD,
            server: ServerFaults | None = None,
            delay: float = 0.0,
        ) -> Outlook:
            return stack.enter_context(running(mailboxes, server=server, delay=delay, ca=ca, folder=tmp_path))

        yield run


class Client:
    """A plain connection that sends what the test says and reads the reply."""

    def __init__(self, outlook: Outlook, protocol: Protocol) -> None:
        port = outlook.smtp_port if protocol == "smtp" else outlook.imap_port
        self.tls = ssl.create_default_context(cafile=outlook.ca_file)
        self.socket: socket.socket = socket.create_connection(("localhost", port), PATIENCE)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def secure(self) -> None:
        # By default, Python hides a connection that ends without TLS's close_notify.
        self.socket = self.tls.wrap_socket(
            self.socket, server_hostname="localhost", suppress_ragged_eofs=False
        )

    def read(self, wanted: int) -> bytes:
        """This many bytes; OSError if the connection ends first."""
        found = b""
        while len(found) < wanted:
            more = self.socket.recv(wanted - len(found))
            if not more:
                raise ConnectionError("the end")
            found += more
        return found

    def line(self) -> str:
        """One line; OSError if the connection ends first."""
        found = b""
        while not found.endswith(b"\n"):
            found += self.read(1)
        return found.decode("utf-8", "replace").rstrip("\r\n")

    def ended(self) -> bool:
        """Whether the connection ends next, cleanly or not."""
        try:
            self.line()
        except (ConnectionError, ssl.SSLError):
            return True
        return False

    def smtp(self, command: str | None = None) -> str:
        """Send a command line if there is one, and read the reply, its lines joined with `|`."""
        if command is not None:
            self.say(command)
        lines = [self.line()]
        while lines[-1][3:4] == "-":
            lines.append(self.line())
        return "|".join(lines)

    def imap(self, command: str) -> str:
        """Send a command with the tag `a`, and read up to its tagged reply or a `+`, joined with `|`."""
        self.say(f"a {command}")
        return self.imap_reply()

    def imap_reply(self) -> str:
        lines = [self.line()]
        while lines[-1].startswith("* "):
            lines.append(self.line())
        return "|".join(lines)

    def say(self, line: str) -> None:
        self.socket.sendall(f"{line}\r\n".encode())


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@contextmanager
def smtp_session(outlook: Outlook) -> Iterator[Client]:
    """An SMTP connection just after the EHLO inside TLS."""
    with before_tls(outlook, "smtp") as client:
        client.secure()
        client.smtp("EHLO client")
        yield client


@contextmanager
def before_tls(outlook: Outlook, protocol: Protocol) -> Iterator[Client]:
    """A connection that starts the TLS handshake next."""
    with Client(outlook, protocol) as client:
        if protocol == "smtp":
            client.smtp()
            client.smtp("EHLO client")
            client.smtp("STARTTLS")
        yield client


@contextmanager
def imap_session(outlook: Outlook) -> Iterator[Client]:
    """An IMAP connection just after the greeting."""
    with Client(outlook, "imap") as client:
        client.secure()
        client.line()
        yield client


def smtp_login(client: Client, address: str = ADDRESS, password: str = PASSWORD) -> str:
    client.smtp("AUTH LOGIN")
    client.smtp(b64(address))
    return client.smtp(b64(password))


@contextmanager
def at_login(outlook: Outlook, protocol: Protocol) -> Iterator[Client]:
    """A connection that has just sent the correct credentials and read nothing since."""
    with (smtp_session if protocol == "smtp" else imap_session)(outlook) as client:
        if protocol == "smtp":
            client.smtp(f"AUTH LOGIN {b64(ADDRESS)}")
            client.say(b64(PASSWORD))
        else:
            client.say(f"a LOGIN {ADDRESS} {PASSWORD}")
        yield client


def account(protocol: Protocol, behaviour: str) -> dict[str, Account]:
    return {ADDRESS: Account(PASSWORD, **{protocol: behaviour})}


def faults(protocol: Protocol, fault: str) -> ServerFaults:
    return ServerFaults(smtp=fault) if protocol == "smtp" else ServerFaults(imap=fault)


def silent(client: Client, seconds: float = 0.3) -> bool:
    return not select.select([client.socket], [], [], seconds)[0]


# The correct conversation.


def test_smtp_offers_auth_only_after_starttls(start: Start) -> None:
    """The banner and the EHLO lines are Exchange Online's: STARTTLS first, then AUTH instead."""
    with Client(start(), "smtp") as client:
        assert client.smtp().startswith(
            "220 AM3PR05CA0094.outlook.office365.com Microsoft ESMTP MAIL Service"
        )
        plain = client.smtp("EHLO client").split("|")
        assert client.smtp("STARTTLS") == "220 2.0.0 SMTP server ready"
        client.secure()
        encrypted = client.smtp("EHLO client").split("|")
    assert plain[1:] == [
        "250-SIZE 157286400",
        "250-PIPELINING",
        "250-DSN",
        "250-ENHANCEDSTATUSCODES",
        "250-STARTTLS",
        "250-8BITMIME",
        "250-BINARYMIME",
        "250-CHUNKING",
        "250 SMTPUTF8",
    ]
    assert encrypted == [*plain[:5], "250-AUTH LOGIN XOAUTH2", *plain[6:]]


@pytest.mark.parametrize("initial_response", [True, False])
def test_smtplib_logs_in(start: Start, initial_response: bool) -> None:
    """The standard library logs in with AUTH LOGIN, with and without an initial response."""
    outlook = start()
    with smtplib.SMTP("localhost", outlook.smtp_port, timeout=PATIENCE) as smtp:
        smtp.starttls(context=ssl.create_default_context(cafile=outlook.ca_file))
        smtp.ehlo()
        smtp.user, smtp.password = ADDRESS.upper(), PASSWORD
        reply = smtp.auth("LOGIN", smtp.auth_login, initial_response_ok=initial_response)
    assert reply == (235, b"2.7.0 Authentication successful")


def test_imaplib_logs_in(start: Start) -> None:
    """The standard library logs in, lists, and logs out."""
    outlook = start({ADDRESS: Account(ODD)})
    context = ssl.create_default_context(cafile=outlook.ca_file)
    with imaplib.IMAP4_SSL("localhost", outlook.imap_port, ssl_context=context, timeout=PATIENCE) as client:
        assert client.welcome.startswith(b"* OK The Microsoft Exchange IMAP4 service is ready. [")
        assert client.authenticate("PLAIN", lambda _: f"\0{ADDRESS}\0{ODD}".encode())[0] == "OK"
        assert client.namespace() == ("OK", [b'(("" "/")) NIL NIL'])
        assert client.list() == ("OK", [rb'(\Marked \HasNoChildren) "/" INBOX'])
        assert client.noop()[0] == "OK"
    assert outlook.seen.passwords["imap", ADDRESS] == ODD.encode()


def test_imap_capabilities(start: Start) -> None:
    """The capabilities are those from the years when LOGIN worked."""
    with imap_session(start()) as client:
        assert client.imap("CAPABILITY") == (
            "* CAPABILITY IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS ID UNSELECT CHILDREN IDLE "
            "NAMESPACE LITERAL+|a OK CAPABILITY completed."
        )


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@pytest.mark.parametrize(
    "parts",
    [
        [f"LOGIN {ADDRESS} {quoted(ODD)}"],
        [f"LOGIN {quoted(ADDRESS)} {{{len(ODD.encode())}}}", ODD],
        [f"LOGIN {{{len(ADDRESS)}}}", f"{ADDRESS} {{{len(ODD.encode())}}}", ODD],
        [f"LOGIN {{{len(ADDRESS)}+}}\r\n{ADDRESS} {{{len(ODD.encode())}+}}\r\n{ODD}"],
        [f"AUTHENTICATE PLAIN {b64(f'{chr(0)}{ADDRESS}{chr(0)}{ODD}')}"],
        ["AUTHENTICATE PLAIN", b64(f"\0{ADDRESS}\0{ODD}")],
    ],
)
def test_imap_login_forms(start: Start, parts: list[str]) -> None:
    """Quoted strings, both literals and AUTHENTICATE PLAIN all carry a password byte for byte."""
    outlook = start({ADDRESS: Account(ODD)})
    with imap_session(outlook) as client:
        reply = client.imap(parts[0])
        for part in parts[1:]:
            assert reply.startswith("+ ")
            client.say(part)
            reply = client.imap_reply()
    assert reply.startswith("a OK ")
    assert outlook.seen.passwords["imap", ADDRESS] == ODD.encode()


@pytest.mark.parametrize("initial_response", [True, False])
def test_auth_plain_where_offered(start: Start, initial_response: bool) -> None:
    """A server set to offer PLAIN instead accepts it, and no longer accepts LOGIN."""
    message = b64(f"\0{ADDRESS}\0{PASSWORD}")
    with smtp_session(start(server=ServerFaults(smtp_auth="PLAIN"))) as client:
        assert client.smtp("AUTH LOGIN").startswith("504 5.7.4 ")
        if initial_response:
            assert client.smtp(f"AUTH PLAIN {message}").startswith("235 ")
        else:
            assert client.smtp("AUTH PLAIN") == "334 "
            assert client.smtp(message).startswith("235 ")


def test_imap_capabilities_can_be_chosen(start: Start) -> None:
    """A server can be set to other capabilities, and obeys LOGINDISABLED among them."""
    with imap_session(start(server=ServerFaults(imap_capabilities="IMAP4rev1 LOGINDISABLED"))) as client:
        assert client.imap("CAPABILITY").startswith("* CAPABILITY IMAP4rev1 LOGINDISABLED|")
        assert client.imap(f"LOGIN {ADDRESS} {PASSWORD}").startswith("a NO ")


def test_each_reply_can_be_delayed(start: Start) -> None:
    """The server waits for the set delay before each reply: here the banner and the reply to NOOP."""
    with Client(start(delay=0.1), "smtp") as client:
        began = time.monotonic()
        client.smtp()
        client.smtp("NOOP")
    assert 0.2 <= time.monotonic() - began < 1


# Refusals.


@pytest.mark.parametrize(
    ("address", "password"), [(ADDRESS, "wrong"), (ADDRESS, ""), ("nobody@outlook.com", PASSWORD)]
)
def test_wrong_credentials(start: Start, address: str, password: str) -> None:
    """A wrong password and an unknown mailbox get the same reply, over both protocols."""
    outlook = start()
    with smtp_session(outlook) as client:
        assert smtp_login(client, address, password) == (
            "535 5.7.139 Authentication unsuccessful, the user credentials were incorrect. "
            "[AM0PR01CA0123.eurprd01.prod.exchangelabs.com 2026-01-26T18:54:30.055Z 08DD3DD7D75D7743]"
        )
        assert client.smtp("MAIL FROM:<a@example.com>").startswith("530 5.7.57 ")
    with imap_session(outlook) as client:
        assert client.imap(f"LOGIN {address} {quoted(password)}") == "a NO LOGIN failed."
        message = b64(f"\0{address}\0{password}")
        assert client.imap(f"AUTHENTICATE PLAIN {message}") == "a NO AUTHENTICATE failed."
        assert client.imap("NAMESPACE") == "a BAD Command received in Invalid state."


def test_smtp_states(start: Start) -> None:
    """AUTH needs TLS and a second EHLO, MAIL needs AUTH, and no mail is accepted even then."""
    with Client(start(), "smtp") as client:
        client.smtp()
        assert client.smtp("MAIL FROM:<a@example.com>").startswith("503 5.5.2 ")
        client.smtp("EHLO client")
        assert client.smtp("AUTH LOGIN") == "451 5.7.3 STARTTLS is required to send mail"
        client.smtp("STARTTLS")
        client.secure()
        assert client.smtp("AUTH LOGIN").startswith("503 5.5.2 ")
        client.smtp("EHLO client")
        assert client.smtp("STARTTLS").startswith("502 ")
        assert client.smtp("MAIL FROM:<a@example.com>").startswith("530 5.7.57 Client not authenticated")
        assert smtp_login(client).startswith("235 ")
        assert client.smtp("MAIL FROM:<a@example.com>").startswith("554 ")
        assert client.smtp("AUTH LOGIN").startswith("503 ")
        assert client.smtp("RSET").startswith("250 ")
        assert client.smtp("VRFY x").startswith("500 ")
        assert client.smtp("QUIT") == "221 2.0.0 Service closing transmission channel"
        assert client.ended()


def test_smtp_authentication_can_be_cancelled(start: Start) -> None:
    """`*` cancels, invalid input is refused, and a login is still possible after both."""
    with smtp_session(start()) as client:
        client.smtp("AUTH LOGIN")
        assert client.smtp("*").startswith("501 ")
        client.smtp("AUTH LOGIN")
        assert client.smtp("no base64!").startswith("501 ")
        assert client.smtp("AUTH XOAUTH2 dXNlcj1h").startswith("535 5.7.3 ")
        assert smtp_login(client).startswith("235 ")


@pytest.mark.parametrize(
    "command",
    [
        "LOGIN",
        f"LOGIN {ADDRESS}",
        f"LOGIN {ADDRESS} a b",
        f'LOGIN {ADDRESS} "open',
        f"LOGIN {ADDRESS} näh",
        f"LOGIN {ADDRESS} a\\b",
        "AUTHENTICATE PLAIN %%%",
        "AUTHENTICATE PLAIN bm8gTlVM",
        "NONSENSE",
    ],
)
def test_imap_refuses_bad_grammar(start: Start, command: str) -> None:
    """A command that breaks the grammar of RFC 3501 gets BAD, and the conversation continues."""
    outlook = start()
    with imap_session(outlook) as client:
        assert client.imap(command).startswith("a BAD ")
        assert client.imap("NOOP") == "a OK NOOP completed."
    assert outlook.seen.passwords_received == 0


def test_imap_authentication_can_be_cancelled(start: Start) -> None:
    """`*` cancels AUTHENTICATE, and an access token is always refused."""
    with imap_session(start()) as client:
        client.imap("AUTHENTICATE PLAIN")
        client.say("*")
        assert client.imap_reply() == "a BAD AUTHENTICATE cancelled."
        assert client.imap("AUTHENTICATE XOAUTH2 dXNlcj1h") == "a NO AUTHENTICATE failed."


# Behaviours of one mailbox.


@pytest.mark.parametrize(("name", "text"), REPLIES["smtp"].items())
@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
def test_smtp_catalogue(start: Start, name: str, text: str, password: str) -> None:
    """A named behaviour sends its text, whatever the password, and 421 ends the connection."""
    with smtp_session(start(account("smtp", name))) as client:
        assert smtp_login(client, password=password) == text
        if text.startswith("421"):
            assert client.ended()
        else:
            assert client.smtp("QUIT").startswith("221 ")


@pytest.mark.parametrize(("name", "text"), REPLIES["imap"].items())
@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
def test_imap_catalogue(start: Start, name: str, text: str, password: str) -> None:
    """A named behaviour sends its text, whatever the password, and BYE ends the connection."""
    with imap_session(start(account("imap", name))) as client:
        client.say(f"a LOGIN {ADDRESS} {password}")
        for line in text.split("|"):
            assert client.line() == (line if line.startswith("*") else f"a {line}")
        if name in AFTER_LOGIN["imap"]:
            assert client.imap("NAMESPACE") == f"a {AFTER_LOGIN['imap'][name]}"
        if "* BYE" in text:
            assert client.ended()
        else:
            assert client.imap("LOGOUT").endswith("a OK LOGOUT completed.")


def test_literal_replies(start: Start) -> None:
    """A behaviour that is not a name is sent as it is, line by line; 235 and OK accept any password."""
    outlook = start(
        {
            ADDRESS: Account(PASSWORD, "599-5.9.9 Größe|599 5.9.9 zählt", "NO [X] nein|* BYE aus"),
            "b@x.org": Account("b", "235 2.0.0 In", "OK in"),
        }
    )
    with smtp_session(outlook) as client:
        assert smtp_login(client) == "599-5.9.9 Größe|599 5.9.9 zählt"
        assert smtp_login(client, "b@x.org", "?") == "235 2.0.0 In"
    with imap_session(outlook) as client:
        assert client.imap("LOGIN b@x.org ?") == "a OK in"
        assert client.imap("LIST").endswith("OK LIST completed.")
    with imap_session(outlook) as client:
        assert client.imap(f"LOGIN {ADDRESS} x") == "a NO [X] nein"
        assert client.line() == "* BYE aus"


def test_a_slow_refusal(start: Start) -> None:
    """slow:SECONDS+NAME sends the text that much later, and nothing before."""
    with at_login(start(account("smtp", "slow:0.5+wrong-credentials")), "smtp") as client:
        began = time.monotonic()
        assert "credentials were incorrect" in client.smtp()
    assert 0.4 < time.monotonic() - began < 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestMailboxFaults:
    """What each fault does to a login with correct credentials."""

    def test_hang(self, start: Start, protocol: Protocol) -> None:
        """hang:auth never answers."""
        with at_login(start(account(protocol, "hang:auth")), protocol) as client:
            assert silent(client)

    def test_drip(self, start: Start, protocol: Protocol) -> None:
        """drip:auth sends the reply a byte at a time."""
        with at_login(start(account(protocol, "drip:auth")), protocol) as client:
            began = time.monotonic()
            assert client.read(3) in (b"235", b"a O")
        assert time.monotonic() - began > 2 * DRIP_INTERVAL - 0.1

    def test_drop(self, start: Start, protocol: Protocol) -> None:
        """drop:auth ends the connection without TLS's close_notify."""
        with (
            at_login(start(account(protocol, "drop:auth")), protocol) as client,
            pytest.raises(ssl.SSLEOFError),
        ):
            client.socket.recv(1)

    def test_reset(self, start: Start, protocol: Protocol) -> None:
        """reset:auth ends it with a RST."""
        with at_login(start(account(protocol, "reset:auth")), protocol) as client:
            assert not silent(client, PATIENCE)
            # Below TLS, because Python 3.11 raises the same SSLEOFError for a FIN and a RST.
            with pytest.raises(ConnectionResetError):
                os.read(client.socket.fileno(), 1)

    def test_garbage(self, start: Start, protocol: Protocol) -> None:
        """garbage:auth sends a line that is not a reply."""
        with at_login(start(account(protocol, "garbage:auth")), protocol) as client:
            assert client.read(2) == b"\xff\xfe"
            assert client.line()

    def test_overlong(self, start: Start, protocol: Protocol) -> None:
        """overlong:auth sends the reply as a line of 1 MiB."""
        with at_login(start(account(protocol, "overlong:auth")), protocol) as client:
            line = client.read(OVERLONG + 2)
        assert line.startswith((b"235 2.7.0 ", b"a OK "))
        assert line.endswith(b"xx\r\n")
        assert line.count(b"\n") == 1

    def test_after(self, start: Start, protocol: Protocol) -> None:
        """drop:after lets the login succeed and fails the next command."""
        with at_login(start(account(protocol, "drop:after")), protocol) as client:
            assert client.line().startswith(("235 ", "a OK "))
            client.say("QUIT" if protocol == "smtp" else "a NAMESPACE")
            assert client.ended()

    def test_wrong_password(self, start: Start, protocol: Protocol) -> None:
        """A fault after the login does not happen with a wrong password."""
        outlook = start({ADDRESS: Account("other", "drop:after", "drop:after")})
        with at_login(outlook, protocol) as client:
            assert client.line().startswith(("535 5.7.139", "a NO LOGIN failed."))


@pytest.mark.parametrize("initial_response", [True, False])
def test_fault_after_the_user_name(start: Start, initial_response: bool) -> None:
    """drop:user ends the connection before it asks for the password."""
    outlook = start(account("smtp", "drop:user"))
    with smtp_session(outlook) as client:
        if not initial_response:
            client.smtp("AUTH LOGIN")
        client.say(b64(ADDRESS) if not initial_response else f"AUTH LOGIN {b64(ADDRESS)}")
        assert client.ended()
    assert outlook.seen.passwords_received == 0


# Faults of a whole server.

# A whole conversation: the stages of `SERVER_STAGES` except `connect`, which a client cannot observe.
STEPS: dict[Protocol, dict[str, str]] = {
    "smtp": {
        "greeting": "",
        "ehlo": "EHLO client",
        "starttls": "STARTTLS",
        "tls": "EHLO client",
        "user": f"AUTH LOGIN {b64(ADDRESS)}",
        "auth": b64(PASSWORD),
        "after": "QUIT",
    },
    "imap": {
        "tls": "",
        "greeting": "",
        "capability": "a CAPABILITY",
        "auth": f"a LOGIN {ADDRESS} {PASSWORD}",
        "after": "a NAMESPACE",
    },
}


def stages_passed(outlook: Outlook, protocol: Protocol) -> list[str]:
    """Run the whole conversation; return the stages that were answered before it ended."""
    passed: list[str] = []
    # Even connecting fails if the RST is fast.
    with suppress(OSError), Client(outlook, protocol) as client:
        for stage, command in STEPS[protocol].items():
            if stage == "tls":
                client.secure()
            if command:
                client.say(command)
            if protocol == "smtp":
                client.smtp()
            elif command:
                client.imap_reply()
            elif stage == "greeting":
                client.line()
            passed.append(stage)
    return passed


@pytest.mark.parametrize(
    ("protocol", "stage"), [(protocol, stage) for protocol in PROTOCOLS for stage in SERVER_STAGES[protocol]]
)
@pytest.mark.parametrize("fault", ["drop", "reset"])
def test_server_faults_happen_at_their_stage(
    start: Start, protocol: Protocol, stage: str, fault: str
) -> None:
    """Every stage before the fault succeeds, and every stage after it fails."""
    outlook = start(server=faults(protocol, f"{fault}:{stage}"))
    steps = list(STEPS[protocol])
    expected = [] if stage == "connect" else steps[: steps.index(stage)]
    assert stages_passed(outlook, protocol) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_sound_server_passes_all_stages(start: Start, protocol: Protocol) -> None:
    """Without a fault the same conversation succeeds."""
    assert stages_passed(start(), protocol) == list(STEPS[protocol])


@pytest.mark.parametrize("stage", ["connect", "greeting"])
def test_hanging_before_the_greeting(start: Start, stage: str) -> None:
    """hang:connect and hang:greeting send nothing at all."""
    with Client(start(server=ServerFaults(smtp=f"hang:{stage}")), "smtp") as client:
        assert silent(client)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_hang_in_the_handshake(start: Start, protocol: Protocol) -> None:
    """hang:tls accepts the ClientHello and never answers it."""
    with before_tls(start(server=faults(protocol, "hang:tls")), protocol) as client:
        client.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.secure()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_drip_in_the_handshake(start: Start, protocol: Protocol) -> None:
    """drip:tls keeps the handshake open with the header of a TLS record and more headers after it."""
    with before_tls(start(server=faults(protocol, "drip:tls")), protocol) as client:
        client.say("ClientHello")
        assert client.read(3) == b"\x16\x03\x03"


@pytest.mark.parametrize("fault", ["garbage", "overlong"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nonsense_in_the_handshake(start: Start, protocol: Protocol, fault: str) -> None:
    """A client does not accept garbage:tls and overlong:tls as TLS."""
    with (
        before_tls(start(server=faults(protocol, f"{fault}:tls")), protocol) as client,
        pytest.raises(ssl.SSLError),
    ):
        client.secure()


@pytest.mark.parametrize(
    ("protocol", "fault"),
    [("smtp", "garbage:connect"), ("smtp", "garbage:greeting"), ("imap", "garbage:connect")],
)
def test_garbage_first(start: Start, protocol: Protocol, fault: str) -> None:
    """The first bytes of a connection can be garbage."""
    with Client(start(server=faults(protocol, fault)), protocol) as client:
        assert client.read(2) == b"\xff\xfe"


@pytest.mark.parametrize(
    ("fault", "code"),
    # X509_V_ERR_…: HOSTNAME_MISMATCH, CERT_HAS_EXPIRED, DEPTH_ZERO_SELF_SIGNED_CERT
    [("wrong-name", 62), ("expired", 10), ("self-signed", 18)],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bad_certificates(start: Start, protocol: Protocol, fault: str, code: int) -> None:
    """Each bad certificate fails a client's check for its own reason."""
    with (
        before_tls(start(server=faults(protocol, fault)), protocol) as client,
        pytest.raises(ssl.SSLCertVerificationError) as caught,
    ):
        client.secure()
    assert caught.value.verify_code == code


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_old_tls(start: Start, protocol: Protocol) -> None:
    """old-tls ends the handshake because there is no common version."""
    with (
        before_tls(start(server=faults(protocol, "old-tls")), protocol) as client,
        pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
    ):
        client.secure()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_certificate_is_good_for_the_address(start: Start, protocol: Protocol) -> None:
    """The good certificate also covers 127.0.0.1."""
    with before_tls(start(), protocol) as client:
        client.tls.wrap_socket(client.socket, server_hostname="127.0.0.1").close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refused(start: Start, protocol: Protocol) -> None:
    """Nothing listens on the port of a refused server, and the other server still runs."""
    outlook = start(server=faults(protocol, "refused"))
    with pytest.raises(ConnectionRefusedError):
        Client(outlook, protocol)
    Client(outlook, "imap" if protocol == "smtp" else "smtp").__exit__()


@pytest.mark.parametrize(
    ("protocol", "text"),
    [("smtp", "421 4.3.2 Service not available"), ("imap", "* BYE Server Unavailable. 15")],
)
def test_greeting_busy(start: Start, protocol: Protocol, text: str) -> None:
    """greeting-busy refuses a client in the greeting and closes the connection."""
    with Client(start(server=faults(protocol, "greeting-busy")), protocol) as client:
        if protocol == "imap":
            client.secure()
        assert client.line() == text
        assert client.ended()


def test_no_starttls(start: Start) -> None:
    """no-starttls neither offers nor accepts STARTTLS."""
    with Client(start(server=ServerFaults(smtp="no-starttls")), "smtp") as client:
        client.smtp()
        assert "STARTTLS" not in client.smtp("EHLO client")
        assert client.smtp("STARTTLS").startswith("502 ")


def test_starttls_refused(start: Start) -> None:
    """starttls-refused offers STARTTLS and answers it with 454."""
    with Client(start(server=ServerFaults(smtp="starttls-refused")), "smtp") as client:
        client.smtp()
        assert "STARTTLS" in client.smtp("EHLO client")
        assert client.smtp("STARTTLS").startswith("454 4.7.0 ")


def test_injected(start: Start) -> None:
    """injected adds a false EHLO reply to the segment of the 220; a client that drops it can use TLS."""
    with Client(start(server=ServerFaults(smtp="injected")), "smtp") as client:
        client.smtp()
        client.smtp("EHLO client")
        client.say("STARTTLS")
        lines = client.socket.recv(4096).decode().split("\r\n")
        assert lines[0].startswith("220 2.0.0 ")
        assert lines[1:] == ["250-injected.example Hello [127.0.0.1]", "250 AUTH PLAIN", ""]
        client.secure()
        assert "AUTH LOGIN XOAUTH2" in client.smtp("EHLO client")


@pytest.mark.parametrize(("fault", "offer"), [("no-auth", ""), ("xoauth2-only", "250-AUTH XOAUTH2")])
def test_no_password_mechanism(start: Start, fault: str, offer: str) -> None:
    """Without a password mechanism no password is accepted, but one that is sent anyway is counted."""
    outlook = start(server=ServerFaults(smtp=fault))
    with smtp_session(outlook) as client:
        offers = [line for line in client.smtp("EHLO client").split("|") if "AUTH" in line]
        assert offers == ([offer] if offer else [])
        assert client.smtp(f"AUTH LOGIN {b64(ADDRESS)}").startswith("504 5.7.4 ")
        assert outlook.seen.passwords_received == 0
        assert client.smtp(f"AUTH PLAIN {b64(chr(0) + ADDRESS + chr(0) + PASSWORD)}").startswith("504 5.7.4 ")
    assert outlook.seen.passwords == {("smtp", ADDRESS): PASSWORD.encode()}


def test_login_disabled(start: Start) -> None:
    """login-disabled is present-day IMAP: greeting and capabilities announce it, and logins are refused."""
    with Client(start(server=ServerFaults(imap="login-disabled")), "imap") as client:
        client.secure()
        greeting = client.line()
        assert greeting.startswith("* OK Microsoft Exchange IMAP4 service ready. ")
        assert greeting.endswith("(tcpproxy/15.21.0406.000 BACKENDAUTHENTICATE)")
        assert client.imap("CAPABILITY").startswith(
            "* CAPABILITY IMAP4 IMAP4rev1 AUTH=XOAUTH2 LOGINDISABLED SASL-IR UIDPLUS MOVE ID UNSELECT "
            "CHILDREN IDLE NAMESPACE LITERAL+|"
        )
        assert client.imap(f"LOGIN {ADDRESS} {PASSWORD}") == "a NO Basic authentication is disabled."


# What the servers recorded, and how they stop.


def test_counts(start: Start) -> None:
    """Connections, logins and passwords are counted by protocol and lower-cased address."""
    outlook = start({**GOOD, "b@x.org": Account("b")})
    with smtp_session(outlook) as one, smtp_session(outlook) as two, imap_session(outlook) as three:
        smtp_login(one, ADDRESS.upper())
        smtp_login(two, ADDRESS, "wrong")
        three.imap(f"LOGIN {ADDRESS} {PASSWORD}")
        three.imap("LOGOUT")
    with imap_session(outlook) as client:
        client.imap("LOGIN b@x.org b")
    seen = outlook.seen
    assert seen.connections == {"smtp": 2, "imap": 2}
    assert seen.logins == {("smtp", ADDRESS): 2, ("imap", ADDRESS): 1, ("imap", "b@x.org"): 1}
    assert seen.passwords_received == 4
    assert seen.passwords["smtp", ADDRESS] == b"wrong"
    assert seen.connections_at_once["smtp"] == 2
    assert seen.mailbox_connections_at_once["smtp", ADDRESS] == 2
    assert seen.mailbox_connections_at_once["imap", ADDRESS] == 1
    assert seen.mailbox_logins_at_once == {ADDRESS: 3, "b@x.org": 1}


def test_one_after_the_other_is_not_at_once(start: Start) -> None:
    """A mailbox that ends SMTP with QUIT before it starts IMAP never counts as two logins at once."""
    outlook = start()
    for _ in range(5):
        with smtp_session(outlook) as client:
            smtp_login(client)
            client.smtp("QUIT")
            with imap_session(outlook) as other:
                other.imap(f"LOGIN {ADDRESS} {PASSWORD}")
                other.imap("LOGOUT")
    assert outlook.seen.mailbox_logins_at_once == {ADDRESS: 1}


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Leaving the context ends every connection at once, in any state, and leaves no task."""
    async with Outlook(
        GOOD, server=ServerFaults(smtp="hang:greeting", imap="hang:tls"), folder=tmp_path
    ) as it:
        streams = [await asyncio.open_connection("localhost", it.smtp_port) for _ in range(5)]
        streams.append(await asyncio.open_connection("localhost", it.imap_port))
        await asyncio.sleep(0.05)
        began = time.monotonic()
    assert time.monotonic() - began < 0.5
    assert asyncio.all_tasks() == {asyncio.current_task()}
    for reader, writer in streams:
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_many_at_once(tmp_path: Path) -> None:
    """A hundred clients that connect at the same moment are all served."""

    async def banner(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("localhost", port)
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return line[:4]

    async with Outlook(GOOD, folder=tmp_path) as outlook:
        banners = await asyncio.gather(*(banner(outlook.smtp_port) for _ in range(100)))
    assert set(banners) == {b"220 "}


# What a script can contain.


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "behaviour",
    [
        "nonsense",
        "hang",
        "hang:greeting",
        "explode:auth",
        "slow:x",
        "slow:-1+ok",
        "slow:nan",
        "53 x",
        "NOPE",
        "*",
    ],
)
def test_unknown_behaviours(tmp_path: Path, protocol: Protocol, behaviour: str) -> None:
    """An invalid behaviour is refused before anything starts."""
    with pytest.raises(ScriptError, match="“"):
        Outlook(account(protocol, behaviour), folder=tmp_path)


@pytest.mark.parametrize(
    ("protocol", "fault"), [("smtp", "hang:capability"), ("imap", "no-starttls"), ("smtp", "server-busy")]
)
def test_unknown_server_faults(tmp_path: Path, protocol: Protocol, fault: str) -> None:
    """A fault that the server does not support is refused before anything starts."""
    with pytest.raises(ScriptError, match=f"“{fault}”"):
        Outlook(GOOD, server=faults(protocol, fault), folder=tmp_path)


def test_combined_behaviours() -> None:
    """slow can be combined with a name, a literal or a fault, or used alone; an empty cell is ok."""
    assert mailbox_play("smtp", "slow:2").seconds == 2
    assert mailbox_play("smtp", "slow:2+hang:after").stage == "after"
    assert mailbox_play("imap", "slow:0.5+NO nein|* BYE aus").lines == ("NO nein", "* BYE aus")
    assert mailbox_play("imap", " ") == server_play("imap", "") == mailbox_play("smtp", "ok")


def test_passwords_stay_out_of_reprs() -> None:
    """An account in the output of a failing test does not show its password."""
    assert PASSWORD not in repr(Account(PASSWORD))


def test_sample_accounts() -> None:
    """The sample has 20 mailboxes, 15 of them good, and its odd passwords are read unchanged."""
    accounts = read_accounts(SAMPLE)
    assert len(accounts) == 20
    assert sum((it.smtp, it.imap) == ("ok", "ok") for it in accounts.values()) == 15
    with SAMPLE.open(encoding="utf-8", newline="") as file:
        assert [it.password for it in accounts.values()] == [row["password"] for row in csv.DictReader(file)]
    assert accounts["saoirse.puddlecombe@hotmail.com"].password == 'Ça va, "Zoë"\\n8?'


def test_optional_columns(tmp_path: Path) -> None:
    """smtp and imap may be missing, as columns or as cells, or empty."""
    file = tmp_path / "accounts.csv"
    file.write_text("email,password\nA@x.org,p\n")
    assert read_accounts(file) == {"a@x.org": Account("p")}
    file.write_text("\ufeffemail,password,imap,smtp\na@x.org,p,,\nb@x.org,p\n", encoding="utf-8")
    assert read_accounts(file) == {"a@x.org": Account("p"), "b@x.org": Account("p")}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "missing column: email, password."),
        (b"email,pass\n", "missing column: password."),
        (b"email,password,pop\n", "unknown column: pop."),
        (b"email,password\na@x.org,\n", "line 2: missing password."),
        (b"email,password\na@x.org,p,q\n", "line 2: more cells than the header."),
        (b"email,password\na@x.org,p\nA@x.org,p\n", "line 3: duplicate email “a@x.org”."),
        (b"email,password,smtp\na@x.org,p,what\n", "line 2: unknown SMTP behaviour “what”"),
        (b'email,password\na@x.org,"p\n', "is not valid CSV: "),
        (b"email,password\na@x.org,\xff\n", "is not UTF-8."),
        (None, "cannot be read: No such file or directory."),
    ],
)
def test_malformed_accounts(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    """A malformed accounts file is refused with a message that names the line."""
    file = tmp_path / "accounts.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ScriptError) as caught:
        read_accounts(file)
    assert str(caught.value).startswith(str(file))
    assert sentence in str(caught.value)


def test_servers_file(tmp_path: Path) -> None:
    """A servers file gives each domain its faults, and accepts every named fault."""
    file = tmp_path / "servers.csv"
    rows = [
        f"{number}.example,{fault if protocol == 'smtp' else ''},{fault if protocol == 'imap' else ''}"
        for protocol in PROTOCOLS
        for number, fault in enumerate(SERVER_FAULTS[protocol], 100 if protocol == "imap" else 0)
    ]
    file.write_text("\n".join(["domain,smtp,imap", "Slow.Example,drip:greeting,", *rows]))
    servers = read_servers(file)
    assert servers["slow.example"] == ServerFaults(smtp="drip:greeting")
    assert len(servers) == len(rows) + 1


def test_stages_are_what_the_tests_walk() -> None:
    """Every stage that a script can name is a step of the conversation above."""
    for protocol in PROTOCOLS:
        assert {*SERVER_STAGES[protocol], *MAILBOX_STAGES[protocol]} == {"connect", *STEPS[protocol]}


# The command line.

PROGRAM = (sys.executable, "-m", "sandbox")
SHOW = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('OUTLOOK_')}))"


def environment(**variables: str) -> dict[str, str]:
    rest = {name: value for name, value in os.environ.items() if not name.startswith("OUTLOOK_IMPORT_")}
    return {**rest, **variables}


def sandbox(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=30, env=environment(**variables)
    )


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The sandbox in its own session, so that a signal here does not depend on a terminal."""
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_command_gets_its_environment() -> None:
    """A command gets the servers, the CA and its own database in the environment."""
    done = sandbox(sys.executable, "-c", SHOW)
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert done.stderr.startswith("sandbox: 20 mailboxes, SMTP at localhost:")
    assert set(found) == {"OUTLOOK_IMPORT_SERVERS", "OUTLOOK_IMPORT_CA_FILE", "OUTLOOK_IMPORT_DATABASE_URL"}
    assert list(json.loads(found["OUTLOOK_IMPORT_SERVERS"])) == ["*"]
    folder = Path(found["OUTLOOK_IMPORT_CA_FILE"]).parent
    assert found["OUTLOOK_IMPORT_DATABASE_URL"] == f"sqlite:///{folder}/mailboxes.db"
    assert not folder.exists()


def test_database_of_the_user_stays() -> None:
    """A database URL that is already set is kept."""
    done = sandbox(sys.executable, "-c", SHOW, OUTLOOK_IMPORT_DATABASE_URL="sqlite:///mine.db")
    assert json.loads(done.stdout)["OUTLOOK_IMPORT_DATABASE_URL"] == "sqlite:///mine.db"


def test_domains_with_servers_of_their_own(tmp_path: Path) -> None:
    """Each domain of the servers file has its own ports, with its faults on them."""
    file = tmp_path / "servers.csv"
    file.write_text("domain,smtp,imap\nbusy.example,greeting-busy,\ndown.example,refused,refused\n")
    ask = (
        "import json, os, socket\n"
        "servers = json.loads(os.environ['OUTLOOK_IMPORT_SERVERS'])\n"
        "host, port = servers['busy.example']['smtp'].split(':')\n"
        "print(len({port for pair in servers.values() for port in pair.values()}))\n"
        "print(socket.create_connection((host, int(port))).makefile().readline())\n"
    )
    done = sandbox("--servers", file, sys.executable, "-c", ask)
    assert done.stdout.splitlines()[:2] == ["6", "421 4.3.2 Service not available"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--", sys.executable, "-c", "raise SystemExit(3)"], 3),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 15)"], 143),
        (["/no/such/program"], 127),
        (["--accounts", "/no/such/file", "true"], 2),
        (["--servers", "/no/such/file", "true"], 2),
        (["--delay", "soon", "true"], 2),
    ],
)
def test_exit_status(arguments: list[str], status: int) -> None:
    """The exit status is the command's own, 127 if it cannot be started, or 2 for wrong usage."""
    done = sandbox(*arguments)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    if status in (2, 127):
        assert done.stderr.splitlines()[-1].endswith((".", "seconds"))
        assert done.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_a_command(number: signal.Signals) -> None:
    """Without a command it prints what to export, serves until a signal, and exits with 0."""
    with started() as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        words = [shlex.split(line) for line in lines]
        assert all(len(word) == 2 and word[0] == "export" for word in words)
        variables = dict(word[1].split("=", 1) for word in words)
        host, port = json.loads(variables["OUTLOOK_IMPORT_SERVERS"])["*"]["smtp"].split(":")
        with socket.create_connection((host, int(port))) as connection:
            assert connection.recv(4) == b"220 "
            assert Path(variables["OUTLOOK_IMPORT_CA_FILE"]).is_file()
            process.send_signal(number)
            assert process.wait(PATIENCE) == 0
        assert not Path(variables["OUTLOOK_IMPORT_CA_FILE"]).exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 7), (signal.SIGTERM, 8)])
def test_signals_reach_the_command(number: signal.Signals, status: int) -> None:
    """A signal to the sandbox ends the command first, and its exit status is kept."""
    command = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(7))\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(8))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    with started(sys.executable, "-c", command) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(PATIENCE) == status
