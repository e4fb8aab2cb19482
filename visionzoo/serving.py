"""Addresses that local servers listen at."""

from __future__ import annotations

import errno
import os
import socket

from .errors import InputError


def check_address(host: str, port: int) -> None:
    """Raise `InputError` unless a server can listen at `host`, `port`."""
    if not 1 <= port <= 65535:
        raise InputError(f"--port must be a number from 1 to 65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":  # elsewhere this would let two servers share a port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise InputError(f"--host {host}: no such address ({error.strerror})") from error
    except PermissionError as error:
        raise InputError(f"port {port} needs administrator rights; choose one above 1023 with --port") from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise InputError(
                f"--host {host}: is not an address of this machine; 127.0.0.1 and 0.0.0.0 always are"
            ) from error
        raise InputError(
            f"port {port} on {host} is in use; choose another with --port, e.g. --port {port % 65535 + 1}"
        ) from error


__all__ = ["check_address"]
