"""A working folder belongs to one process, and goes with it or with the next that needs one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from distrl.envs.cfd.private_folder import PrivateFolder

OWNER = """
import sys, time
from distrl.envs.cfd.private_folder import PrivateFolder
folder = PrivateFolder("case", sys.argv[1])
(folder.path / "field").write_text("1")
print(folder.path, flush=True)
time.sleep(1000)
"""


def folders(parent: Path) -> set[Path]:
    return {path for path in parent.iterdir() if path.is_dir()}


def test_close_removes_it(tmp_path: Path) -> None:
    folder = PrivateFolder("case", tmp_path / "work")
    assert folders(tmp_path / "work") == {folder.path}
    folder.close()
    folder.close()
    assert not folders(tmp_path / "work")


def test_the_next_one_removes_what_a_killed_process_has_left(tmp_path: Path) -> None:
    """And leaves the folders of the living alone."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:  # fmt: skip
        assert owner.stdout is not None
        left = Path(owner.stdout.readline().strip())
        second = PrivateFolder("case", tmp_path)
        assert folders(tmp_path) == {left, second.path}
        os.kill(owner.pid, signal.SIGKILL)
    assert (left / "field").exists()
    third = PrivateFolder("case", tmp_path)
    assert folders(tmp_path) == {second.path, third.path}
    second.close()
    third.close()
