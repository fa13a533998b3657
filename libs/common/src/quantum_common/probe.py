"""Health check of a container: exit 0 when the service of the variable SERVICE says that it is ready, else 1 and why.
What is no service (the conductor) is well while it runs.

It runs every few seconds beside the service, so it speaks its one line of HTTP itself: an HTTP library takes ten times
as long to import as the question takes to answer.
"""

import os
import socket
import sys

from quantum_common.domain.services import SERVICE_PORTS

TIMEOUT_S = 4.0


def problem_of(port: int) -> str:
    """Why the service on this port is not ready; empty = ready."""
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.sendall(b"GET /health/ready HTTP/1.0\r\n\r\n")
            reply = connection.makefile("rb").read().decode(errors="replace")
    except OSError as error:
        return f"port {port}: {error}"
    head, _, body = reply.partition("\r\n\r\n")
    return "" if head.split(" ")[1:2] == ["200"] else body or "no answer"


if __name__ == "__main__":
    port = SERVICE_PORTS.get(os.environ["SERVICE"])
    sys.exit((port and problem_of(port)) or 0)
