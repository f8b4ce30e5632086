"""Ports to listen on."""

from __future__ import annotations

import socket


def taken(host: str, port: int, option: str) -> str:
    """The sentence for a port that another program listens on, or "" if it is free.

    Args:
        option: The option that chooses another port.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.settimeout(1)
            free = probe.connect_ex(address) != 0
    except OSError:
        return ""  # the server itself says what is wrong with the address
    return "" if free else f"Port {port} is in use. Choose another with {option}."
