"""A cursor over the files of a run, and what is made of their records."""

import json

import pytest

from distrl.monitor.readings import Readings
from distrl.monitor.tail import Tail
from tests.fakes.run_files import episode, first_session, hand_made, status, write


@pytest.fixture
def run(tmp_path):
    return hand_made(tmp_path / "run")[0]


def test_what_is_committed_is_never_read_again(run):
    write(run, "metrics", episode(10, 1.0), episode(20, 2.0))
    tail = Tail(run.path, "sink")
    assert [record["return"] for record in tail.read()] == [1.0, 2.0]
    assert tail.read() == []
    tail.state["kept"] = 3
    tail.commit()
    write(run, "metrics", episode(30, 3.0))
    again = Tail(run.path, "sink")
    assert [record["return"] for record in again.read()] == [3.0]
    assert again.state == {"kept": 3}
    assert len(Tail(run.path, "another").read()) == 3


def test_what_is_not_committed_comes_again(run):
    write(run, "metrics", episode(10, 1.0))
    assert len(Tail(run.path, "sink").read()) == 1
    assert len(Tail(run.path, "sink").read()) == 1


def test_half_a_line_waits_for_its_end(run):
    line = json.dumps(episode(10, 1.0))
    (run.path / "metrics.jsonl").write_text(line[:20])
    tail = Tail(run.path, None)
    assert tail.read() == []
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(line[20:] + "\n")
    assert [record["return"] for record in tail.read()] == [1.0]
    assert not (run.path / "monitor").exists()


def test_records_of_all_files_come_in_the_order_of_the_run(run):
    first_session(run)
    records = Tail(run.path, None).read()
    at = [record["env_steps"] for record in records if "env_steps" in record]
    assert at == sorted(at)
    assert len(records) == 10


def test_readings_name_everything_and_know_where_it_was(run):
    first_session(run)
    readings = Readings({})
    found = list(readings.take(Tail(run.path, None).read()))
    scalars = {name: (reading.axes, value) for reading in found for name, value in reading.scalars.items()}
    assert scalars["learner/critic_loss"] == ({"env_steps": 60, "updates": 10, "wall_s": 1.0}, 0.5)
    assert scalars["evaluation/return"][0]["env_steps"] == 100
    assert {name: scalars[name][1] for name in ("busy/worker 1", "run/core_hours", "episode/drag")} == {
        "busy/worker 1": 0.25,
        "run/core_hours": 0.25,
        "episode/drag": 2.0,
    }
    assert readings.outcomes == {
        "fault: crash": 1,
        "restart: learner": 1,
        "terminated": 1,
        "truncated": 1,
        "diverged": 1,
    }
    assert [reading.histograms for reading in found if reading.histograms] == [
        {"run/staleness": [[0, 5], [3, 7]], "run/staleness/prey": [[3, 7]], "run/step_s": [[0.01, 11], [0.1, 1]]}
    ]


def test_a_successor_goes_on_from_the_state_of_its_predecessor():
    state = {}
    list(Readings(state).take([episode(10, 1.0), status(20)]))
    after = Readings(json.loads(json.dumps(state)))
    (reading,) = after.take([{"kind": "learner", "env_steps": 25, "updates": 11, "critic_loss": 1.0}])
    assert reading.axes == {"env_steps": 25, "updates": 11, "wall_s": 0.4}
    assert after.outcomes == {"truncated": 1}


def test_many_episodes_become_a_few_means_and_none_is_left_out():
    readings = Readings({})
    found = list(readings.take([episode(number, float(number)) for number in range(1, 1001)]))
    assert len(found) == 20
    assert sum(reading.scalars["episode/return"] for reading in found) / 20 == pytest.approx(500.5)
    assert found[-1].axes["env_steps"] == 1000
    assert readings.outcomes == {"truncated": 1000}


def test_returns_of_two_fidelities_are_two_curves():
    episodes = [episode(1, 1.0, fidelity="coarse"), episode(2, 5.0, fidelity="fine")]
    (reading,) = Readings({}).take(episodes[:1])
    assert reading.scalars["episode coarse/return"] == 1.0
    assert all(len(reading.scalars) == 2 for reading in Readings({}).take(episodes))
