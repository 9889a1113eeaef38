"""The page of a real run in a real browser: it draws, asks nobody for anything, and raises nothing."""

import os
import re
import shutil
import subprocess

import imageio.v3 as imageio
import numpy as np
import pytest

import distrl
from distrl.core.errors import ConfigError, StorageError
from distrl.report import write_report
from tests.cluster.test_local import small
from tests.report.conftest import episode, evaluation, steps, totals
from tests.test_league_plots import write_matches

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None and os.environ.get("DISTRL_REQUIRE_CHROMIUM"):
    raise RuntimeError("DISTRL_REQUIRE_CHROMIUM is set, and there is no chromium: apt-get install chromium")

#: What a reader does: zoom into the timeline, and point at a chart.
READER = """<script>
const wait = setInterval(() => {
  if (!document.documentElement.dataset.ready) return;
  clearInterval(wait);
  document.querySelector("[data-act=in]").click();
  const plot = document.querySelector(".plot"), frame = plot.getBoundingClientRect();
  const at = {clientX: frame.left + frame.width * 0.8, clientY: frame.top + frame.height / 2, bubbles: true};
  plot.dispatchEvent(new PointerEvent("pointermove", at));
}, 20);
</script>"""


def browse(page, folder):
    """(the document after its scripts have run, what Chromium logged, its network log, the picture), in the dark."""
    shot, net = folder / "page.png", folder / "net.json"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--mute-audio"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={folder / 'chromium'}", f"--log-net-log={net}", "--enable-logging=stderr"]
    command += ["--blink-settings=preferredColorScheme=0", "--window-size=1280,1600", f"--screenshot={shot}"]
    command += ["--dump-dom", "--virtual-time-budget=3000", page.as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return found.stdout, found.stderr, net.read_text(), imageio.imread(shot)[..., :3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The report of a real run."""
    config = small(tmp_path_factory.mktemp("run") / "pendulum", "run.steps=300", "evaluation.final_episodes=1")
    return write_report([distrl.train(config, local=True).directory])


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_the_page_draws_in_a_browser_without_a_network(finished, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(finished.read_text().replace("</body>", READER + "</body>"))
    document, said, network, picture = browse(page, tmp_path)
    assert 'data-ready="yes"' in document
    assert "data-error" not in document
    assert "CONSOLE" not in said
    asked = set(re.findall(r'"url":"(?:https?|wss?)://([^/"]+)', network))
    assert {host for host in asked if not re.search(r"\.google(apis)?\.com$", host)} == set()  # the browser's own home
    assert re.search(r"<output>[\d.]+ m?s to [\d.]+ m?s</output>", document)  # what the zoomed timeline shows
    assert re.search(r'class="tip".*env steps: \d+.*held-out evaluation: −[\d.]+', document, re.DOTALL)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 200
    assert picture.mean() < 80  # dark where the reader's system is


def test_nothing_in_the_page_points_elsewhere(finished):
    text = finished.read_text()
    assert text.count("Content-Security-Policy") == 1
    pointing = re.findall(r'(?:src|href|xlink:href|poster|action)="([^"]{0,40})', text)
    pointing += re.findall(r"url\(([^)]{0,40})", text)
    assert pointing
    assert [there for there in pointing if not there.startswith(("#", "data:"))] == []
    assert "@import" not in text
    assert len(text) < 2_000_000


def test_the_page_says_what_the_summary_says(finished):
    text = finished.read_text()
    for expected in ("Pendulum-v1", "300", "policy", "doing nothing", "data:video/mp4;base64,", "replay.min_size"):
        assert expected in text
    assert finished.name == "report.html"


def test_runs_are_compared(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = []
    for name, seed, gamma in (("a", 0, 0.9), ("b", 1, 0.9), ("c", 0, 0.99)):
        metrics = [episode(50, -3.0), evaluation(100, -2.0 - seed), evaluation(200, -1.0 - seed)]
        summary = {"wall_s": 10.0, "interrupted": False, "final_return_mean": -1.0 - seed, "env_steps": 200}
        paths.append(
            run(
                name,
                metrics=metrics,
                timing=[totals(10.0, 200, 1.0)],
                summary=summary,
                fragments=[steps(0, [0], [1], uid=1)],
                run={"seed": seed},
                algorithm={"name": "sac", "gamma": gamma},
            )
        )
    written = write_report(paths)
    assert written.resolve() == tmp_path / "report.html"
    text = written.read_text()
    assert "3 runs on Pendulum-v1" in text
    assert "<b>gamma 0.99</b>: −1; <b>gamma 0.9 (2 seeds)</b>: −1.5 (−2 to −1)" in text
    assert "What differs between the runs" in text
    assert text.index("<code>algorithm.gamma</code>") < text.index("What is not the default")


def test_a_league_is_a_table_of_who_beat_whom(run):
    path = run("a", timing=[totals(1.0, 10, 1.0)], league={"matchmaking": "fictitious"})
    write_matches(path, ["main", "main:000100", "main:000200"], [400, 0, 150], [(0, 1), (0, 2), (1, 2)])
    text = write_report([path]).read_text()
    assert "main:000200 against main:000100: 20 matches" in text
    assert "main against main:000100: 18 matches" in text  # main learns, so its older ones count less
    assert re.search(r"Elo of 3 players against the updates of their policies; main is rated highest", text)


def test_staleness_is_shown_by_policy(run):
    counts = {"hunter": [[0, 4]], "prey": [[0, 1], [3, 7]]}
    summary = {"wall_s": 1.0, "interrupted": False, "staleness_p50": 0, "staleness_counts": [[0, 5], [3, 7]]}
    summary["staleness_by_policy"] = {name: {"staleness_counts": bins} for name, bins in counts.items()}
    text = write_report([run("a", timing=[totals(1.0, 10, 1.0)], summary=summary)]).read_text()
    assert "hunter: half at most 0, 99 % at most 0; prey: half at most 3, 99 % at most 3." in text


def test_a_name_cannot_become_markup(run):
    path = run(
        "<b>bold</b>", timing=[totals(1.0, 10, 1.0)], events=[{"kind": "note", "text": "</script><script>alert(1)"}]
    )
    text = write_report([path]).read_text()
    assert "<b>bold<b>" not in text
    assert "<script>alert" not in text


def test_wrong_input_is_one_sentence(run, tmp_path):
    path = run("a", timing=[totals(1.0, 10, 1.0)])
    with pytest.raises(ConfigError, match="are the same run: name it once"):
        write_report([path, path])
    with pytest.raises(ConfigError, match=r"has no run\.json"):
        write_report([path, tmp_path])
    with pytest.raises(StorageError, match="cannot be written: No such file or directory; choose another with --out"):
        write_report([path], tmp_path / "missing" / "page.html")
    (path / "timing.jsonl").write_text("{broken\n")
    with pytest.raises(StorageError, match="a file of it cannot be read"):
        write_report([path])
