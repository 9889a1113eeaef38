"""Every number that a report shows, from run directories written by hand."""

import json

import numpy as np
import pytest

from distrl.core.errors import ConfigError
from distrl.report.configuration import differing, groups
from distrl.report.experience import RECOVERY, RESET, STEP, WAIT
from distrl.report.facts import MAX_FILM_BYTES, Missing, gather
from distrl.report.learning import Group, learning_charts
from tests.fakes.logs import flip
from tests.report.conftest import BEGIN, episode, evaluation, steps, totals

CELLS = 10_000


def test_curves_know_wall_time_and_core_hours(run):
    metrics = [episode(50, -3.0), evaluation(100, -2.0, 7), evaluation(200, None, 9), evaluation(200, -1.0, 9)]
    timed = [
        {"kind": "evaluation", "wall_s": at, "env_steps": n, "return_mean": m}
        for at, n, m in ((12, 100, -2.0), (20, 200, -1.0))
    ]
    timing = [totals(10.0, 100, 1800.0, 900.0, 900.0), *timed, totals(20.0, 200, 3600.0, 1800.0, 1800.0)]
    facts = gather(run("a", metrics=metrics, timing=timing), CELLS)
    assert facts.evaluations.value.tolist() == [-2.0, -1.0]
    assert facts.evaluations.updates.tolist() == [7, 9]
    assert facts.evaluations.wall_s.tolist() == [12, 20]
    assert facts.evaluations.core_hours == pytest.approx([1.2, 2.0])  # an hour after 10 s, another one until 20 s
    assert facts.episodes["fine"].wall_s == pytest.approx([5.0])
    assert facts.episodes["fine"].core_hours == pytest.approx([0.5])
    assert facts.core_hours == pytest.approx(2.0)
    assert facts.cost == pytest.approx({"environments": 1.0, "env workers": 0.5, "learner": 0.5})
    assert [(level.name, level.env_steps, level.core_hours) for level in facts.levels] == [("fine", 200, 1.0)]
    assert facts.busy == pytest.approx(0.6)


def shares(facts, name, begin, end):
    """Of what an environment did in [begin, end) of the timeline."""
    timeline = facts.experience.timeline
    first, last = (round(at / timeline.bin_s) for at in (begin, end))
    return timeline.shares[timeline.names.index(name), first:last].mean(0) / 255


def test_the_timeline_says_what_each_environment_did(run):
    fragments = [
        steps(0, [0, 2, 4], [2, 3, 6], uid=1),  # 1 s of waiting, then the episode ends …
        steps(0, [8], [10], uid=2, over=None),  # … and 2 s of reset
        steps(1, [0], [1], uid=3, over=None),
        steps(1, [6], [10], uid=3, first=1, attempt=1, over="terminated"),  # continued from a snapshot
    ]
    hang = {"kind": "fault", "time_s": BEGIN + 5.5, "incarnation": 0, "row": 1, "fault": "hang", "message": "it hung"}
    facts = gather(run("a", fragments=fragments, timing=[totals(10.0, 6, 1.0)], events=[hang]), CELLS)
    found = facts.experience
    assert (found.env_steps, found.terminated, found.truncated) == (6, 1, 1)
    assert found.timeline.names == ["0.0", "0.1"]
    assert found.timeline.span_s == pytest.approx(10.0)
    whole = shares(facts, "0.0", 0, 10)
    assert whole == pytest.approx([0.7, 0.1, 0.2, 0.0], abs=0.005)
    assert shares(facts, "0.0", 3, 4)[WAIT] == 1
    assert shares(facts, "0.0", 6, 8)[RESET] == 1
    assert shares(facts, "0.1", 1, 6)[RECOVERY] == 1
    assert shares(facts, "0.1", 6, 10)[STEP] == 1
    assert [(fault.environment, fault.at_s, fault.kind) for fault in found.timeline.faults] == [(1, 5.5, "hang")]
    assert sorted(found.step_s["coarse"].tolist()) == pytest.approx([1, 1, 2, 2, 2, 4])
    assert found.wait_s.tolist() == pytest.approx([0, 1])


def test_a_failure_that_is_never_overcome_lasts_to_the_end(run):
    fragments = [steps(0, [0], [2], uid=1, over=None), steps(1, [0, 5], [5, 10], uid=2)]
    hang = {"kind": "fault", "time_s": BEGIN + 4.0, "incarnation": 0, "row": 0, "fault": "hang", "message": "it hung"}
    facts = gather(run("a", fragments=fragments, timing=[totals(10.0, 3, 1.0)], events=[hang]), CELLS)
    assert shares(facts, "0.0", 2, 10)[RECOVERY] == 1


def test_a_restart_is_a_recovery_and_an_interruption_is_cut_out(run):
    fragments = [
        steps(0, [0], [10], uid=1),
        steps(0, [14], [20], uid=2, life=1),  # another env worker took its place
        steps(0, [3620], [3630], uid=3, life=2),  # another session
    ]
    restart = {"kind": "restart", "time_s": BEGIN + 11, "role": "env_worker", "worker": 0, "incarnation": 1}
    facts = gather(run("a", fragments=fragments, timing=[totals(30.0, 3, 1.0)], events=[restart]), CELLS)
    timeline = facts.experience.timeline
    assert timeline.span_s == pytest.approx(30.0)
    assert timeline.pauses == [(pytest.approx(20.0), pytest.approx(3600.0))]
    assert shares(facts, "0.0", 10, 14)[RECOVERY] == 1
    assert shares(facts, "0.0", 14, 30)[STEP] == 1
    assert facts.outcomes.restarts == {"env_worker": 1}


def test_a_step_of_several_agents_is_one_step(run):
    facts = gather(run("a", fragments=[steps(0, [0, 1], [1, 2], uid=1, agents=3)], timing=[totals(2.0, 2, 1.0)]), CELLS)
    assert facts.experience.env_steps == 2
    assert facts.experience.truncated == 1
    assert shares(facts, "0.0", 0, 2)[STEP] == 1


def test_many_environments_and_steps_stay_within_the_cells(run):
    fragments = [steps(env, np.arange(100), np.arange(100) + 0.5, uid=env) for env in range(200)]
    timeline = gather(run("a", fragments=fragments, timing=[totals(100.0, 20_000, 1.0)]), 20_000).experience.timeline
    assert timeline.shares.shape[0] == 128
    assert timeline.omitted == 72
    assert timeline.shares[..., 0].size <= 20_000
    assert timeline.shares[:, :, STEP].mean() / 255 == pytest.approx(0.5, abs=0.01)


def test_what_cannot_be_read_of_a_log_is_said(run):
    path = run("a", fragments=[steps(0, [0], [1], uid=1), steps(0, [2], [3], uid=2)], timing=[totals(3.0, 2, 1.0)])
    flip(path / "log" / "00000000.log", 200)
    found = gather(path, CELLS).experience
    assert found.env_steps == 1
    assert "is damaged between bytes 0 and" in found.damaged[0]


def test_outcomes_and_the_balance_of_transitions(run):
    summary = {"wall_s": 10.0, "transitions_produced": 10, "transitions_trained": 6, "transitions_queued": 2}
    summary |= {
        "transitions_evicted": 1,
        "transitions_rejected": {"worker_died": 1},
        "staleness_counts": [[0, 4], [3, 2]],
    }
    summary |= {"interrupted": False, "final_return_mean": 1.0, "staleness_p50": 0}
    events = [
        {"kind": "fault", "time_s": 1.0, "incarnation": 0, "row": 0, "fault": kind, "message": ""}
        for kind in ("crash", "crash", "hang")
    ]
    metrics = [episode(5, 1.0, info={"diverged": True}), episode(9, 2.0, info={"diverged": False})]
    facts = gather(run("a", metrics=metrics, timing=[totals(10.0, 10, 1.0)], events=events, summary=summary), CELLS)
    assert facts.outcomes.accounts.difference == 0
    assert facts.outcomes.accounts.rejected == {"worker_died": 1}
    assert facts.outcomes.faults == {"crash": 2, "hang": 1}
    assert (facts.outcomes.episodes, facts.outcomes.diverged) == (2, 1)
    assert facts.staleness == [(0, 4), (3, 2)]
    assert facts.ending.kind == "finished"


def test_how_a_run_ended(run):
    timing, summary = [totals(10.0, 10, 1.0)], {"wall_s": 10.0, "interrupted": True}
    assert gather(run("a", timing=timing, summary=summary), CELLS).ending.kind == "interrupted"
    later = [*timing, totals(25.0, 20, 2.0)]  # resumed, and killed: the summary is the first session's
    facts = gather(run("b", timing=later, summary=summary | {"staleness_counts": [[0, 4]]}), CELLS)
    assert facts.ending.kind == "unknown"
    assert "is of an earlier session" in facts.staleness.reason
    failed = gather(run("c", timing=timing, events=[{"kind": "failed", "message": "the disk is full"}]), CELLS)
    assert failed.ending.sentence == "Failed: the disk is full"


def test_what_is_not_there_is_explained(run):
    path = run("a", timing=[totals(10.0, 10, 1.0)], run={"experience_log": "off"})
    (path / "run.json").write_text(json.dumps(json.loads((path / "run.json").read_text()) | {"logged": False}))
    facts = gather(path, CELLS)
    assert 'run.experience_log = "off"' in facts.experience.reason
    assert "a step took 600 ms; steps are 60.0 %" in facts.experience.reason
    assert isinstance(facts.outcomes.accounts, Missing)
    assert facts.league is None
    offline = gather(run("b", timing=[totals(10.0, 0, 0.0)], algorithm={"name": "bc"}, offline={"data": ["x"]}), CELLS)
    assert "from the logs of others" in offline.experience.reason
    assert offline.offline
    film = path / "media" / "film.mp4"
    film.write_bytes(b"0" * (MAX_FILM_BYTES + 1))
    assert "left out, to keep this page small" in gather(path, CELLS).film.reason


def test_each_policy_of_several_has_a_curve(run):
    metrics = [episode(n, 3.0, returns={"hunter": 1.0 + n, "prey": 2.0}) for n in (10, 20)]
    facts = gather(run("a", metrics=metrics, timing=[totals(1.0, 20, 1.0)]), CELLS)
    assert facts.policy_episodes["hunter"].value.tolist() == [11.0, 21.0]
    assert set(facts.policy_episodes) == {"hunter", "prey"}


def test_changes_from_the_defaults_and_between_runs(run):
    timing = [totals(1.0, 1, 1.0)]
    paths = [
        run(f"{number}", timing=timing, run={"seed": seed}, algorithm={"name": "sac", "gamma": gamma})
        for number, (seed, gamma) in enumerate([(0, 0.9), (1, 0.9), (0, 0.99)])
    ]
    facts = [gather(path, CELLS) for path in paths]
    assert facts[1].changed["algorithm.gamma"] == (0.9, 0.99)
    assert "algorithm.gamma" not in facts[2].changed  # as it is by default
    options = [one.options for one in facts]
    assert differing(options) == ["algorithm.gamma"]
    assert groups(options) == [[0, 1], [2]]


def test_several_seeds_give_a_median_and_their_range(run):
    runs = []
    for seed, offset in enumerate((0.0, 1.0, 5.0)):
        metrics = [evaluation(100, -10.0 + offset), evaluation(200, offset)]
        runs.append(gather(run(f"{seed}", metrics=metrics, timing=[totals(10.0, 200, 1.0)], run={"seed": seed}), CELLS))
    by_steps = learning_charts([Group("three", 0, tuple(runs))], alone=False)[0]
    assert "three from −9 to 1, at most 1" in by_steps  # the median of −10, −9, −5 and of 0, 1, 5


def test_no_run_directory_and_nothing_in_it_yet(run, tmp_path):
    with pytest.raises(ConfigError, match="is not a run directory"):
        gather(tmp_path, CELLS)
    with pytest.raises(ConfigError, match="has nothing to report yet"):
        gather(run("a"), CELLS)
