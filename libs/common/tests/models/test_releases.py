"""The journal of releases: what serves, what served before, what was withdrawn, whatever crashed in between."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_common.models import (
    ModelRefused,
    clear_shadow,
    current_version,
    history,
    promote,
    releases,
    rollback,
    set_shadow,
    shadow_version,
    withdrawn,
)
from quantum_common.models.releases import RELEASES_FILE
from quantum_common.models.store import CURRENT_FILE, MANIFEST_FILE

AGENT = "xgb"


def with_versions(models_dir: Path, *names: str) -> Path:
    """Only the manifest's presence counts here: what a version holds is another file's test."""
    for name in names:
        (models_dir / AGENT / name).mkdir(parents=True, exist_ok=True)
        (models_dir / AGENT / name / MANIFEST_FILE).write_text("{}")
    return models_dir


def released(models_dir: Path, *names: str) -> Path:
    with_versions(models_dir, *names)
    for number, name in enumerate(names):
        promote(models_dir, AGENT, name, reason="test", at_ms=number)
    return models_dir


def back(models_dir: Path) -> str:
    return rollback(models_dir, AGENT, reason="test", at_ms=99)


def refusal(do: Callable[[], object]) -> str:
    with pytest.raises(ModelRefused) as caught:
        do()
    return caught.value.reason


def test_the_journal_says_what_was_released_when_and_why(tmp_path: Path) -> None:
    with_versions(tmp_path, "v1", "v2")
    promote(tmp_path, AGENT, "v1", reason="trained", at_ms=1)
    promote(tmp_path, AGENT, "v2", reason="challenger won", at_ms=2)
    rollback(tmp_path, AGENT, reason="collapsed", at_ms=3)
    assert [(r.action, r.version, r.previous, r.reason, r.at_ms) for r in releases(tmp_path, AGENT)] == [
        ("promote", "v1", None, "trained", 1),
        ("promote", "v2", "v1", "challenger won", 2),
        ("rollback", "v1", "v2", "collapsed", 3),
    ]
    assert current_version(tmp_path, AGENT) == "v1"


def test_a_second_rollback_goes_one_further_back_and_a_third_has_nowhere_to_go(tmp_path: Path) -> None:
    released(tmp_path, "v1", "v2", "v3")
    assert (back(tmp_path), back(tmp_path)) == ("v2", "v1")
    assert withdrawn(tmp_path, AGENT) == {"v2", "v3"}
    assert refusal(lambda: back(tmp_path)) == "nothing_to_roll_back_to"
    assert current_version(tmp_path, AGENT) == "v1"


def test_a_rollback_after_a_new_release_skips_what_was_withdrawn(tmp_path: Path) -> None:
    released(tmp_path, "v1", "v2")
    back(tmp_path)
    released(tmp_path, "v3")
    assert history(tmp_path, AGENT) == ["v1", "v3"]
    assert back(tmp_path) == "v1"


def test_a_withdrawn_version_returns_only_by_explicit_wish(tmp_path: Path) -> None:
    released(tmp_path, "v1", "v2")
    back(tmp_path)
    assert refusal(lambda: promote(tmp_path, AGENT, "v2", reason="trained", at_ms=5)) == "withdrawn"
    assert current_version(tmp_path, AGENT) == "v1"
    promote(tmp_path, AGENT, "v2", reason="operator", at_ms=6, even_withdrawn=True)
    assert current_version(tmp_path, AGENT) == "v2"
    assert history(tmp_path, AGENT) == ["v1", "v2"]


def test_promoting_what_serves_already_changes_nothing(tmp_path: Path) -> None:
    released(tmp_path, "v1", "v1")
    assert len(releases(tmp_path, AGENT)) == 1


def test_a_pointer_from_before_the_journal_can_be_returned_to(tmp_path: Path) -> None:
    with_versions(tmp_path, "old")
    (tmp_path / AGENT / CURRENT_FILE).write_text("old")
    assert history(tmp_path, AGENT) == ["old"]
    assert refusal(lambda: back(tmp_path)) == "nothing_to_roll_back_to"
    released(tmp_path, "v1")
    assert back(tmp_path) == "old"


def test_a_version_whose_folder_is_gone_is_not_returned_to(tmp_path: Path) -> None:
    released(tmp_path, "v1", "v2")
    (tmp_path / AGENT / "v1" / MANIFEST_FILE).unlink()
    assert refusal(lambda: back(tmp_path)) == "version_missing"
    assert current_version(tmp_path, AGENT) == "v2"
    assert withdrawn(tmp_path, AGENT) == set()


def test_an_agent_without_models_has_no_releases(tmp_path: Path) -> None:
    assert (releases(tmp_path, AGENT), history(tmp_path, AGENT), withdrawn(tmp_path, AGENT)) == ([], [], set())
    assert refusal(lambda: back(tmp_path)) == "version_missing"


def crashing_before_the_pointer(patched: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    def crash(self: Path, target: Path) -> None:
        raise OSError("power cut")

    with patched.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(OSError, match="power cut"):
            do()


def test_a_crash_between_the_line_and_the_pointer_leaves_a_release_that_did_not_happen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(tmp_path, "v1", "v2")
    with_versions(tmp_path, "v3")
    crashing_before_the_pointer(monkeypatch, lambda: promote(tmp_path, AGENT, "v3", reason="test", at_ms=5))
    assert current_version(tmp_path, AGENT) == "v2"
    assert [release.version for release in releases(tmp_path, AGENT)] == ["v1", "v2"]
    promote(tmp_path, AGENT, "v3", reason="again", at_ms=6)
    assert history(tmp_path, AGENT) == ["v1", "v2", "v3"]
    assert (back(tmp_path), back(tmp_path)) == ("v2", "v1")


def test_a_crash_in_a_rollback_keeps_the_withdrawal_and_the_rollback_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(tmp_path, "v1", "v2")
    crashing_before_the_pointer(monkeypatch, lambda: back(tmp_path))
    assert (current_version(tmp_path, AGENT), withdrawn(tmp_path, AGENT)) == ("v2", {"v2"})
    assert back(tmp_path) == "v1"
    assert refusal(lambda: back(tmp_path)) == "nothing_to_roll_back_to"


def test_a_line_that_a_crash_cut_short_is_ignored_and_swallows_no_later_one(tmp_path: Path) -> None:
    released(tmp_path, "v1", "v2")
    with (tmp_path / AGENT / RELEASES_FILE).open("ab") as journal:
        journal.write(b'{"version": "v3", "prev')
    assert history(tmp_path, AGENT) == ["v1", "v2"]
    released(tmp_path, "v3")
    assert history(tmp_path, AGENT) == ["v1", "v2", "v3"]


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    released(tmp_path, "v1", "v2")
    (tmp_path / AGENT / RELEASES_FILE).write_text('{"version": "v1"}\n')
    assert refusal(lambda: back(tmp_path)) == "releases_invalid"


def test_a_shadow_predicts_beside_the_current_version_until_it_is_promoted_or_cleared(tmp_path: Path) -> None:
    released(tmp_path, "v1")
    with_versions(tmp_path, "v2", "v3")
    assert shadow_version(tmp_path, AGENT) is None
    set_shadow(tmp_path, AGENT, "v2")
    promote(tmp_path, AGENT, "v3", reason="test", at_ms=5)
    assert shadow_version(tmp_path, AGENT) == "v2"
    promote(tmp_path, AGENT, "v2", reason="test", at_ms=6)
    assert (current_version(tmp_path, AGENT), shadow_version(tmp_path, AGENT)) == ("v2", None)
    set_shadow(tmp_path, AGENT, "v3")
    clear_shadow(tmp_path, AGENT)
    clear_shadow(tmp_path, AGENT)
    assert shadow_version(tmp_path, AGENT) is None


def test_what_serves_or_is_not_there_is_no_shadow(tmp_path: Path) -> None:
    released(tmp_path, "v1")
    assert refusal(lambda: set_shadow(tmp_path, AGENT, "v1")) == "already_current"
    assert refusal(lambda: set_shadow(tmp_path, AGENT, "v2")) == "version_missing"


def test_two_releases_at_once_take_turns(tmp_path: Path) -> None:
    released(tmp_path, "v1")
    with_versions(tmp_path, "v2")
    elsewhere = os.open(tmp_path / AGENT, os.O_RDONLY)
    fcntl.flock(elsewhere, fcntl.LOCK_EX)
    release = threading.Thread(target=released, args=(tmp_path, "v2"))
    release.start()
    release.join(0.2)
    assert release.is_alive()
    assert current_version(tmp_path, AGENT) == "v1"
    os.close(elsewhere)
    release.join()
    assert current_version(tmp_path, AGENT) == "v2"


@settings(deadline=None, max_examples=50)  # every release is synced to the disk
@given(st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=12))
def test_the_history_is_a_stack_of_promotions(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int | None]
) -> None:
    models_dir = with_versions(tmp_path_factory.mktemp("models"), *(f"v{number}" for number in range(5)))
    stack: list[str] = []
    gone: set[str] = set()
    for step in steps:
        if step is not None:
            promote(models_dir, AGENT, f"v{step}", reason="test", at_ms=1, even_withdrawn=True)
            stack += [f"v{step}"] if stack[-1:] != [f"v{step}"] else []
        elif {*stack[:-1]} <= gone | {*stack[-1:]}:
            assert refusal(lambda: back(models_dir)) in {"nothing_to_roll_back_to", "version_missing"}
        else:
            gone.add(stack.pop())
            while stack[-1] in gone:
                stack.pop()
            assert back(models_dir) == stack[-1]
        assert withdrawn(models_dir, AGENT) == gone
        assert history(models_dir, AGENT) == stack
        assert current_version(models_dir, AGENT) == (stack[-1] if stack else None)
