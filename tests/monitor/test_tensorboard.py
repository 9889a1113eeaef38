"""Event files, read back with TensorBoard's own reader."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distrl.monitor.tensorboard import TensorBoardSink
from tests.fakes.run_files import episode, first_session, hand_made, write


def session(run, axis="env_steps"):
    sink = TensorBoardSink(run.path, axis)
    while sink.poll():
        pass
    sink.close("ended", 0.0)


def read(run):
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return events


def test_curves_and_histograms_are_drawn_over_env_steps(tmp_path):
    run, _ = hand_made(tmp_path / "run")
    first_session(run)
    session(run)
    events = read(run)
    assert [(event.step, event.value) for event in events.Scalars("episode/return")] == [
        (20, 1.0),
        (40, 3.0),
        (60, 5.0),
    ]
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("run/busy")] == [(50, 0.9), (100, 0.9)]
    (staleness,) = events.Histograms("run/staleness")
    assert staleness.histogram_value.num == 12
    assert staleness.histogram_value.bucket == [5.0, 7.0]


def test_a_resumed_run_continues_its_curves(tmp_path):
    run, _ = hand_made(tmp_path / "run")
    first_session(run)
    session(run)
    write(run, "metrics", episode(120, 9.0))
    session(run)
    assert len(list((run.path / "tensorboard").iterdir())) == 2
    assert [event.step for event in read(run).Scalars("episode/return")] == [20, 40, 60, 120]


def test_a_run_without_env_steps_is_drawn_over_updates(tmp_path):
    run, _ = hand_made(tmp_path / "run")
    write(run, "metrics", {"kind": "learner", "env_steps": 0, "updates": 500, "loss": 2.0})
    session(run, axis="updates")
    assert [event.step for event in read(run).Scalars("learner/loss")] == [500]
