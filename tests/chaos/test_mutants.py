"""The kit loses and doubles nothing at any fail point, and the suite sees every guard that is taken out of it."""

import os
from collections.abc import Callable, Iterator

import pytest

from chaos.failpoints import KINDS, Faults
from chaos.kit_line import clean, play, quick_kit
from chaos.mutants import MUTANTS, mutant
from quantum_common.bus import RedisBus
from quantum_common.testing import running_server

NUMBERS = 40
SEEDS = tuple(range(1, int(os.environ.get("CHAOS_SEEDS", "1")) + 1))

Connect = Callable[[], RedisBus]


@pytest.fixture(scope="module")
def connect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connect]:
    with running_server(tmp_path_factory.mktemp("server")) as url, quick_kit():
        yield lambda: RedisBus.connect(url)


FOCUSED: dict[str, Callable[[int], Faults]] = {
    # Long enough for another instance to claim what the paused one holds.
    "zombies": lambda seed: Faults(seed, 0.3, 12, frozenset({"commit:before"}), ("pause",), (0.5, 0.9)),
    # Between reading a state and writing it.
    "races": lambda seed: Faults(seed, 0.5, 20, frozenset({"state:after"}), ("pause",), (0.05, 0.4)),
    # The effect is there, and nobody knows.
    "lost replies": lambda seed: Faults(
        seed, 0.3, 20, frozenset({"commit:after", "ack_elsewhere:before"}), ("kill", "cut")
    ),
    "everywhere": lambda seed: Faults(seed, 0.08, 80),
}


@pytest.mark.parametrize("focus", FOCUSED)
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_lost_or_doubled_wherever_an_instance_dies_hangs_or_is_cut_off(
    connect: Connect, focus: str, seed: int
) -> None:
    faults = FOCUSED[focus](seed)
    async with clean(connect):
        outcome = await play(connect, NUMBERS, faults)
    assert outcome.good, outcome
    assert faults.count >= 5


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_commit_without_one_of_its_guards_is_caught(connect: Connect, name: str) -> None:
    outcomes = []
    for seed in range(1, 6):
        for focus in ("zombies", "races", "lost replies"):
            with mutant(name):
                async with clean(connect):
                    outcomes.append(await play(connect, NUMBERS, FOCUSED[focus](seed)))
            if not outcomes[-1].good:
                return
    raise AssertionError(f"survived: {name}, {outcomes}")


async def test_there_is_a_fail_point_before_and_after_every_call_and_each_is_struck(connect: Connect) -> None:
    struck: set[tuple[str, str]] = set()
    for seed in range(1, 4):
        faults = Faults(seed, 0.3, 150, pause_s=(0.01, 0.05))
        async with clean(connect):
            assert (await play(connect, 10, faults)).good
        struck |= set(faults.struck)
    calls = {"ensure_group", "read_own_pending", "claim", "read", "commit", "state", "ack_elsewhere"}
    points = {f"{call}:{side}" for call in calls for side in ("before", "after")}
    assert points <= {point for point, _ in struck}
    assert {kind for _, kind in struck} == set(KINDS)
