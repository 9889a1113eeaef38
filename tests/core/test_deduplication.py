"""Whatever comes twice, late or overlapping is secured exactly once."""

from hypothesis import given
from hypothesis import strategies as st

from distrl.core.deduplication import SeenSteps
from distrl.core.types import Fragment
from tests.fakes.fragments import fragment


def keys(item: Fragment) -> list[tuple[int, int]]:
    return list(zip(item.columns["episode_uid"].ravel().tolist(), item.columns["step"].ravel().tolist(), strict=True))


deliveries = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(1, 10)), max_size=40)


@given(deliveries)
def test_each_key_comes_out_once_whatever_arrives(items):
    seen, out, expected = SeenSteps(), [], set()
    for uid, first, steps in items:
        for new in seen.new_parts(fragment(steps, episode_uid=uid, first_step=first)):
            out += keys(new)
        expected |= {(uid, step) for step in range(first, first + steps)}
    assert len(out) == len(set(out))
    assert set(out) == expected


def test_what_is_new_as_a_whole_is_passed_on_untouched():
    seen, item = SeenSteps(), fragment(5, rows=3, episode_uid=10)
    assert seen.new_parts(item)[0] is item
    assert seen.new_parts(item) == []


def test_an_earlier_part_that_arrives_late_is_new():
    seen = SeenSteps()
    seen.new_parts(fragment(5, episode_uid=1, first_step=5))
    late = seen.new_parts(fragment(7, episode_uid=1, first_step=0))
    assert [keys(item) for item in late] == [[(1, step) for step in range(5)]]


def test_memory_is_bounded():
    seen = SeenSteps(max_episodes=10)
    for uid in range(1000):
        seen.new_parts(fragment(2, episode_uid=uid))
    assert len(seen._episodes) == 10


def test_what_could_not_be_secured_is_new_when_it_comes_again():
    seen, failed = SeenSteps(), fragment(3, episode_uid=1, first_step=4)
    seen.new_parts(fragment(4, episode_uid=1))
    seen.new_parts(failed)
    seen.forget(failed)
    assert seen.new_parts(fragment(4, episode_uid=1)) == []
    assert seen.new_parts(failed) == [failed]
