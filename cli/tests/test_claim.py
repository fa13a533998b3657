"""A cluster and a state folder that do not belong together are told apart before anything is started."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quantum_cli.claim import claim_cluster
from quantum_cli.errors import RunFailed, UsageError
from quantum_common.bus import connect_client
from quantum_common.testing import free_port, running_server


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Any]:
    with running_server(tmp_path / "server") as url:
        client = connect_client(url)
        yield client
        await client.aclose()


async def test_a_run_goes_on_where_it_was_and_nowhere_else(client: Any, tmp_path: Path) -> None:
    mine, others = tmp_path / "mine", tmp_path / "others"
    mine.mkdir(), others.mkdir()
    await claim_cluster(client, mine)
    await claim_cluster(client, mine)
    with pytest.raises(UsageError, match="holds another run"):
        await claim_cluster(client, others)
    await client.flushall()
    with pytest.raises(UsageError, match="does not hold the run of .*mine any more"):
        await claim_cluster(client, mine)
    await claim_cluster(client, others)


async def test_a_cluster_that_does_not_answer_ends_the_run(tmp_path: Path) -> None:
    client = connect_client(f"redis+cluster://:secret@127.0.0.1:{free_port()}")
    with pytest.raises(RunFailed, match="does not answer") as caught:
        await claim_cluster(client, tmp_path)
    assert "secret" not in str(caught.value)
    await client.aclose()
