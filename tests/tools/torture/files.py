"""What the torture test imports: files of mailboxes, and new passwords for single ones.

Every password starts with one mark and every TOTP secret with another, so that one search finds them all.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from sandbox.script import Account

MARK = "Kq7ZrN4vXw2TbY9mLc5H"
TOTP_MARK = "ZQ7KNR5WXVJ2HBTM"
MARKS = {"a password": MARK, "a TOTP secret": TOTP_MARK}
BROKEN_QUOTE = "Line 2: "
NO_COLUMNS = "CSV must have email and password columns"

# How the stand-in treats a mailbox, and how many in a hundred.
KINDS = {"ok": 72, "slow:1+ok": 12, "wrong-credentials": 9, "server-busy": 7}
STALE = 0.05  # of the rows have a different password from the mailbox
REFUSED = 0.12  # of the files
REPEATED = 0.3  # of the answered requests are sent again
IMPATIENT = 0.2  # of the requests are given up without an answer
FEWEST, MOST = 5, 60


class Counts(NamedTuple):
    imported: int
    skipped: int
    failed: int
    updated: int = 0


@dataclass
class Request:
    """Something that a client asks for until it gets an answer.

    Attributes:
        patient: Its client retries until it gets an answer.
        faults: Answers that its client should not have got.
    """

    way: str
    name: str
    patient: bool = field(default=True, kw_only=True)
    tries: int = field(default=0, kw_only=True)
    faults: list[str] = field(default_factory=list, kw_only=True)

    @property
    def answered(self) -> bool:
        raise NotImplementedError


@dataclass
class Import(Request):
    """A file, its expected result, and the answers that its client got.

    Attributes:
        secrets: Password and TOTP secret of each mailbox in it, by the key of its address.
        refusal: The start of the message that must refuse it; "" for a good file.
        update: It replaces the passwords of stored mailboxes.
        sent_again: Its client sends it once more after the answer.
        counts: The reported counts of the import; None until they are reported.
        nothing: The page said that there is nothing to import.
        import_id: The number that the API or the page gave it.
    """

    content: bytes
    secrets: dict[str, tuple[str, str]]
    rows: int
    failed: int
    refusal: str = ""
    update: bool = False
    sent_again: bool = False
    counts: Counts | None = None
    refused_with: str = ""
    nothing: bool = False
    import_id: int = 0

    @property
    def answered(self) -> bool:
        return self.counts is not None or bool(self.refused_with) or self.nothing


@dataclass
class Replacement(Request):
    """A new password for one mailbox; `name` is its address."""

    mailbox_id: int
    password: str
    done: bool = False

    @property
    def answered(self) -> bool:
        return self.done


def make_accounts(number: int, dice: random.Random) -> dict[str, Account]:
    """This many mailboxes of the stand-in, of every kind."""
    kinds = dice.choices(list(KINDS), list(KINDS.values()), k=number)
    return {
        f"user{n}@contoso.com": Account(f'{MARK}{n} +"ä%{dice.getrandbits(40):x}', smtp=kind)
        for n, kind in enumerate(kinds)
    }


class Files:
    """Creates files of 5 to 60 mailboxes: most are new, some were in an earlier file, by any way in."""

    def __init__(self, accounts: Mapping[str, Account], seed: int) -> None:
        self.made: list[Import] = []
        self._accounts = accounts
        self._addresses = list(accounts)
        self._begun = 1
        self._dice = random.Random(seed)  # noqa: S311
        self._lock = Lock()

    def make(self, way: str) -> Import:
        """The next file of new mailboxes, or one that has to be refused."""
        with self._lock:
            name = f"{way.replace(' ', '-')}-{len(self.made)}.csv"
            make = self._refused if self._dice.random() < REFUSED else self._good
            made = make(way, name)
            made.patient = way != "API" or self._dice.random() >= IMPATIENT
            made.sent_again = way == "API" and self._dice.random() < REPEATED
            self.made.append(made)
        return made

    def make_update(self, way: str, passwords: Mapping[str, str], header: Iterable[str]) -> Import:
        """The list of wrong passwords that a hand-over has, with its last column filled in.

        Args:
            passwords: New password by address.
            header: The columns of the list.
        """
        columns = tuple(header)
        middle = ("",) * (len(columns) - 2)
        content = as_csv([(address, *middle, password) for address, password in passwords.items()], columns)
        secrets = {address: (password, "") for address, password in passwords.items()}
        with self._lock:
            name = f"update-{way.replace(' ', '-')}-{len(self.made)}.csv"
            made = Import(way, name, content, secrets, len(secrets), 0, update=True)
            made.sent_again = way == "API" and self._dice.random() < REPEATED
            self.made.append(made)
        return made

    def _good(self, way: str, name: str) -> Import:
        size = self._dice.randint(FEWEST, MOST)
        first = self._begun
        self._begun = min(first + size * 3 // 4, len(self._addresses))
        old = self._dice.sample(self._addresses[:first], min(first, size - (self._begun - first)))
        secrets = {address: self._secrets(address) for address in self._addresses[first : self._begun] + old}
        lines = [(address, password, totp) for address, (password, totp) in secrets.items()]
        lines.append((lines[0][0].upper(), f"{MARK}of a later row", ""))  # the first row counts
        failed = self._dice.randint(0, 3)
        lines += [("", f"{MARK}without address", ""), ("user@", f"{MARK}bad", ""), ("a@b.co", "", "")][
            :failed
        ]
        self._dice.shuffle(rest := lines[1:])
        return Import(way, name, as_csv([lines[0], *rest]), secrets, len(lines), failed)

    def _refused(self, way: str, name: str) -> Import:
        if self._dice.random() < 0.5:
            content = as_csv([("Ann", f"{MARK}unread", "")], ("name", "password", "totpsecret"))
            return Import(way, name, content, {}, 1, 0, refusal=NO_COLUMNS)
        content = f'email,password\na@b.co,"{MARK}unread" x\n'.encode()
        return Import(way, name, content, {}, 1, 0, refusal=BROKEN_QUOTE)

    def _secrets(self, address: str) -> tuple[str, str]:
        password = self._accounts[address].password
        if self._dice.random() < STALE:
            password += " of yesterday"
        totp = TOTP_MARK + "".join(self._dice.choices("ABCDEFGH", k=8))
        return password, totp if self._dice.random() < 0.3 else ""


def as_csv(
    lines: Iterable[tuple[str, ...]], header: tuple[str, ...] = ("email", "password", "totpsecret")
) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *lines])
    return text.getvalue().encode()
