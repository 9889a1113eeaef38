"""A deliberately slow replay (episodes as Python lists) and a source of streams, cut into fragments in every way."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from distrl.core.types import Fragment


@dataclass
class Step:
    """One transition, as plain numbers; observations are told apart by their value."""

    uid: int
    step: int
    observation: float
    next_observation: float
    reward: float
    terminated: bool
    truncated: bool


@dataclass
class Oracle:
    """Keeps everything; a stored transition is one of the last ``capacity``."""

    capacity: int
    n_step: int
    gamma: float
    steps: list[Step] = field(default_factory=list)
    sampled: set[int] = field(default_factory=set)
    evicted: int = 0

    def add(self, step: Step) -> None:
        self.steps.append(step)
        gone = len(self.steps) - 1 - self.capacity
        if gone >= 0 and gone not in self.sampled:
            self.evicted += 1

    @property
    def oldest(self) -> int:
        return max(0, len(self.steps) - self.capacity)

    def unsampled(self) -> int:
        return sum(k not in self.sampled for k in range(self.oldest, len(self.steps)))

    def target(self, number: int) -> tuple[float, float, float, int]:
        """(reward, discount, next observation, horizon) of one transition, by walking its episode."""
        first = self.steps[number]
        episode = {s.step: s for s in self.steps[self.oldest :] if s.uid == first.uid}
        total, discount, step = 0.0, 1.0, first.step
        for m in range(1, self.n_step + 1):
            current = episode[step]
            total += discount * current.reward
            discount *= self.gamma
            last = current.terminated or current.truncated or step + 1 not in episode or m == self.n_step
            if last:
                return total, 0.0 if current.terminated else discount, current.next_observation, m
            step += 1
        raise AssertionError


class Source:
    """Rows that run episodes of random lengths and ends; ``take`` cuts the next fragment off some of them."""

    def __init__(self, num_rows: int, rng: np.random.Generator):
        self.rng = rng
        self.next_uid = 0
        self.rows: list[list[Step]] = [[] for _ in range(num_rows)]  # what each row will deliver next

    def _extend(self, row: int) -> None:
        """Append an episode; a tenth of them break off (the worker died), neither terminated nor truncated."""
        rng, uid = self.rng, self.next_uid
        self.next_uid += 1
        length, kind = int(rng.integers(1, 9)), rng.choice(["terminated", "truncated", "lost"], p=[0.45, 0.45, 0.1])
        for step in range(length):
            over = step + 1 == length
            self.rows[row].append(
                Step(
                    uid,
                    step,
                    observation=uid * 100.0 + step,
                    next_observation=uid * 100.0 + step + (1 if not over else 50),
                    reward=float(rng.normal()),
                    terminated=over and kind == "terminated",
                    truncated=over and kind == "truncated",
                )
            )

    def take(self, rows: list[int], num_steps: int, stop_at_end: bool) -> tuple[Fragment, list[Step]]:
        """The next ``num_steps`` of each row as a fragment [T, B], and the same time-major as plain steps.

        Args:
            stop_at_end: cut a single row at its episode's end, with the final observation as the bootstrap row.
        """
        table: list[list[Step]] = []  # [B][T + 1]
        for row in rows:
            while len(self.rows[row]) < num_steps + 1:
                self._extend(row)
            table.append(self.rows[row][: num_steps + 1])
        if stop_at_end:
            uid = table[0][0].uid
            num_steps = sum(s.uid == uid for s in table[0][:num_steps])
        for row in rows:
            del self.rows[row][:num_steps]

        shape = (num_steps, len(rows))
        bootstrap = [
            steps[num_steps - 1].next_observation if stop_at_end else steps[num_steps].observation for steps in table
        ]
        observation = np.array([[s.observation for s in steps[:num_steps]] for steps in table]).T
        final = [
            (t, b, table[b][t].next_observation)
            for t in range(num_steps)
            for b in range(len(rows))
            if table[b][t + 1].uid != table[b][t].uid and not stop_at_end
        ]

        def column(name: str, dtype: str) -> np.ndarray:
            return np.array([[getattr(s, name) for s in steps[:num_steps]] for steps in table], dtype).T

        columns = {
            "reward": column("reward", "f4"),
            "terminated": column("terminated", "?"),
            "truncated": column("truncated", "?"),
            "episode_uid": column("uid", "u8"),
            "step": column("step", "i4"),
            "log_prob": column("observation", "f4"),
            "policy_version": column("uid", "i8"),
            "fidelity": np.zeros(shape, np.int16),
            "start_s": np.zeros(shape),
            "end_s": column("step", "f8"),
            "agent_index": np.array(rows, np.int32),
            "action": column("observation", "f4")[..., None],
            "observation/x/y": np.concatenate([observation, [bootstrap]]).astype("f4")[..., None],
            "final_index": np.array([f[:2] for f in final], np.int32).reshape(-1, 2),
            "final_observation/x/y": np.array([f[2] for f in final], "f4").reshape(-1, 1),
        }
        for array in columns.values():
            array.flags.writeable = False
        return Fragment(columns), [table[b][t] for t in range(num_steps) for b in range(len(rows))]

    def random_fragment(self) -> tuple[Fragment, list[Step]]:
        """One row up to an episode's end or shorter (process pools), or all rows with ends inside (inline pools)."""
        num_rows = len(self.rows)
        if num_rows > 1 and self.rng.random() < 0.4:
            return self.take(list(range(num_rows)), int(self.rng.integers(1, 8)), stop_at_end=False)
        row = int(self.rng.integers(num_rows))
        return self.take([row], int(self.rng.integers(1, 8)), stop_at_end=True)
