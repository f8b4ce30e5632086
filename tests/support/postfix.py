"""Postfix, run from its unpacked package: it cannot be installed beside Exim, and it starts as root only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.support.machine import free_port
from tests.support.postgresql import bound, ending, folder_of_nobody
from tests.support.shell import PROJECT

UNPACKED = PROJECT / ".tools" / "postfix"  # by `.ci/run`
MAIN = """
compatibility_level = 3.6
queue_directory = @D/spool
data_directory = @D/data
daemon_directory = @R/usr/lib/postfix/sbin
command_directory = @R/usr/sbin
shlib_directory = @R/usr/lib/postfix
meta_directory = @R/etc/postfix
mail_owner = nobody
setgid_group = mail
default_privs = daemon
import_environment = MAIL_CONFIG MAIL_LOGTAG POSTLOG_SERVICE POSTLOG_HOSTNAME LD_LIBRARY_PATH
export_environment = MAIL_CONFIG MAIL_LOGTAG POSTLOG_SERVICE POSTLOG_HOSTNAME LD_LIBRARY_PATH
maillog_file = @D/log
maillog_file_prefixes = @D
myhostname = localhost
mydestination =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 5
smtpd_client_event_limit_exceptions =
smtpd_error_sleep_time = 0
smtpd_recipient_restrictions = reject
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_tls_cert_file = @D/cert.pem
smtpd_tls_key_file = @D/key.pem
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:127.0.0.1:@A
"""
MASTER = """
127.0.0.1:@P inet n - n - 200 smtpd
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


@contextmanager
def postfix(ca: trustme.CA, auth_port: int) -> Iterator[tuple[int, Path]]:
    """Run Postfix in this context; yield its port and its log.

    It takes five connections from an address, and asks Dovecot on `auth_port` whether a password is right.
    """
    if os.geteuid() != 0 or not UNPACKED.is_dir():
        pytest.skip("Postfix is not unpacked, or this user cannot start it")
    port = free_port()
    with folder_of_nobody("postfix-") as folder:
        certificate = ca.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        (folder / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
        values = {"@D": str(folder), "@R": str(UNPACKED), "@A": str(auth_port), "@P": str(port)}
        for name, text in (("main.cf", MAIN), ("master.cf", MASTER)):
            for mark, value in values.items():
                text = text.replace(mark, value)
            (folder / name).write_text(text)
        for name in ("data", "spool/private", "spool/public", "spool/pid"):
            (folder / name).mkdir(parents=True)
        for name in ("data", "spool/private", "spool/public"):
            os.chown(folder / name, folder.stat().st_uid, -1)
        os.chown(folder, 0, 0)  # it does not trust a folder of its configuration that others own
        libraries = (UNPACKED / "usr/lib/postfix", UNPACKED / "usr/lib" / f"{os.uname().machine}-linux-gnu")
        command = [str(UNPACKED / "usr/lib/postfix/sbin/master"), "-c", str(folder), "-d"]
        process = subprocess.Popen(
            bound(command),
            cwd=folder,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH": ":".join(map(str, libraries))},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # it ends its process group with itself
        )
        with ending(process):
            yield port, folder / "log"
