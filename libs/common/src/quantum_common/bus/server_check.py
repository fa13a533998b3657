"""What the bus promises hangs on settings of the server; they are looked at when a service starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from quantum_common import QuantumError
from quantum_common.bus.embedded import MINIMUM_MAJOR

log = logging.getLogger(__name__)

REQUIRED = {
    "appendonly": ("yes", "what was written is gone after a restart"),
    "appendfsync": ("always", "a kill loses up to a second of acknowledged writes"),
    "maxmemory-policy": ("noeviction", "a full server deletes streams and states"),
}
"""Setting → value, and what happens with any other."""


class WrongServer(QuantumError):
    """The server is too old, or its settings do not keep what is written."""


def check_server(facts: Mapping[str, str]) -> list[str]:
    """Settings that the server did not tell, to be checked by a person. Raises WrongServer, which names the fix.

    `facts` are those of `Bus.server_facts`.
    """
    version = facts.get("version", "")
    if version == "memory":
        return []
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < MINIMUM_MAJOR:
        raise WrongServer(f"the server is version {version}: use Redis {MINIMUM_MAJOR} or Valkey 8, or a later one")
    for name, (value, otherwise) in REQUIRED.items():
        if facts.get(name, value) != value:
            raise WrongServer(
                f"the server has {name} {facts[name]}, with which {otherwise}: "
                f"put `{name} {value}` into its configuration (at once: CONFIG SET {name} {value})"
            )
    return [name for name in REQUIRED if name not in facts]
