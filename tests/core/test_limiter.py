"""The limiter bounds the learner by a ratio and says what it waits for."""

import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.core.limiter import Admission, SamplesPerInsert, WaitNotice


def updates_until_it_waits(limiter: SamplesPerInsert) -> int:
    count = 0
    while limiter.allows_update():
        limiter.sampled()
        count += 1
    return count


def test_learning_starts_with_min_size():
    limiter = SamplesPerInsert(256, min_size=100, batch_size=256)
    limiter.inserted(99)
    assert not limiter.allows_update()
    assert "99 of the 100" in limiter.waits_for()
    limiter.inserted(1)
    assert updates_until_it_waits(limiter) == 1


def test_256_samples_per_insert_at_batch_256_are_one_update_a_step():
    limiter = SamplesPerInsert(256, min_size=100, batch_size=256)
    limiter.inserted(100)
    updates_until_it_waits(limiter)
    limiter.inserted(50)
    assert updates_until_it_waits(limiter) == 50
    assert "transitions ahead" in limiter.waits_for()


@settings(max_examples=25, deadline=None)
@given(st.floats(0.5, 2000), st.integers(1, 512), st.integers(1, 50), st.lists(st.integers(0, 40), max_size=40))
def test_the_ratio_is_never_exceeded_by_more_than_a_batch(ratio, batch, minimum, inserts):
    limiter = SamplesPerInsert(ratio, minimum, batch)
    for count in inserts:
        limiter.inserted(count)
        updates_until_it_waits(limiter)
        beyond = max(limiter.num_inserted - minimum, 0)
        assert limiter.num_sampled <= ratio * beyond + batch
        if limiter.num_inserted >= max(minimum, 1):
            assert limiter.num_sampled > ratio * beyond  # and the learner is not held back either


def test_unlimited_updates_go_on():
    limiter = SamplesPerInsert(None, min_size=1, batch_size=256)
    limiter.inserted(1)
    for _ in range(1000):
        assert limiter.allows_update()
        limiter.sampled()


def test_a_waiting_learner_wakes_when_something_arrives():
    limiter = SamplesPerInsert(256, min_size=10, batch_size=256)
    threading.Timer(0.05, limiter.inserted, [10]).start()
    assert limiter.wait(5.0)
    assert not SamplesPerInsert(256, 10, 256).wait(0.01)


def test_a_wait_is_told_once_a_period():
    said: list[str] = []
    notice = WaitNotice("the learner", said.append, period_s=0.0)
    notice.waiting(lambda: "for transitions")
    assert len(said) == 1
    assert said[0].startswith("the learner has waited 0 s: for transitions")
    quiet = WaitNotice("the learner", said.append, period_s=60.0)
    quiet.waiting(lambda: "for transitions")
    quiet.over()
    assert len(said) == 1


def test_admission_counts_from_the_first_weights():
    """A worker that joins at version 7 may begin as much as one that was there from the start."""
    admission = Admission(share=10, max_staleness=1)
    assert admission.admits(7)
    admission.begun(19)
    assert admission.admits(7)
    admission.begun(1)
    assert not admission.admits(7)
    assert admission.admits(8)
