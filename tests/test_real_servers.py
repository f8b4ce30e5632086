"""Tests against Dovecot, Exim and Postfix, whose replies are not ours: only good mailboxes are active."""

from __future__ import annotations

import base64
import random
import shutil
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trustme

from schemas.providers import Endpoint, endpoint_of
from schemas.reasons import Protocol, Reason
from schemas.settings import Settings
from schemas.tables import Mailbox, ProbeResult
from tasks.login.session import log_in
from tasks.login.wire import Credentials, tls_context
from tasks.probe import Probing
from tasks.storage.database import database
from tests.conftest import (
    import_file,
    probe_targets,
    rows_of,
    with_changes,
    write_csv,
)
from tests.support.machine import free_port
from tests.support.postfix import postfix
from tests.support.postgresql import START_SECONDS, bound, ending, folder_of_nobody

MAILBOXES = 500
ODD_CHARACTERS = " \"'\\{}()%*+,;:=~&#!?/<>@[]^`|äßñ漢🔑"

# Both run from their own folder, as an ordinary user, without a delay after failures.
DOVECOT = """
base_dir = @D/run
state_dir = @D/run
log_path = @D/log
default_login_user = @U
default_internal_user = @U
default_internal_group = @G
first_valid_uid = 1
protocols = imap
listen = 127.0.0.1
ssl = required
ssl_cert = <@D/cert.pem
ssl_key = <@D/key.pem
disable_plaintext_auth = yes
auth_mechanisms = plain login
auth_failure_delay = 0
auth_username_format = %Lu
mail_max_userip_connections = 500
mail_location = maildir:@D/mail/%u
passdb {
  driver = passwd-file
  args = scheme=PLAIN @D/users
}
userdb {
  driver = static
  args = uid=@U gid=@G home=@D/mail/%u
}
service anvil {
  chroot =
  client_limit = 4096
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service auth {
  client_limit = 4096
}
service imap-login {
  chroot =
  service_count = 0
  client_limit = 1000
  inet_listener imap {
    port = 0
  }
  inet_listener imaps {
    port = @P
    ssl = yes
  }
}
service imap {
  process_limit = 700
  client_limit = 1
  service_count = 50
}
"""
EXIM = """
primary_hostname = localhost
exim_user = @U
exim_group = @G
keep_environment =
local_interfaces = 127.0.0.1
daemon_smtp_ports = @P
spool_directory = @D/spool
log_file_path = @D/exim-%slog
pid_file_path = @D/exim.pid
tls_advertise_hosts = *
tls_certificate = @D/cert.pem
tls_privatekey = @D/key.pem
auth_advertise_hosts = ${if eq{$tls_in_cipher}{}{}{*}}
smtp_accept_max = 600
smtp_accept_max_per_host = 0
smtp_connect_backlog = 256
rfc1413_query_timeout = 0s
host_lookup =
helo_lookup_domains =
never_users =
begin authenticators
LOGIN:
  driver = plaintext
  public_name = LOGIN
  server_prompts = <| Username: | Password:
  server_set_id = $auth1
  server_condition = ${if eq{${base64:$auth2}}{${lookup{${lc:$auth1}}lsearch{@D/users}{$value}{\\\\0}}}}
"""


def odd_passwords(seed: int) -> dict[str, str]:
    """Addresses with passwords of all lengths that are easily corrupted in transit."""
    chance = random.Random(seed)  # noqa: S311  must be the same each time
    letters = "abcdefghijklmnopqrstuvwxyz0123456789" + ODD_CHARACTERS
    lengths = (1, 8, 16, 64, 255)
    passwords = ["".join(chance.choices(letters, k=chance.choice(lengths))) for _ in range(MAILBOXES)]
    return {f"user{n}@contoso.example": word.rstrip() or "0" for n, word in enumerate(passwords)}


@contextmanager
def serving(
    program: str, arguments: str, configuration: str, users: str, ca: trustme.CA
) -> Iterator[tuple[int, Path]]:
    """Run a mail server on a free port in this context; yield the port and its folder."""
    found = shutil.which(program, path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    port = free_port()
    with folder_of_nobody(f"{program}-") as folder:
        certificate = ca.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        (folder / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
        (folder / "users").write_text(users)
        owner = folder.owner()
        values = {"@D": str(folder), "@U": owner, "@G": folder.group(), "@P": str(port)}
        for name, value in values.items():
            configuration = configuration.replace(name, value)
        (folder / "configuration").write_text(configuration)
        for path in folder.iterdir():
            shutil.chown(path, owner, folder.group())
        command = [found, *arguments.split(), str(folder / "configuration")]
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                bound(command, as_nobody=True), cwd=folder, stdout=output, stderr=output
            )
        with ending(process):
            yield port, folder


def wait_for_greeting(port: int, ca_file: Path, *, tls: bool) -> None:
    """Wait for the greeting, because Dovecot's port is open before a process can answer."""
    context = ssl.create_default_context(cafile=ca_file)
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with ExitStack() as stack:
                plain = stack.enter_context(socket.create_connection(("localhost", port), 5))
                it = (
                    stack.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
                    if tls
                    else plain
                )
                assert it.recv(100)
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def test_exactly_the_good_ones_are_active(
    settings: Settings, ca: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    """Of 500 mailboxes with odd passwords, exactly the half with the correct ones is active."""
    passwords = odd_passwords(seed=7)
    wrong = set(list(passwords)[::2])
    dovecot_users = "".join(f"{user}:{{PLAIN.b64}}{b64(password)}\n" for user, password in passwords.items())
    exim_users = "".join(f"{user}: {b64(password)}\n" for user, password in passwords.items())
    rows = [(user, f"{word}x" if user in wrong else word) for user, word in passwords.items()]
    file = write_csv(tmp_path / "mailboxes.csv", rows)
    with (
        serving("dovecot", "-F -c", DOVECOT, dovecot_users, ca) as (imap_port, _),
        serving("exim4", "-bdf -C", EXIM, exim_users, ca) as (smtp_port, exim),
        database(settings) as db,
    ):
        wait_for_greeting(imap_port, ca_file, tls=True)
        wait_for_greeting(smtp_port, ca_file, tls=False)
        servers = {
            "smtp": str(Endpoint("localhost", smtp_port)),
            "imap": str(Endpoint("localhost", imap_port)),
        }
        chosen = with_changes(settings, servers={"*": servers}, ca_file=ca_file, guard_share=1)
        stored = import_file(db, chosen, file)
        probing = Probing(db, chosen, [target.mailbox_id for target in stored.targets])
        await probe_targets(probing, stored.targets, chosen.probe_group_size)
        report = probing.report()
        assert (report.stopped, report.untested) == (None, 0)
        mailboxes = rows_of(db, Mailbox)
        assert Counter(row["status"] for row in mailboxes) == {"active": 250, "failed": 250}
        assert {row["email"] for row in mailboxes if row["status"] == "failed"} == wrong
        answers = Counter((row["protocol"], row["reason"]) for row in rows_of(db, ProbeResult))
        assert answers == {("smtp", "ok"): 250, ("imap", "ok"): 250, ("smtp", "wrong_credentials"): 250}
        user = next(iter(wrong))
        no = await log_in(
            Protocol.IMAP,
            Endpoint("localhost", imap_port),
            Credentials(user, "wrong"),
            tls_context(ca_file),
            10,
        )
        refusals = (exim / "output").read_text().count("authenticator failed")
    assert refusals == 250  # each wrong password was sent once
    assert (no.reason, no.text) == (
        Reason.WRONG_CREDENTIALS,
        "NO [AUTHENTICATIONFAILED] Authentication failed.",
    )


@pytest.mark.slow
async def test_a_server_that_takes_five_connections(
    settings: Settings, ca: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    """Where a server takes five connections from an address, five runs leave every good mailbox active."""
    users = {f"user{n}@contoso.example": f"word{n}" for n in range(60)}
    exim = EXIM.replace("smtp_accept_max_per_host = 0", "smtp_accept_max_per_host = 5")
    dovecot_users = "".join(f"{user}:{{PLAIN}}{word}\n" for user, word in users.items())
    exim_users = "".join(f"{user}: {b64(word)}\n" for user, word in users.items())
    file = write_csv(tmp_path / "mailboxes.csv", users.items())
    with (
        serving("dovecot", "-F -c", DOVECOT, dovecot_users, ca) as (imap_port, _),
        serving("exim4", "-bdf -C", exim, exim_users, ca) as (smtp_port, folder),
        database(settings) as db,
    ):
        wait_for_greeting(imap_port, ca_file, tls=True)
        wait_for_greeting(smtp_port, ca_file, tls=False)
        servers = {"smtp": f"localhost:{smtp_port}", "imap": f"localhost:{imap_port}"}
        chosen = with_changes(settings, servers={"*": servers}, ca_file=ca_file)
        for run in range(5):
            stored = import_file(db, chosen, file, workspace=f"run {run}")
            probing = Probing(db, chosen, [target.mailbox_id for target in stored.targets])
            await probe_targets(probing, stored.targets, chosen.probe_group_size)
            assert probing.report().untested == 0
        refused = (folder / "output").read_text().count("too many connections from that IP address")
    assert Counter(row["status"] for row in rows_of(db, Mailbox)) == {"active": 300}
    assert refused > 0  # the limit was reached


@pytest.mark.slow
async def test_postfix_that_takes_five_connections(
    settings: Settings, ca: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    """Where Postfix takes five connections, five runs fail exactly the wrong passwords, each once.

    The passwords have odd characters, a fifth of them is wrong, and for a tenth of the mailboxes IMAP is off.
    """
    passwords = dict(list(odd_passwords(seed=11).items())[:60])
    wrong, off = set(list(passwords)[::5]), set(list(passwords)[1::10])
    users = {user: f"{user}:{{PLAIN.b64}}{b64(word)}::::::" for user, word in passwords.items()}
    auth_port = free_port()
    dovecot = DOVECOT.replace("@D/users", "@D/users-%Ls").replace(
        "service auth {", f"service auth {{\n  inet_listener {{\n    port = {auth_port}\n  }}"
    )
    file = write_csv(tmp_path / "m.csv", [(u, f"{w}x" if u in wrong else w) for u, w in passwords.items()])
    with (
        serving("dovecot", "-F -c", dovecot, "", ca) as (imap_port, folder),
        postfix(ca, auth_port) as (smtp_port, log),
        database(settings) as db,
    ):
        (folder / "users-smtp").write_text("\n".join(users.values()))
        imap = (f"{line}{'nologin=y' if user in off else ''}" for user, line in users.items())
        (folder / "users-imap").write_text("\n".join(imap))
        wait_for_greeting(imap_port, ca_file, tls=True)
        wait_for_greeting(smtp_port, ca_file, tls=False)
        servers = {"smtp": f"localhost:{smtp_port}", "imap": f"localhost:{imap_port}"}
        chosen = with_changes(settings, servers={"*": servers}, ca_file=ca_file, guard_share=1)
        for run in range(5):
            stored = import_file(db, chosen, file, workspace=f"run {run}")
            probing = Probing(db, chosen, [target.mailbox_id for target in stored.targets])
            await probe_targets(probing, stored.targets, chosen.probe_group_size)
            assert probing.report().untested == 0
        told = log.read_text()
    found = Counter(
        (row["email"] in wrong, row["email"] in off, row["status"]) for row in rows_of(db, Mailbox)
    )
    assert found == {
        (False, False, "active"): 210,
        (False, True, "partial"): 30,
        (True, False, "failed"): 60,
    }
    assert told.count("authentication failed") == 60  # each wrong password was sent once
    assert "concurrency limit exceeded" in told  # the limit was reached


async def test_connections_that_start_the_other_way(ca: trustme.CA, ca_file: Path) -> None:
    """A login works over IMAP with STARTTLS and SMTP with TLS at once; without a scheme the port is named."""
    user, password = "ann@contoso.example", 'größe and "quotes"'
    dovecot = DOVECOT.replace("port = 0", "port = @P", 1).replace("port = @P\n    ssl = yes", "port = 0")
    exim = EXIM.replace("daemon_smtp_ports = @P", "daemon_smtp_ports = @P\ntls_on_connect_ports = @P")
    with (
        serving("dovecot", "-F -c", dovecot, f"{user}:{{PLAIN.b64}}{b64(password)}\n", ca) as (imap_port, _),
        serving("exim4", "-bdf -C", exim, f"{user}: {b64(password)}\n", ca) as (smtp_port, _),
    ):
        wait_for_greeting(imap_port, ca_file, tls=False)
        wait_for_greeting(smtp_port, ca_file, tls=True)
        context = tls_context(ca_file)
        for protocol, scheme, port, reason in (
            (Protocol.SMTP, "smtps", smtp_port, Reason.PORT_WITH_TLS),
            (Protocol.IMAP, "imap", imap_port, Reason.PORT_WITHOUT_TLS),
        ):
            endpoint = endpoint_of(protocol, scheme, "localhost", port)
            answer = await log_in(protocol, endpoint, Credentials(user, password), context, 10)
            assert answer.reason is Reason.OK, answer
            answer = await log_in(protocol, Endpoint("localhost", port), None, context, 2)
            assert answer.reason is reason, answer
