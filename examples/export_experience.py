"""Export a run's experience to Parquet and look at how the reward grew: python examples/export_experience.py RUN"""

import sys
from pathlib import Path

import pyarrow.parquet as pq

from distrl.experience import open_log, survey
from distrl.export import to_parquet

if len(sys.argv) < 2:
    sys.exit(__doc__)
log = open_log(Path(sys.argv[1]))
found = survey(log)
print(f"{found.num_transitions} transitions of {found.num_episodes} episodes, {found.core_s:.1f} core-seconds")

written = to_parquet(log, Path("experience.parquet"))  # the same as: distrl log export RUN --to parquet --out …
steps = pq.read_table(written.paths[0], columns=["policy_version", "reward"])
by_version = steps.group_by("policy_version").aggregate([("reward", "mean"), ("reward", "count")])
for row in by_version.sort_by("policy_version").to_pylist():
    print(f"version {row['policy_version']}: reward {row['reward_mean']:.3f} over {row['reward_count']} steps")
