"""What happens to mailboxes after their import: new passwords, revoked ones, and days that pass."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

from sandbox.outlook import Outlook
from sandbox.script import Account
from tests.tools.torture.files import MARK

BUSY = "server-busy"
DESERVED = {"ok": "active", "slow:1+ok": "active", "wrong-credentials": "failed", BUSY: "pending"}
WORKING = {kind for kind, status in DESERVED.items() if status == "active"}
MISTYPED = 0.2  # of the new passwords
# A rejected password is sent once; if a run is killed between login and verdict, the next run repeats it.
# Each login is an attempt, counted before the password is sent, and a mailbox has five (PROBE_ATTEMPTS).
MOST_ATTEMPTS = 5


def deserved(account: Account, password: str) -> str:
    """The status that a mailbox gets with this password."""
    return DESERVED[account.smtp] if password == account.password else "failed"


@dataclass
class Life:
    """A mailbox after its import.

    Attributes:
        account: What the servers accept now.
        passwords: Those that it was given after the first, in order.
        statuses: Those that it must have had after the first, in order.
        days: How often more time was made to pass than a recheck waits.
        lost: Its password was revoked, and no test has found that out yet.
        disturbed: It was given a password while a recheck may have been testing it.
        tried: How often a password had been received when it was revoked, by protocol and password.
    """

    account: Account
    passwords: list[str] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    days: int = 0
    lost: bool = False
    disturbed: bool = False
    tried: dict[tuple[str, str], int] = field(default_factory=dict)


class Lives:
    """The lives of all mailboxes. Only the thread that has a mailbox in hand may change it.

    So what must become of each is known exactly, whatever is killed meanwhile.
    """

    def __init__(self, outlook: Outlook, accounts: Mapping[str, Account], seed: int) -> None:
        self.originals = accounts
        self._outlook = outlook
        self._all: dict[str, Life] = {}
        self._in_hand: set[str] = set()
        self._dice = random.Random(seed)  # noqa: S311
        self._lock = Lock()

    def of(self, address: str) -> Life:
        with self._lock:
            return self._of(address)

    def _of(self, address: str) -> Life:
        return self._all.setdefault(address, Life(self.originals[address]))

    @property
    def changed(self) -> dict[str, Life]:
        """The mailboxes to which something has happened."""
        with self._lock:
            return {key: life for key, life in self._all.items() if life.statuses or life.days}

    def take(self, addresses: Iterable[str], most: int) -> list[str]:
        """Take those that nobody has in hand, and that are not always put off."""
        with self._lock:
            free = [one for one in addresses if one not in self._in_hand and one in self.originals]
            taken = [one for one in free if self.originals[one].smtp != BUSY][:most]
            self._in_hand.update(taken)
        return taken

    def leave(self, addresses: Iterable[str]) -> None:
        with self._lock:
            self._in_hand.difference_update(addresses)

    def renew(self, address: str, *, mistyped: bool = False) -> str:
        """The password that a mailbox in hand will be given: what its account has, or a mistyped one."""
        with self._lock:
            life = self._of(address)
            number = self._dice.getrandbits(40)
            mistyped = mistyped or self._dice.random() < MISTYPED
            password = f"{MARK}mistyped {number:x}" if mistyped else life.account.password
            life.passwords.append(password)
            life.statuses.append(deserved(life.account, password))
            life.lost = False
        return password

    def revoke(self, address: str) -> None:
        """Give the account of a working mailbox in hand another password than the stored one."""
        with self._lock:
            life = self._of(address)
            stored = life.account.password
            life.account = replace(life.account, password=f'{MARK}new "{self._dice.getrandbits(40):x}')
            self._outlook.change(address, life.account)
            received = self._outlook.seen.tries
            for protocol in ("smtp", "imap"):
                life.tried[protocol, stored] = received[protocol, address, stored.encode()]
            life.statuses.append("failed")
            life.lost = True

    def pass_day(self, addresses: Iterable[str]) -> None:
        with self._lock:
            for address in addresses:
                self._of(address).days += 1

    def wrong_tries(self) -> dict[tuple[str, str], list[tuple[int, int]]]:
        """How often wrong passwords were received, and the most that this may be.

        Returns:
            By protocol and address, a pair for each wrong password.
        """
        found = defaultdict(list)
        for (protocol, address, received), number in self._outlook.seen.tries.items():
            life, password = self.of(address), received.decode()
            kind, original = self.originals[address].smtp, self.originals[address].password
            right = (original, life.account.password) if kind in WORKING else ()
            if (before := life.tried.get((protocol, password))) is not None:
                # A recheck that was killed may have sent it. The next one may only do so on another day.
                pair = (number - before, life.days)
            elif password in right or kind == BUSY:
                continue
            else:
                pair = (number, MOST_ATTEMPTS)
            if pair[0]:
                found[protocol, address].append(pair)
        return dict(found)
