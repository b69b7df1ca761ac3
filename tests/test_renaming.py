"""An operation gets another name, step by step: never two that go on, nothing forgotten. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.commands.state import rename_steps as rules
from publisher.commands.state.rename_steps import RenamingError, renaming
from publisher.errors import NeedsOperator, Reason
from publisher.model import Batch, StateRecord
from publisher.state.checkpoint import checkpoint_of, encode_checkpoint, operation_of
from publisher.state.journal import decode_journal
from publisher.state.state import State, restore
from tests.fakes import Author, same

NAMES: Final = ("one", "two", "three")
HORIZON: Final = timedelta(days=31)


@dataclass
class Log:
    """The state topic: compacted, and each batch follows what stands there."""

    live: dict[bytes, bytes] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    """As the owner of the log remembers them; a new owner reads the checkpoints."""

    def of(self, name: str) -> dict[bytes, bytes]:
        return {key: value for key, value in self.live.items() if operation_of(key) == name}

    def read(self) -> None:
        found = {name: checkpoint_of(name, self.of(name)) for name in NAMES}
        self.sequences = {name: told.sequence for name, told in found.items() if told}

    def commit(self, batch: Batch) -> None:
        assert self.sequences.get(batch.operation) == batch.follows, "the state changed since"
        assert batch.state, "an empty transaction would be committed for a fenced owner, too"
        assert {operation_of(record.key) for record in batch.state} == {batch.operation}
        for key, value in batch.state:
            if value is None:
                self.live.pop(key, None)
            else:
                self.live[key] = value
        self.sequences[batch.operation] = batch.sequence

    def known(self, name: str) -> State | Reason | None:
        """What a service of that name would begin with; why it would not."""
        try:
            return restore(name, self.of(name))
        except NeedsOperator as error:
            return error.reason

    def going_on(self) -> list[str]:
        return [name for name in NAMES if isinstance(self.known(name), State)]

    def rename(self, old: str, new: str, steps: int | None = None) -> bool:
        """Run the command, killed after so many transactions; whether it ended."""
        self.read()
        left = renaming(old, new, self.of(old), self.of(new))
        batches = [*left.beginning, *left.moving, *left.cleaning]
        for batch in batches[:steps]:
            self.commit(batch)
            assert len(self.going_on()) <= 1
        return steps is None or steps >= len(batches)


def publishing(log: Log, windows: int, author: Author | None = None) -> Author:
    """An operation that has published some windows."""
    author = author or Author("one")
    log.read()
    if author.operation not in log.sequences:
        log.commit(author.first())
    for _ in range(windows):
        log.commit(author.window(ids=2))
        author.committed()
    return author


def taken_up(log: Log, author: Author, name: str) -> None:
    """A service begins with what stands under the name, and goes on."""
    known = log.known(name)
    assert isinstance(known, State)
    author.operation, author.state = name, known


def test_all_that_is_known_goes_along() -> None:
    log = Log()
    author = publishing(log, 9)
    before = author.state
    assert log.rename("one", "two")
    after = log.known("two")
    assert isinstance(after, State)
    told = after.checkpoint
    assert (told.operation, told.formerly, told.identity) == ("two", ("one",), "one")
    known = replace(before.checkpoint, operation="two", formerly=("one",), sequence=told.sequence)
    before.checkpoint = known
    assert same(after, before)
    assert log.known("one") is Reason.STATE_RENAMED
    assert [*log.of("one")] == [b"checkpoint/one"]
    assert len(log.of("two")) == known.journal_records + 1
    entries = [decode_journal(value)[0] for key, value in log.of("two").items() if b"jour" in key]
    assert sorted(one.sequence for one in entries) == [*range(1, 10)]
    assert all(b'"operation":"two"' in value for value in log.of("two").values())


def test_what_was_read_later_stands_behind_what_moved() -> None:
    """Sequence numbers go on, so a backfill "again" still tells what it has published."""
    log = Log()
    author = publishing(log, 4)
    log.rename("one", "two")
    taken_up(log, author, "two")
    publishing(log, 3, author)
    found = log.known("two")
    assert isinstance(found, State)
    assert same(found, author.state)
    assert [one.sequence for one in author.state.journal] == [1, 2, 3, 4, 7, 8, 9]


@pytest.mark.parametrize("piece", [1, 400, 4_000_000])
@pytest.mark.parametrize("windows", [0, 1, 7])
def test_killed_anywhere_and_run_again(
    windows: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each transaction, and after each of the second run."""
    monkeypatch.setattr(rules, "PIECE_BYTES", piece)
    log = Log()
    publishing(log, windows)
    begin = log.live.copy()
    log.rename("one", "two")
    end = log.live
    first = 0
    while not (log := Log(begin.copy())).rename("one", "two", first):
        reached = log.live
        second = 0
        while not (log := Log(reached.copy())).rename("one", "two", second):
            log.rename("one", "two")
            assert log.live == end, (first, second)
            second += 1
        first += 1
    assert first >= 3


def test_before_it_is_given_up_it_may_go_on() -> None:
    """Killed before the old checkpoint says so, the service just goes on, and it is run again."""
    log = Log()
    author = publishing(log, 3)
    assert not log.rename("one", "two", 1)
    assert log.going_on() == ["one"]
    assert log.known("two") is Reason.STATE_RENAMED, "it would begin anew"
    taken_up(log, author, "one")
    publishing(log, 2, author)
    log.rename("one", "two")
    found = log.known("two")
    assert isinstance(found, State)
    assert len(found.journal) == 5


def test_what_another_window_has_moved_meanwhile_is_refused() -> None:
    """A service that commits between the look and the first step loses nothing by it."""
    log = Log()
    author = publishing(log, 2)
    looked = renaming("one", "two", log.of("one"), log.of("two"))
    publishing(log, 1, author)
    log.commit(looked.beginning[0])
    with pytest.raises(AssertionError, match="state changed"):
        log.commit(looked.beginning[1])
    assert log.going_on() == ["one"]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_renamed_again_and_back_and_killed_on_the_way(seed: int) -> None:
    """Any order of names and kills, also the wrong command after a kill."""
    random = Random(seed)
    log = Log()
    windows = random.randrange(4)
    author, published = publishing(log, windows), 2 * windows
    interrupted: tuple[str, str] | None = None
    for _ in range(12):
        old, new = random.sample(NAMES, 2)
        if interrupted and random.random() < 0.6:
            old, new = interrupted
        before, standing = log.going_on(), log.live.copy()
        try:
            ended = log.rename(old, new, random.choice([None, None, 0, 1, 2, 3]))
        except RenamingError:
            assert log.live == standing
            assert before != [old] or new in before, "what goes on can be renamed"
            continue
        after = log.going_on()
        if ended:
            assert after == [new], "either it is done now, or it was done before"
            interrupted = None
        elif after != before or not after:
            interrupted = old, new
        if after:
            taken_up(log, author, after[0])
            windows = random.randrange(3)
            publishing(log, windows, author)
            published += 2 * windows
            assert author.state.checkpoint.identity == "one"
            assert len(author.state.ledger) == published
    if not log.going_on():
        assert interrupted
        log.rename(*interrupted)
    [name] = log.going_on()
    taken_up(log, author, name)
    assert len(author.state.ledger) == published


def test_the_wrong_way_after_a_kill() -> None:
    """Both checkpoints name each other; the one that was given up last holds what is known."""
    log = Log()
    publishing(log, 3)
    log.rename("one", "two")
    log.rename("two", "one")
    assert not log.rename("one", "two", 2)
    assert log.going_on() == []
    # Not the way that it went before: each of the two would send to the other.
    for new in ("one", "three"):
        with pytest.raises(RenamingError, match=r"one to two was interrupted.*rename one two"):
            log.rename("two", new)
    with pytest.raises(NeedsOperator, match=r"one to two was interrupted.*rename one two"):
        restore("two", log.of("two"))
    log.rename("one", "two")
    found = log.known("two")
    assert isinstance(found, State)
    assert len(found.ledger) == 6


def test_back_after_a_rebuild() -> None:
    """A rebuilt state counts its windows anew; it is no older than what was given up long ago."""
    log = Log()
    publishing(log, 9)
    log.rename("one", "two")
    known = log.known("two")
    assert isinstance(known, State)
    rebuilt = encode_checkpoint(replace(known.checkpoint, sequence=2))
    log.live[rebuilt.key] = rebuilt.value or b""
    for steps in (2, None):
        log.rename("two", "one", steps)
    found = log.known("one")
    assert isinstance(found, State)
    assert len(found.ledger) == 18


def test_back_over_what_a_kill_has_left() -> None:
    """Records that were not removed any more, and are forgotten meanwhile, do not come back."""
    log = Log()
    publishing(log, 3)
    log.rename("one", "two", 4)
    assert len(log.of("one")) == 4
    known = log.known("two")
    assert isinstance(known, State)
    del log.live[b"journal/two/1/0"]
    fewer = encode_checkpoint(replace(known.checkpoint, journal_records=2))
    log.live[fewer.key] = fewer.value or b""
    log.rename("two", "one")
    assert sorted(log.of("one")) == [b"checkpoint/one", b"journal/one/2/0", b"journal/one/3/0"]


def test_what_cannot_be_renamed() -> None:
    log = Log()
    publishing(log, 2)
    with pytest.raises(RenamingError, match="tells nothing of an operation three"):
        log.rename("three", "two")
    log.rename("one", "two")
    with pytest.raises(RenamingError, match="was renamed to two already"):
        log.rename("one", "three")
    left = renaming("one", "two", log.of("one"), log.of("two"))
    assert [*left.beginning, *left.moving, *left.cleaning] == []
    publishing(log, 1, Author("three"))
    for new in ("one", "two"):
        with pytest.raises(RenamingError, match=f"{new} has a state of its own"):
            renaming("three", new, log.of("three"), log.of(new))
    with pytest.raises(RenamingError, match="three has a state of its own"):
        renaming("two", "three", log.of("two"), log.of("three"))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_name_is_kept_for_whom_it_was_begun(steps: int) -> None:
    """Else it would be given to another, and what was given up for it could go on nowhere."""
    log = Log()
    publishing(log, 3)
    log.rename("one", "two", steps)
    standing = log.live.copy()
    publishing(log, 5, Author("three"))
    with pytest.raises(RenamingError, match="the renaming of one to two was interrupted"):
        renaming("three", "two", log.of("three"), log.of("two"))
    with pytest.raises(NeedsOperator, match="state rename one two --yes"):
        restore("two", log.of("two"))
    log.live = standing
    log.rename("one", "two")
    found = log.known("two")
    assert isinstance(found, State)
    assert len(found.ledger) == 6


def test_a_stranger_under_the_new_name_is_not_what_was_renamed() -> None:
    """What a kill has left of the old journal goes when it has moved, not when anybody is there."""
    log = Log()
    publishing(log, 3)
    log.rename("one", "two", 2)
    for key in log.of("two"):
        del log.live[key]
    publishing(log, 9, Author("two"))
    with pytest.raises(RenamingError, match="two has a state of its own"):
        log.rename("one", "two")
    assert len(log.of("one")) == 4


@pytest.mark.parametrize("lost", ["journal/one/1/0", "checkpoint/one"])
def test_a_state_that_is_not_whole_stays_where_it_is(lost: str) -> None:
    log = Log()
    publishing(log, 2)
    del log.live[lost.encode()]
    with pytest.raises(RenamingError, match=r"the state of one is not whole: see|tells nothing"):
        log.rename("one", "two")


def test_a_journal_of_somebody_else_is_not_replaced() -> None:
    """Without its checkpoint it may be what is left of a state that can be rebuilt."""
    log = Log()
    publishing(log, 2)
    publishing(log, 2, Author("two"))
    del log.live[b"checkpoint/two"]
    with pytest.raises(RenamingError, match="two has a state of its own"):
        log.rename("one", "two")


def test_pieces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "PIECE_BYTES", 1_000)
    log = Log()
    publishing(log, 40)
    left = renaming("one", "two", log.of("one"), log.of("two"))
    assert len(left.moving) > 5
    assert all(size(batch.state) <= 1_000 for batch in (*left.moving, *left.cleaning))
    assert left.moving[-1].state[-1].key == b"checkpoint/two"


def size(those: Sequence[StateRecord]) -> int:
    return sum(len(key) + len(value or b"") for key, value in those)
