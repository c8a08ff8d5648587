"""The decisions of the lock, without an event loop."""

from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aspf._rwlock import Phases

OWNERS = st.sampled_from("abcdefg")


class NaiveLock:
    """The policy as the manual tells it: one queue in order of arrival, read afresh each time."""

    def __init__(self) -> None:
        self.holders: dict[str, str] = {}
        self.queue: list[tuple[str, str]] = []

    def waiting(self, mode: str) -> list[str]:
        """Who waits for this, in order of arrival."""
        return [owner for owner, wanted in self.queue if wanted == mode]

    def admit(self, owners: list[str], mode: str) -> tuple[str, ...]:
        """Move these from the queue to the holders."""
        self.queue = [entry for entry in self.queue if entry[0] not in owners]
        self.holders.update(dict.fromkeys(owners, mode))
        return tuple(owners)

    def ask(self, owner: str, mode: str) -> bool:
        """Enter if the policy allows it now, else queue."""
        if mode == "read":
            enters = "write" not in self.holders.values() and not self.waiting("write")
        else:
            enters = not self.holders
        self.queue.append((owner, mode))
        return bool(self.admit([owner], mode)) if enters else False

    def release(self, owner: str) -> tuple[str, ...]:
        """Leave, and let in whoever is next."""
        ended = self.holders.pop(owner)
        if self.holders:
            return ()
        if ended == "write" and self.waiting("read"):
            return self.admit(self.waiting("read"), "read")
        return self.admit(self.waiting("write")[:1], "write")

    def downgrade(self, owner: str) -> tuple[str, ...]:
        """Go on as a reader, with all who wait to read."""
        self.holders[owner] = "read"
        return self.admit(self.waiting("read"), "read")

    def give_up(self, owner: str) -> tuple[str, ...]:
        """Be cancelled, waiting or let in already."""
        if owner in self.holders:
            return self.release(owner)
        self.queue = [entry for entry in self.queue if entry[0] != owner]
        if "write" in self.holders.values() or self.waiting("write"):
            return ()
        return self.admit(self.waiting("read"), "read")


class PhasesMachine(RuleBasedStateMachine):
    """Drive the real core and the naive one through the same calls."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: Phases[str] = Phases()
        self.model = NaiveLock()
        self.writes_while_waiting: dict[str, int] = {}
        self.reads_while_waiting: dict[str, int] = {}
        self.writers_ahead: dict[str, int] = {}
        self.phase_before = ""

    def waits(self, owner: str) -> bool:
        """Tell whether a task is blocked, and so can do nothing but give up."""
        return any(owner == waiting for waiting, _ in self.model.queue)

    @rule(owner=OWNERS, mode=st.sampled_from(["read", "write"]))
    def ask(self, owner: str, mode: str) -> None:
        """Come as a reader or a writer, possibly a second time."""
        if self.waits(owner):
            return
        ask = self.phases.ask_read if mode == "read" else self.phases.ask_write
        if owner in self.model.holders:
            with pytest.raises(RuntimeError, match="this task holds the lock"):
                ask(owner)
            return
        ahead = len(self.model.waiting("write"))
        entered = ask(owner)
        assert entered == self.model.ask(owner, mode)
        if not entered:
            self.writers_ahead[owner] = ahead
            self.writes_while_waiting[owner] = self.reads_while_waiting[owner] = 0

    @rule(owner=OWNERS)
    def release(self, owner: str) -> None:
        """Leave in the right way, and be refused in the wrong one."""
        held = self.model.holders.get(owner)
        for mode, release in (
            ("read", self.phases.release_read),
            ("write", self.phases.release_write),
        ):
            if mode == held:
                assert release(owner) == self.model.release(owner)
                return
            with pytest.raises(RuntimeError, match="does not hold the lock"):
                release(owner)

    @rule(owner=OWNERS)
    def downgrade(self, owner: str) -> None:
        """Downgrade, or be refused."""
        if self.model.holders.get(owner) == "write":
            assert self.phases.downgrade(owner) == self.model.downgrade(owner)
        else:
            with pytest.raises(RuntimeError, match="does not hold the lock for writing"):
                self.phases.downgrade(owner)

    @rule(owner=OWNERS)
    def give_up(self, owner: str) -> None:
        """Be cancelled, waiting or let in already."""
        if self.waits(owner) or owner in self.model.holders:
            assert self.phases.give_up(owner) == self.model.give_up(owner)

    @precondition(lambda self: self.model.queue)
    @rule(data=st.data())
    def a_waiter_gives_up(self, data: st.DataObject) -> None:
        """Make sure that giving up is drawn often enough."""
        owner, _ = data.draw(st.sampled_from(self.model.queue))
        assert self.phases.give_up(owner) == self.model.give_up(owner)

    @precondition(lambda self: self.model.holders)
    @rule(data=st.data())
    def a_holder_leaves(self, data: st.DataObject) -> None:
        """Make sure that phases end often enough."""
        owner = data.draw(st.sampled_from(sorted(self.model.holders)))
        assert self.phases.release(owner) == self.model.release(owner)

    @invariant()
    def same_state(self) -> None:
        """Both agree on who holds and who waits, in the same order."""
        readers = {owner for owner, mode in self.model.holders.items() if mode == "read"}
        writers = [owner for owner, mode in self.model.holders.items() if mode == "write"]
        assert self.phases.readers == readers
        assert [self.phases.writer] == (writers or [None])
        assert list(self.phases.waiting_readers) == self.model.waiting("read")
        assert list(self.phases.waiting_writers) == self.model.waiting("write")

    @invariant()
    def nobody_waits_for_what_they_could_have(self) -> None:
        """The invariants that `Phases` states."""
        phases = self.phases
        assert not (phases.readers and phases.writer)
        if phases.may_write():
            assert not phases.waiting_readers
            assert not phases.waiting_writers
        if phases.may_read():
            assert not phases.waiting_readers

    @invariant()
    def nobody_is_overtaken_for_long(self) -> None:
        """A reader waits for one write phase; a writer for one read phase a writer, and one."""
        phase = f"write by {self.phases.writer}" if self.phases.writer else ""
        phase = phase or ("read" if self.phases.readers else "")
        started, self.phase_before = phase != self.phase_before, phase
        for owner, mode in self.model.queue:
            self.writes_while_waiting[owner] += started and phase.startswith("write")
            self.reads_while_waiting[owner] += started and phase == "read"
            if mode == "read":
                assert self.writes_while_waiting[owner] <= 1
            else:
                assert self.reads_while_waiting[owner] <= self.writers_ahead[owner] + 1

    @invariant()
    def peaks_hold(self) -> None:
        """No moment is above the peak."""
        assert self.phases.peak_readers >= len(self.phases.readers)
        assert self.phases.peak_waiting >= len(self.model.queue)


class TestPhases(PhasesMachine.TestCase):
    """Any order of calls: same answers as the naive lock, and nobody starves.

    Broken if a transition lets in the wrong owners or in the wrong order, forgets somebody who
    could enter, changes something when it refuses, or lets writers (or readers) overtake for ever.
    """

    settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_readers_of_one_moment_form_one_phase() -> None:
    """Broken if a writer's release lets in only some of the readers, or a reader that came later."""
    phases: Phases[str] = Phases()
    assert phases.ask_write("w1")
    assert [phases.ask_read(reader) for reader in ("r1", "r2")] == [False, False]
    assert not phases.ask_write("w2")

    assert phases.release_write("w1") == ("r1", "r2")
    assert not phases.ask_read("r3")
    assert phases.release_read("r1") == ()
    assert phases.release_read("r2") == ("w2",)
    assert phases.release_write("w2") == ("r3",)


def test_a_writer_that_gives_up_frees_only_readers_behind_it_alone() -> None:
    """Broken if readers pass another writer that still waits, or stay behind none at all."""
    phases: Phases[str] = Phases()
    phases.ask_read("r1")
    phases.ask_write("w1")
    phases.ask_write("w2")
    phases.ask_read("r2")

    assert phases.give_up("w1") == ()
    assert phases.give_up("w2") == ("r2",)


def test_peaks_count_what_was_and_not_what_is() -> None:
    """Broken if a peak falls when holders leave, or counts queues apart."""
    phases: Phases[str] = Phases()
    phases.ask_write("w1")
    phases.ask_write("w2")
    phases.ask_read("r1")
    phases.ask_read("r2")
    for owner in ("w1", "r1", "r2", "w2"):
        phases.release(owner)

    assert (phases.peak_readers, phases.peak_waiting) == (2, 3)
