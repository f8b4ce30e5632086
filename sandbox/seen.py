"""What the servers saw: the tests' evidence of what a client did."""

from collections import Counter
from threading import Lock

Login = tuple[str, str]
"""Protocol (`smtp` or `imap`) and address, in lower case."""


class Seen:
    """Counts of connections, logins and passwords. Every property is a copy: any thread may read it.

    A connection belongs to a mailbox from the user name on until it ends or says goodbye.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._connections: Counter[str] = Counter()
        self._logins: Counter[Login] = Counter()
        self._passwords: dict[Login, bytes] = {}
        self._open: Counter[str] = Counter()
        self._busy: Counter[Login] = Counter()
        self._busy_either: Counter[str] = Counter()
        self._most_open: Counter[str] = Counter()
        self._most_busy: Counter[Login] = Counter()
        self._most_busy_either: Counter[str] = Counter()

    @property
    def connections(self) -> Counter[str]:
        """TCP connections by protocol."""
        with self._lock:
            return self._connections.copy()

    @property
    def logins(self) -> Counter[Login]:
        """Login attempts by protocol and address: a password came in, wanted or not."""
        with self._lock:
            return self._logins.copy()

    @property
    def passwords(self) -> dict[Login, bytes]:
        """The password that came in last, by protocol and address, byte for byte."""
        with self._lock:
            return self._passwords.copy()

    @property
    def passwords_received(self) -> int:
        """How many times a password came in, over both protocols."""
        with self._lock:
            return self._logins.total()

    @property
    def connections_at_once(self) -> Counter[str]:
        """The most connections that were open at one time, by protocol."""
        with self._lock:
            return self._most_open.copy()

    @property
    def mailbox_connections_at_once(self) -> Counter[Login]:
        """The most connections that one mailbox had at one time, by protocol and address."""
        with self._lock:
            return self._most_busy.copy()

    @property
    def mailbox_logins_at_once(self) -> Counter[str]:
        """The most connections that one mailbox had at one time over both protocols, by address."""
        with self._lock:
            return self._most_busy_either.copy()

    def connected(self, protocol: str) -> None:
        with self._lock:
            self._connections[protocol] += 1
            self._open[protocol] += 1
            self._most_open[protocol] = max(self._most_open[protocol], self._open[protocol])

    def disconnected(self, protocol: str) -> None:
        with self._lock:
            self._open[protocol] -= 1

    def entered(self, protocol: str, address: str) -> None:
        login = (protocol, address)
        with self._lock:
            self._busy[login] += 1
            self._busy_either[address] += 1
            self._most_busy[login] = max(self._most_busy[login], self._busy[login])
            self._most_busy_either[address] = max(self._most_busy_either[address], self._busy_either[address])

    def left(self, protocol: str, address: str) -> None:
        with self._lock:
            self._busy[protocol, address] -= 1
            self._busy_either[address] -= 1

    def tried(self, protocol: str, address: str, password: bytes) -> None:
        with self._lock:
            self._logins[protocol, address] += 1
            self._passwords[protocol, address] = password
