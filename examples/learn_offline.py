"""Learn from what a run has done, without its environments: python examples/learn_offline.py RUN [--updates 5000]

RUN is the directory of a finished run with an experience log, such as examples/quickstart.py leaves.
"""

import argparse
import time
from pathlib import Path

import distrl
from distrl.core.episodes import Quality
from distrl.core.run_directory import RunDirectory
from distrl.mixes import mix

parser = argparse.ArgumentParser()
parser.add_argument("run", type=Path)
parser.add_argument("--updates", type=int, default=5000)
options = parser.parse_args()

# the same as: distrl log mix RUN --quality replay --episodes 3 --out DATA
data = mix([options.run], Quality.REPLAY, 3, Path(f"data-{time.time_ns()}"))
print(f"{data.num_episodes} episodes, return {data.returns.mean():.0f} ± {data.returns.std():.0f}, in {data.path}")

config = distrl.RunConfig(
    env=RunDirectory.open(options.run).config().env.model_dump(),
    algorithm={"name": "iql", "hidden": [64, 64]},
    offline={"data": [str(data.path)], "updates": options.updates},
    evaluation={"period": 1000},
)
result = distrl.train(config)
print(f"{result.summary['final_return_mean']:.0f} on held-out seeds; the curve is in {result.directory}")
