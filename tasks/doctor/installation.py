"""Check the installation without changing it: settings, keys, database, folders, disk and mail servers.

Each function checks one part and returns findings. A fault in the installation is never raised.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

import schemas.migrations
from schemas.findings import Finding, fault, ok, warning
from schemas.providers import CONSUMER_IMAP, MICROSOFT_IMAP, MICROSOFT_SMTP, Endpoint, servers_for
from schemas.reasons import Protocol, Reason
from schemas.sealing import Sealer
from schemas.settings import COMMAND_VARIABLE, MIB, PREFIX, Settings, SettingsError
from schemas.verdicts import Answer
from tasks.files.inbox import PLACES
from tasks.files.private_files import refuse_open_to_change
from tasks.files.skipped import read_record
from tasks.hints import command
from tasks.login.session import log_in
from tasks.login.wire import tls_context
from tasks.mail_exchangers import MailExchangers
from tasks.storage.database import cause_of, database_file, key_file, make_engine, revision, sealer_of, url_of
from tasks.storage.key_rotation import count_sealed

LONGEST_WAIT = 10.0  # seconds, for a server
LITTLE_SPACE, MUCH_TOO_LITTLE_SPACE = 1024 * MIB, 100 * MIB

NOT_REACHED = {
    Reason.NAME_NOT_FOUND,
    Reason.CONNECTION_REFUSED,
    Reason.UNREACHABLE,
    Reason.TIMED_OUT,
    Reason.DROPPED,
}
PASSING = {Reason.SERVER_BUSY, Reason.TOO_MANY_CONNECTIONS, Reason.THROTTLED, Reason.UNKNOWN_DELAY}

# These servers offer password login but do not accept it. Sources: the table in the README.
STATE_OF_PASSWORDS = {
    MICROSOFT_SMTP: "accepts passwords only if the organisation's admin has turned on SMTP AUTH, and never "
    "for personal accounts",
    MICROSOFT_IMAP: "has not accepted passwords since January 2023, even though it offers password login",
    CONSUMER_IMAP: "has not accepted passwords since 16 September 2024, even though it offers password login",
}


# --- Settings and libraries ------------------------------------------


def check_variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Warn about variables that look like settings but are not, probably because of a typo."""
    known = [*(PREFIX + name.upper() for name in Settings.model_fields), COMMAND_VARIABLE]
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            meant = get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {meant[0]}?" if meant else "remove it"
            yield warning("settings", f"{name} is not a setting and has no effect: {hint}")


def check_libraries() -> Finding:
    """Report the versions of the main libraries."""
    return ok("libraries", f"Prefect {version('prefect')}, SQLAlchemy {version('sqlalchemy')}")


# --- Keys and database -----------------------------------------------


def check_storage(settings: Settings) -> Iterator[Finding]:
    """Check the encryption keys, the database, and whether the keys unseal its values."""
    try:
        url = url_of(settings)
    except SettingsError as error:
        yield fault("database", str(error))
        return
    file = database_file(url)
    if file is not None and not file.exists():
        yield from _nothing_yet(settings, url, file)
        return
    sealer = None
    try:
        sealer = sealer_of(settings, url)
        first, *others = (name.hex() for name in sealer.key_ids)
        place = key_file(url) if settings.encryption_keys is None else f"{PREFIX}ENCRYPTION_KEYS"
        more = f", {', '.join(others)} can unseal" if others else ""
        yield ok("keys", f"{len(others) + 1} in {place}: {first} seals{more}")
    except SettingsError as error:
        yield fault("keys", str(error))
    try:
        yield from _check_database(url, sealer)
    except SettingsError as error:
        yield fault("database", str(error))
    except DBAPIError as error:
        yield fault("database", f"cannot be read ({cause_of(error)}): restore it from a backup")


def _nothing_yet(settings: Settings, url: URL, path: Path) -> Iterator[Finding]:
    if obstacle := _cannot_create(path.parent):
        yield fault("database", f"cannot create {path}: {obstacle}")
    else:
        yield ok("database", f"none yet: the first import creates {path}, and a key file if no key is set")
    if settings.encryption_keys is not None or key_file(url).exists():
        try:
            sealer_of(settings, url)
        except SettingsError as error:
            yield fault("keys", str(error))


def _check_database(url: URL, sealer: Sealer | None) -> Iterator[Finding]:
    path = database_file(url)
    place = str(path or f"PostgreSQL at {url.host or 'a socket'}, {url.database}")
    if path is not None and not os.access(path, os.W_OK):
        yield fault("database", f"{path} cannot be written: run the program as its owner")
    engine = make_engine(url)
    try:
        found = revision(engine)
        if found == schemas.migrations.HEAD:
            yield ok("database", f"{place} responds; its tables are at revision {found}")
        elif (found or "") > schemas.migrations.HEAD:
            yield fault("database", "its tables are newer than this program: update the program")
            return
        else:
            upgrade = f"run `{command('database', 'upgrade')}`"
            yield (warning if path else fault)("database", f"its tables are not up to date: {upgrade}")
            return
        if sealer is not None:
            yield _check_seals(count_sealed(engine), sealer)
    finally:
        engine.dispose()


def _check_seals(sealed: Mapping[bytes, Counter[str]], sealer: Sealer) -> Finding:
    totals = {name: fields.total() for name, fields in sealed.items()}
    lost = {name.hex(): values for name, values in totals.items() if name not in sealer.key_ids}
    if lost:
        values = ", ".join(f"{number} values with key {name}" for name, number in lost.items())
        return fault(
            "secrets",
            f"the encryption key is missing for {values}: restore the key from a backup, or delete the "
            "mailboxes and import them again",
        )
    old = sum(totals.values()) - totals.get(sealer.key_ids[0], 0)
    if old:
        rotate = command("keys", "encryption", "rotate")
        return warning("secrets", f"{old} values are sealed with an older key: run `{rotate}` once")
    return ok("secrets", f"there is a key for each of the {sum(totals.values())} sealed values")


# --- Folders and disk ------------------------------------------------


def check_folders(settings: Settings) -> Iterator[Finding]:
    """Check the watched folder and the import folders."""
    yield from _check_watch_folder(settings.watch_folder)
    for folder in settings.import_folders:
        if not folder.is_dir():
            yield fault(
                "import folder", f"{folder} is not a folder: create it, or correct {PREFIX}IMPORT_FOLDERS"
            )
        elif not os.access(folder, os.R_OK | os.X_OK):
            yield fault(
                "import folder", f"{folder} cannot be read: give the user of this program access to it"
            )
        else:
            yield ok("import folder", str(folder))


def _check_watch_folder(root: Path) -> Iterator[Finding]:
    about = "watch folder"
    if not root.exists():
        if obstacle := _cannot_create(root):
            yield fault(about, f"cannot create {root}: {obstacle}")
        else:
            yield ok(about, f"the first scan creates {root}")
        return
    good = True
    for folder in (root, *(root / name for name in PLACES)):
        for finding in _check_watched(folder, is_root=folder == root):
            good = False
            yield finding
    if good:
        yield ok(about, f"{root} is usable and its contents are private")
    yield from _check_skipped(root)


def _check_skipped(root: Path) -> Iterator[Finding]:
    record = read_record(root)
    for item in record.of_last_scan():
        time = f"{record.scanned:%Y-%m-%d %H:%M} UTC"
        yield warning("watch folder", f"the scan at {time} did not import this: {item}: fix or remove it")


def _check_watched(folder: Path, *, is_root: bool) -> Iterator[Finding]:
    about = "watch folder"
    try:
        mode = folder.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # created by the next scan, or covered by the root
        return
    if not stat.S_ISDIR(mode) and not (is_root and folder.is_dir()):
        yield fault(about, f"{folder} is not a folder but a link or a file: replace it with a folder")
    elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield fault(about, f"{folder} cannot be written: give the user of this program access to it")
    elif is_root:
        try:
            refuse_open_to_change(folder)
        except SettingsError as error:
            yield fault(about, str(error))
    elif mode & stat.S_IWOTH:
        yield fault(about, f"every user of this machine can put files into {folder}: run `chmod o= {folder}`")
    elif mode & stat.S_IRWXO:
        yield warning(about, f"every user of this machine can read {folder}: run `chmod o= {folder}`")


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Check the free disk space for the database and the watched folder."""
    places = [settings.watch_folder]
    try:
        if file := database_file(url_of(settings)):
            places.append(file.parent)
    except SettingsError:
        pass  # check_storage reports it
    seen = set()
    for folder in map(_nearest, places):
        if (device := folder.stat().st_dev) in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(folder).free
        text = f"{free / MIB:,.0f} MiB free at {folder}"
        remedy = "free some space, or move the database and the watched folder"
        if free < MUCH_TOO_LITTLE_SPACE:
            yield fault("disk", f"only {text}: {remedy}")
        elif free < LITTLE_SPACE:
            yield warning("disk", f"only {text}: {remedy}")
        else:
            yield ok("disk", text)


def _nearest(path: Path) -> Path:
    """The path, or the nearest parent folder that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _cannot_create(folder: Path) -> str:
    """Why a folder cannot be created or used; "" if it can."""
    nearest = _nearest(folder)
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{nearest} cannot be written: give the user of this program access to it"
    return ""


# --- Mail servers ----------------------------------------------------


def servers_of(settings: Settings) -> list[tuple[Protocol, Endpoint]]:
    """The endpoints that mailboxes are tested on: from the settings, and Microsoft's unless `*` is set."""
    entries = [*settings.overrides.values()]
    if "*" not in settings.overrides:
        entries += [servers_for(f"user@{domain}", {}) for domain in ("outlook.com", "hotmail.com")]
    servers = (pair for entry in entries for pair in zip((Protocol.SMTP, Protocol.IMAP), entry, strict=True))
    return list(dict.fromkeys(servers))


async def check_servers(settings: Settings) -> list[Finding]:
    """Run a preflight on all endpoints at the same time, without credentials."""
    timeout = min(settings.probe_timeout, LONGEST_WAIT)
    try:
        context = tls_context(settings.ca_file)
    except OSError as error:  # an SSLError is one
        text = f"{PREFIX}CA_FILE: no PEM certificates in {settings.ca_file}: {error.strerror or error}"
        return [fault("mail servers", text)]
    preflights = (
        log_in(protocol, endpoint, None, context, timeout) for protocol, endpoint in servers_of(settings)
    )
    return [server_finding(answer) for answer in await asyncio.gather(*preflights)]


async def check_dns(settings: Settings) -> list[Finding]:
    """Check that the mail exchangers of domains can be looked up, if the settings ask for it."""
    if not settings.mx_lookup or "*" in settings.overrides:
        return []
    if await MailExchangers(settings).responds():
        return [ok("DNS", "answers: no password is sent for a domain whose mail goes to another provider")]
    remedy = f"check this machine's DNS, or set {PREFIX}DNS_SERVERS or {PREFIX}MX_LOOKUP=false"
    return [warning("DNS", f"does not answer, so passwords are sent without a look at the domain: {remedy}")]


def server_finding(answer: Answer) -> Finding:
    """The finding for the answer of a preflight."""
    about = f"{answer.protocol.upper()} {answer.endpoint}"
    if answer.reason is Reason.OK:
        state = STATE_OF_PASSWORDS.get(answer.endpoint.name)
        if state is not None:
            return warning(
                about, f"reachable, certificate valid, but it {state}: see the table in the README"
            )
        return ok(about, "reachable, certificate valid, password login offered")
    title, remedy = answer.reason.explanation.title, answer.reason.explanation.remedy
    said = f" ({answer.text})" if answer.text else ""
    if answer.reason in NOT_REACHED:
        return warning(about, f"not reached: {title.lower()}{said}: {remedy}")
    return (warning if answer.reason in PASSING else fault)(about, f"{title}{said}: {remedy}")
