"""Fragments flow in; uniformly drawn sample batches with n-step returns flow out.

**Where things lie.** Transition number k of the run (from 0, in order of arrival, time-major within a fragment) lies
in slot k mod capacity, together with its own observation. Its next observation is stored nowhere twice:
``follow[slot]`` is the slot of the transition that came next in the episode, or, where that one has not arrived or
never will (terminated, truncated, cut), ``capacity + i`` for row i of a small side store of *tails* (bootstrap and
final observations), which is never sampled. Observations are with ``StoredObservations``, all else is here.

**Why no link dangles.** A transition is linked only to one that arrived later, slots are overwritten in order of
arrival, so whatever a stored transition points to is stored as well. A tail is freed when its successor arrives or
its transition goes.

**What follows from the numbering.** Which transitions are stored, and what a draw returns, depend on the stream
alone, not on how it was cut into fragments. A replay refilled from the log equals the lost one; the flags are then
restored by number.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from distrl.core.errors import ConfigError, StorageError
from distrl.core.types import FINAL, OBSERVATION, Columns, Fragment, Observation
from distrl.learners.sample_weights import duration_weights
from distrl.learners.stored_observations import StoredObservations, fill_impossible

#: Columns of a fragment that are kept for every transition beside observation, action and duration.
KEPT = ("reward", "terminated", "log_prob", "policy_version", "fidelity", "episode_uid", "step")


@dataclass(frozen=True)
class Added:
    """What one ``add`` did.

    Attributes:
        stored: transitions taken in.
        evicted: transitions overwritten that no sample batch had ever held.
    """

    stored: int
    evicted: int


@dataclass
class SampleBatch:
    """S transitions drawn with replacement; a horizon of m ≤ n steps each.

    Attributes:
        observation: path → [S, …] in the fragment's dtype: arrays, or tensors where the replay has a device.
        action: [S, …] in the action space's own units.
        reward: float32 [S], R = Σ_{i<m} γ^i r_{t+i}.
        discount: float32 [S], γ^m, or 0 where the last of the m steps terminated: the target is R + discount ·
            V(next_observation).
        next_observation: path → [S, …], after the m steps.
        horizon: int32 [S], m.
        log_prob: float32 [S], of the action under the behaviour policy.
        policy_version: int64 [S], that acted.
        duration_s: float32 [S], wall seconds of the first step.
        fidelity: int16 [S].
        number: int64 [S], the transition's number in the run.
        weight: float32 [S], what each sample counts in the losses; None: 1 each.
        error: tensor [S], the samples' temporal-difference errors, which an algorithm's ``gradients`` leaves here for
            ``PrioritizedReplay.learned``; None: it has none.
    """

    observation: dict[str, Any]
    action: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    next_observation: dict[str, Any]
    horizon: np.ndarray
    log_prob: np.ndarray
    policy_version: np.ndarray
    duration_s: np.ndarray
    fidelity: np.ndarray
    number: np.ndarray
    weight: np.ndarray | None = None
    error: Any = None

    def weights(self) -> np.ndarray:
        """``weight``, without None."""
        return np.ones(len(self.reward), np.float32) if self.weight is None else self.weight


class Replay:
    """A columnar ring of the last ``capacity`` transitions; one thread may ``add`` while another ``sample``s.

        added = replay.add(fragment)              # copies the fragment once
        batch = replay.sample(256, rng)           # uniform, with replacement
        replay.learned(batch)                     # after the update

    Always ``num_added == num_trained + num_unsampled + num_evicted``: what has been in a sample batch, what is
    stored and has not, and what was overwritten before it was.

    Fragments of one episode must arrive in the order of its steps to be linked; one that comes late is still
    correct, with shorter returns across the gap.

    Args:
        capacity: transitions held.
        n_step: rewards summed at most, n.
        gamma: discount factor γ per step.
        first_number: the number of the first transition that will be added; > 0 when only the end of the log is
            refilled.
        duration_limit: of ``duration_weights``; None: durations do not count.
        device: where observations are kept, and come as tensors; None: in this machine's memory, as arrays.
    """

    def __init__(
        self,
        capacity: int,
        n_step: int = 1,
        gamma: float = 0.99,
        first_number: int = 0,
        duration_limit: float | None = None,
        device: str | None = None,
    ):
        if capacity < 1 or n_step < 1:
            raise ConfigError(f"the replay needs capacity ≥ 1 and n_step ≥ 1; got {capacity} and {n_step}")
        self.capacity, self.n_step, self.gamma = capacity, n_step, gamma
        self._duration_limit, self._device = duration_limit, device
        self._oldest = self._next = first_number  # stored: the numbers in [oldest, next)
        self._evicted, self._unsampled = first_number, 0
        # allocated by the first fragment, which brings the shapes and dtypes
        self._specs: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        self._columns: Columns = {}  # name → [capacity, …]
        self._observations = StoredObservations(capacity, {}, device)
        self._free: list[int] = []  # rows of the tails that hold nothing
        # (episode_uid, agent) → (number, step) of the newest transition, where it is stored and the episode goes on
        self._open: dict[tuple[int, int], tuple[int, int]] = {}
        self._fresh_until = 0  # slots below have been filled with impossible values (or data)
        self._sampled = np.zeros(0, bool)
        self._follow = np.zeros(0, np.int64)
        self._agent = np.zeros(0, np.int32)
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """Transitions stored."""
        return self._next - self._oldest

    @property
    def num_added(self) -> int:
        """Transitions taken in since the start of the run."""
        return self._next

    @property
    def num_unsampled(self) -> int:
        """Stored and never sampled."""
        return self._unsampled

    @property
    def num_evicted(self) -> int:
        """Overwritten and never sampled."""
        return self._evicted

    @property
    def num_trained(self) -> int:
        """Sampled at least once, stored or not."""
        with self._lock:
            return self._next - self._unsampled - self._evicted

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays when full."""
        arrays = (*self._columns.values(), self._sampled, self._follow, self._agent)
        return sum(array.nbytes for array in arrays) + self._observations.nbytes

    def add(self, fragment: Fragment) -> Added:
        """Copy a fragment in, overwriting the oldest transitions where there is no room.

        Raises:
            ConfigError: the fragment does not fit the capacity, or its shapes or dtypes are not those of the first
                one.
        """
        columns = fragment.columns
        count = fragment.num_transitions
        if count > self.capacity:
            raise ConfigError(
                f"a fragment of {count} transitions does not fit a replay of {self.capacity}: raise the capacity"
            )
        continues, named = _continuations(columns)
        with self._lock:
            self._allocate_or_check(columns)
            evicted = self._evict(count)
            self._store(columns)
            self._link(columns, continues, named)
            self._next += count
            self._unsampled += count
        return Added(count, evicted)

    def sample(self, batch_size: int, rng: np.random.Generator) -> SampleBatch:
        """Draw uniformly with replacement over what is stored, and mark it as sampled."""
        with self._lock:
            if self._next == self._oldest:
                raise ValueError("a sample batch needs at least one stored transition; the replay is empty")
            return self._gather(rng.integers(self._oldest, self._next, batch_size))

    def learned(self, batch: SampleBatch) -> None:
        """An update has been made with the batch, and its algorithm may have left errors in it."""

    def _slots(self, first: int, end: int) -> np.ndarray:
        """Of the transitions with numbers in [first, end)."""
        return np.arange(first, end) % self.capacity

    def sampled_state(self) -> dict[str, np.ndarray]:
        """Which of the stored transitions have been sampled, by number: what a checkpoint keeps beside the log's
        position."""
        with self._lock:
            slots = self._slots(self._oldest, self._next)
            return {
                "oldest": np.array(self._oldest, np.int64),
                "next": np.array(self._next, np.int64),
                "evicted": np.array(self._evicted, np.int64),
                "sampled": np.packbits(self._sampled[slots] if slots.size else np.zeros(0, bool)),
            }

    def restore_sampled(self, state: dict[str, np.ndarray]) -> None:
        """Restore flags and totals after refilling from the log, which may reach beyond the state and start later
        than it.

        Raises:
            StorageError: the log holds less than the state has seen.
        """
        oldest, following, evicted = (int(state[name]) for name in ("oldest", "next", "evicted"))
        with self._lock:
            if self._next < following:
                raise StorageError(
                    f"the checkpoint has seen {following} transitions, but the log refilled only {self._next}: "
                    "resume from an older checkpoint"
                )
            flags = np.unpackbits(state["sampled"], count=following - oldest).astype(bool)
            gone = min(max(self._oldest - oldest, 0), flags.size)  # in the state, no longer stored
            self._evicted = evicted + int(np.count_nonzero(~flags[:gone])) + max(self._oldest - following, 0)
            if self._next == self._oldest:
                return
            numbers = np.arange(self._oldest, self._next)
            sampled = numbers < oldest  # stored again by a larger capacity: already counted as trained or evicted
            known = (numbers >= oldest) & (numbers < following)
            sampled[known] = flags[numbers[known] - oldest]
            self._sampled[numbers % self.capacity] = sampled
            self._unsampled = int(np.count_nonzero(~sampled))

    def _gather(self, numbers: np.ndarray) -> SampleBatch:
        """The sample batch of these transitions, which it marks; any way of drawing numbers may use it (lock held)."""
        columns, capacity = self._columns, self.capacity
        slots = numbers % capacity
        unsampled = slots[~self._sampled[slots]]
        if unsampled.size:
            self._unsampled -= np.unique(unsampled).size
            self._sampled[unsampled] = True

        rewards = columns["reward"]
        last = slots  # of each horizon
        reward = rewards[slots].astype(np.float64)
        discount = np.full(slots.size, self.gamma)
        horizon = np.ones(slots.size, np.int32)
        for _ in range(1, self.n_step):
            follow = self._follow[last]
            on = follow < capacity
            if not on.any():
                break
            last = np.where(on, follow, last)
            reward[on] += discount[on] * rewards[last[on]]
            discount[on] *= self.gamma
            horizon += on
        discount[columns["terminated"][last]] = 0.0

        observation, next_observation = self._observations.gather(slots, self._follow[last])
        duration_s, limit = columns["duration_s"][slots], self._duration_limit
        return SampleBatch(
            observation=observation,
            action=columns["action"][slots],
            reward=reward.astype(np.float32),
            discount=discount.astype(np.float32),
            next_observation=next_observation,
            horizon=horizon,
            log_prob=columns["log_prob"][slots],
            policy_version=columns["policy_version"][slots],
            duration_s=duration_s,
            fidelity=columns["fidelity"][slots],
            number=numbers,
            weight=None if limit is None else duration_weights(duration_s, limit),
        )

    def _allocate_or_check(self, columns: Columns) -> None:
        paths = sorted(name[len(OBSERVATION) :] for name in columns if name.startswith(OBSERVATION))
        specs = {
            name: (columns[name].shape[2:], columns[name].dtype)
            for name in (*KEPT, "action", *(OBSERVATION + path for path in paths))
        }
        for name in specs if self._specs else ():
            if self._specs.get(name) != specs[name]:
                was, now = (
                    f"{its[name][1]} {its[name][0]}" if name in its else "absent" for its in (self._specs, specs)
                )
                raise ConfigError(f"the replay needs fragments of one kind: column {name!r} was {was}, now {now}")
        if self._specs:
            return
        self._specs = specs
        self._observations = StoredObservations(
            self.capacity, {path: specs[OBSERVATION + path] for path in paths}, self._device
        )
        kept = {name: specs[name] for name in (*KEPT, "action")} | {"duration_s": ((), np.dtype(np.float32))}
        self._columns = {name: np.empty((self.capacity, *shape), dtype) for name, (shape, dtype) in kept.items()}
        self._sampled = np.zeros(self.capacity, bool)
        self._follow = np.empty(self.capacity, np.int64)
        self._agent = np.empty(self.capacity, np.int32)

    def _evict(self, count: int) -> int:
        """Make room for ``count`` transitions; return how many of those that go were never sampled."""
        oldest = max(self._oldest, self._next + count - self.capacity)
        if oldest == self._oldest:
            return 0
        slots = np.arange(self._oldest, oldest) % self.capacity
        for slot in slots[self._follow[slots] >= self.capacity]:
            self._free.append(int(self._follow[slot]) - self.capacity)
            key = (int(self._columns["episode_uid"][slot]), int(self._agent[slot]))
            newest = self._open.get(key)
            if newest is not None and newest[0] < oldest:
                del self._open[key]  # its successor, should it come, begins a chain of its own
        evicted = slots.size - int(np.count_nonzero(self._sampled[slots]))
        self._oldest = oldest
        self._unsampled -= evicted
        self._evicted += evicted
        return evicted

    def _store(self, columns: Columns) -> None:
        """Write the fragment's [T, B] time-major behind the newest transition, in one or (round the end) two
        pieces."""
        num_steps, num_rows = columns["reward"].shape
        count = num_steps * num_rows
        start = self._next % self.capacity
        head = min(count, self.capacity - start)
        self._poison(start + head)

        def write(target: np.ndarray, values: np.ndarray) -> None:
            flat = values.reshape(count, *target.shape[1:])
            target[start : start + head] = flat[:head]
            target[: count - head] = flat[head:]

        for name, target in self._columns.items():
            write(target, columns["end_s"] - columns["start_s"] if name == "duration_s" else columns[name])
        own = {path: array[:num_steps] for path, array in _observations(columns).items()}  # without the bootstrap row
        self._observations.put(start, {path: array.reshape(count, *array.shape[2:]) for path, array in own.items()})
        write(self._agent, np.broadcast_to(columns["agent_index"], (num_steps, num_rows)))
        write(self._sampled, np.zeros(count, bool))

    def _link(self, columns: Columns, continues: np.ndarray, named: np.ndarray) -> None:
        """Point every transition of the fragment at what follows it, and the ends of earlier fragments at this one."""
        num_steps, num_rows = continues.shape
        numbers = self._next + np.arange(num_steps * num_rows).reshape(num_steps, num_rows)
        follow = (numbers + num_rows) % self.capacity

        ends = np.argwhere(~continues)  # [E, 2], each with a tail of its own
        tails = self._take_tails(len(ends))
        follow[~continues] = self.capacity + tails
        seen, final = _observations(columns), columns.get("final_index")
        self._observations.put_aside(tails, {path: array[ends[:, 0] + 1, ends[:, 1]] for path, array in seen.items()})
        if final is not None and len(final):
            rows = follow[final[:, 0], final[:, 1]] - self.capacity
            self._observations.put_aside(rows, {path: columns[FINAL + path] for path in seen})
        self._follow[numbers % self.capacity] = follow

        uid, step, agent = columns["episode_uid"], columns["step"], columns["agent_index"]
        over = columns["terminated"][-1] | columns["truncated"][-1] | named[-1]
        for row in range(num_rows):
            newest = self._open.pop((int(uid[0, row]), int(agent[row])), None)
            if newest is not None and newest[1] + 1 == step[0, row]:
                slot = newest[0] % self.capacity
                self._free.append(int(self._follow[slot]) - self.capacity)
                self._follow[slot] = numbers[0, row] % self.capacity
            if not over[row]:
                self._open[int(uid[-1, row]), int(agent[row])] = (int(numbers[-1, row]), int(step[-1, row]))

    def _take_tails(self, count: int) -> np.ndarray:
        """Free rows of the side store, int64 [count]; it doubles when it has too few (short episodes need more of
        them)."""
        while len(self._free) < count:
            size = self._observations.num_rows
            more = max(64, size)
            self._observations.add_rows(more)
            self._free.extend(range(size + more - 1, size - 1, -1))
        taken = self._free[len(self._free) - count :]
        del self._free[len(self._free) - count :]
        return np.array(taken, np.int64)

    def _poison(self, until: int) -> None:
        """Fill slots with impossible values a block ahead of the first lap: memory is touched only as the replay
        fills."""
        while self._fresh_until < until:
            block = slice(self._fresh_until, min(self._fresh_until + max(1024, self.capacity // 64), self.capacity))
            for array in (*self._columns.values(), self._follow, self._agent):
                fill_impossible(array[block])
            self._observations.forget(block)
            self._fresh_until = block.stop


def _observations(columns: Columns) -> Observation:
    """path → [T + 1, B, …]."""
    return {name.removeprefix(OBSERVATION): array for name, array in columns.items() if name.startswith(OBSERVATION)}


def _continuations(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Where the next step of the same row belongs to the same episode, bool [T, B], and where a final observation is
    given."""
    uid, step = columns["episode_uid"], columns["step"]
    named = np.zeros(uid.shape, bool)
    final = columns.get("final_index")
    if final is not None and len(final):
        named[final[:, 0], final[:, 1]] = True
    continues = np.zeros(uid.shape, bool)
    over = (columns["terminated"] | columns["truncated"] | named)[:-1]
    continues[:-1] = ~over & (uid[1:] == uid[:-1]) & (step[1:] == step[:-1] + 1)
    lost = ~(continues | named | columns["terminated"])[:-1]
    if lost.any():
        t, b = np.argwhere(lost)[0]
        raise ValueError(
            f"a transition that does not terminate needs its next observation: at ({t}, {b}) the fragment goes on "
            "with another episode and final_index does not name it"
        )
    return continues, named
