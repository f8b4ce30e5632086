"""Records what the servers saw, so that tests can check what a client did."""

from collections import Counter
from threading import Lock

Login = tuple[str, str]
"""Protocol (`smtp` or `imap`) and address, in lower case."""


class Seen:
    """Counts connections, logins and passwords. Thread-safe: every property returns a copy.

    A connection belongs to a mailbox from the user name until the connection ends or the server says goodbye.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._connections: Counter[str] = Counter()
        self._resumed: Counter[str] = Counter()
        self._logins: Counter[Login] = Counter()
        self._passwords: dict[Login, bytes] = {}
        self._tries: Counter[tuple[str, str, bytes]] = Counter()
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
    def resumed(self) -> Counter[str]:
        """Connections that resumed a TLS session, by protocol."""
        with self._lock:
            return self._resumed.copy()

    @property
    def logins(self) -> Counter[Login]:
        """Login attempts by protocol and address. An unsolicited password counts too."""
        with self._lock:
            return self._logins.copy()

    @property
    def passwords(self) -> dict[Login, bytes]:
        """The last password received, byte for byte, by protocol and address."""
        with self._lock:
            return self._passwords.copy()

    @property
    def tries(self) -> Counter[tuple[str, str, bytes]]:
        """How often each password was received, by protocol, address and password."""
        with self._lock:
            return self._tries.copy()

    @property
    def passwords_received(self) -> int:
        """Number of passwords received, over both protocols."""
        with self._lock:
            return self._logins.total()

    @property
    def connections_at_once(self) -> Counter[str]:
        """Maximum number of concurrent connections, by protocol."""
        with self._lock:
            return self._most_open.copy()

    @property
    def mailbox_connections_at_once(self) -> Counter[Login]:
        """Maximum number of concurrent connections to a mailbox, by protocol and address."""
        with self._lock:
            return self._most_busy.copy()

    @property
    def mailbox_logins_at_once(self) -> Counter[str]:
        """Maximum number of concurrent connections to a mailbox over both protocols, by address."""
        with self._lock:
            return self._most_busy_either.copy()

    def connected(self, protocol: str) -> None:
        """Record that a client connected."""
        with self._lock:
            self._connections[protocol] += 1
            self._open[protocol] += 1
            self._most_open[protocol] = max(self._most_open[protocol], self._open[protocol])

    def secured(self, protocol: str, *, resumed: bool) -> None:
        """Record that a connection has TLS."""
        with self._lock:
            self._resumed[protocol] += resumed

    def disconnected(self, protocol: str) -> None:
        """Record that a connection ended."""
        with self._lock:
            self._open[protocol] -= 1

    def entered(self, protocol: str, address: str) -> None:
        """Record that a connection named its mailbox."""
        login = (protocol, address)
        with self._lock:
            self._busy[login] += 1
            self._busy_either[address] += 1
            self._most_busy[login] = max(self._most_busy[login], self._busy[login])
            self._most_busy_either[address] = max(self._most_busy_either[address], self._busy_either[address])

    def left(self, protocol: str, address: str) -> None:
        """Record that a connection no longer belongs to a mailbox."""
        with self._lock:
            self._busy[protocol, address] -= 1
            self._busy_either[address] -= 1

    def tried(self, protocol: str, address: str, password: bytes) -> None:
        """Record a password."""
        with self._lock:
            self._logins[protocol, address] += 1
            self._passwords[protocol, address] = password
            self._tries[protocol, address, password] += 1
