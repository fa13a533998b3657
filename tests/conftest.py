"""How `make test` spreads the tests over two processes."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

WHOLE_FLEET = "tests/pipeline"
"""These share a trained market and their ports, so they stay in one process; they take longest, so they start first."""


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """A file stays together, because its tests share what its fixtures made."""

    def _split_scope(self, nodeid: str) -> str:
        return WHOLE_FLEET if nodeid.startswith(WHOLE_FLEET) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(WHOLE_FLEET))
