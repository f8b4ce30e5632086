"""Run a command against the Outlook stand-in: `python -m sandbox [OPTIONS] [COMMAND …]`.

Without a command, it prints the variables to export and runs until SIGINT or SIGTERM. With a command, it
forwards both signals to it. Unix only.
"""

import argparse
import asyncio
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import trustme

from sandbox.outlook import Outlook
from sandbox.script import Account, ScriptError, ServerFaults, read_accounts, read_servers, seconds_of

ACCOUNTS = Path(__file__).resolve().parent.parent / "data" / "samples" / "sandbox.csv"
EVERYONE_ELSE = "*"
DATABASE_URL = "OUTLOOK_IMPORT_DATABASE_URL"
COMMAND = "OUTLOOK_IMPORT_COMMAND"  # how printed commands call the program
CANNOT_START = 127
# Ctrl-C reaches the command directly. If the command still runs after this time, it gets the signal again.
TERMINAL_SECONDS = 5.0


def main() -> int:
    options = _parser().parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    try:
        mailboxes: dict[str, Account] = {}
        for file in options.accounts or [ACCOUNTS]:
            mailboxes |= read_accounts(file)
        servers = read_servers(options.servers) if options.servers else {}
    except ScriptError as error:
        _print(str(error))
        return 2
    keep = _Keep(options.keep, options) if options.keep else None
    outlook = partial(Outlook, mailboxes, delay=options.delay, connections=options.connections)
    return asyncio.run(_serve(outlook, len(mailboxes), servers, command, keep))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="An Outlook stand-in on loopback.")
    parser.add_argument(
        "--accounts",
        type=Path,
        action="append",
        metavar="FILE",
        help="CSV of mailboxes: email,password,smtp,imap. Repeat it for several files.",
    )
    parser.add_argument(
        "--servers",
        type=Path,
        metavar="FILE",
        help="CSV of domains with their own servers: domain,smtp,imap.",
    )
    parser.add_argument(
        "--delay", type=_seconds, default=0.0, metavar="SECONDS", help="Seconds to wait before each reply."
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=0,
        metavar="N",
        help="How many connections each server takes at once; 0 for any number.",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="Keep the database in this folder, with a script that runs outlook-import on it.",
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help="Command to run against the stand-in."
    )
    return parser


def _seconds(text: str) -> float:
    try:
        return seconds_of(text)
    except ScriptError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Keep:
    """A folder that outlives the stand-in: the database, the ports, and a script that runs outlook-import."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.script = folder / "outlook-import"
        self._ports = folder / "ports.json"
        python = shlex.quote(sys.executable)
        stand_in = [sys.executable, "-m", "sandbox"]
        for file in options.accounts or [ACCOUNTS]:
            stand_in += ["--accounts", str(file.absolute())]
        if options.servers:
            stand_in += ["--servers", str(options.servers.absolute())]
        stand_in += ["--keep", str(folder.absolute())]
        self.script.write_text(
            "#!/bin/sh\n"
            "# Runs outlook-import on this folder's database. Commands that log in use the stand-in.\n"
            f'export {DATABASE_URL}={shlex.quote(self.database_url)} {COMMAND}="$0"\n'
            'case "$1" in\n'
            f'  import | retest | doctor | serve) exec {shlex.join(stand_in)} {python} -m flows.cli "$@" ;;\n'
            f'  *) exec {python} -m flows.cli "$@" ;;\n'
            "esac\n"
        )
        self.script.chmod(0o700)

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.folder.absolute().as_posix()}/mailboxes.db"

    def ports_of(self, domain: str) -> tuple[int, int]:
        """The ports of the last run, because stored mailboxes keep the endpoints they were imported with."""
        try:
            smtp, imap = json.loads(self._ports.read_text())[domain]
        except (OSError, ValueError, KeyError):
            return 0, 0
        return int(smtp), int(imap)

    def remember(self, outlooks: Mapping[str, Outlook]) -> None:
        ports = {domain: (outlook.smtp_port, outlook.imap_port) for domain, outlook in outlooks.items()}
        self._ports.write_text(json.dumps(ports))


async def _serve(
    outlook: Callable[..., Outlook],
    mailboxes: int,
    servers: Mapping[str, ServerFaults],
    command: list[str],
    keep: _Keep | None,
) -> int:
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    async with _outlooks(outlook, mailboxes, servers, keep) as environment:
        if command:
            return await _run(command, environment, signals)
        sys.stdout.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        sys.stdout.flush()
        await signals.get()
        return 0


@asynccontextmanager
async def _outlooks(
    outlook: Callable[..., Outlook],
    mailboxes: int,
    servers: Mapping[str, ServerFaults],
    keep: _Keep | None,
) -> AsyncIterator[dict[str, str]]:
    """Run servers for each of these domains and for all others; yields the variables that configure them."""
    ca = trustme.CA()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outlook-sandbox-")))
        outlooks = {
            domain: await stack.enter_async_context(
                outlook(
                    server=faults,
                    ca=ca,
                    folder=folder,
                    ports=keep.ports_of(domain) if keep else (0, 0),
                )
            )
            for domain, faults in {EVERYONE_ELSE: ServerFaults(), **servers}.items()
        }
        ports = {
            domain: {"smtp": servers.address("smtp"), "imap": servers.address("imap")}
            for domain, servers in outlooks.items()
        }
        everyone = ports[EVERYONE_ELSE]
        _print(f"{mailboxes} mailboxes, SMTP at {everyone['smtp']}, IMAP at {everyone['imap']}.")
        environment = {
            "OUTLOOK_IMPORT_SERVERS": json.dumps(ports),
            "OUTLOOK_IMPORT_CA_FILE": str(outlooks[EVERYONE_ELSE].ca_file),
        }
        if keep:
            keep.remember(outlooks)
            environment[DATABASE_URL] = keep.database_url
            environment[COMMAND] = os.environ.get(COMMAND) or str(keep.script)
        # A trial run does not write to the user's own database unless the user sets one.
        elif not os.environ.get(DATABASE_URL):
            environment[DATABASE_URL] = f"sqlite:///{folder.as_posix()}/mailboxes.db"
        yield environment


async def _run(
    command: list[str], environment: Mapping[str, str], signals: asyncio.Queue[signal.Signals]
) -> int:
    """Run the command; returns its exit status, or 128 + n if signal n ended it, as in a shell."""
    try:
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment})
    except OSError as error:
        _print(f"Cannot start {command[0]}: {error.strerror}.")
        return CANNOT_START
    forwarding = asyncio.create_task(_forward(signals, process))
    try:
        status = await process.wait()
    finally:
        forwarding.cancel()
    return status if status >= 0 else 128 - status


async def _forward(signals: asyncio.Queue[signal.Signals], process: asyncio.subprocess.Process) -> None:
    while True:
        number = await signals.get()
        # Ctrl-C reaches both processes. A second signal right away would interrupt the command's clean-up.
        wait = TERMINAL_SECONDS if number == signal.SIGINT and _in_foreground() else 0.0
        asyncio.get_running_loop().call_later(wait, _send, process, number)


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _in_foreground() -> bool:
    """Whether Ctrl-C in the terminal reaches this process, and so the command too."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def _print(message: str) -> None:
    sys.stderr.write(f"sandbox: {message}\n")


if __name__ == "__main__":
    sys.exit(main())
