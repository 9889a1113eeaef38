"""An experience log in, a Parquet file or a Minari dataset out: what other tools read."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.errors import ConfigError, StorageError
from distrl.core.experience_log import read_log
from distrl.core.joint import equal_spaces
from distrl.core.log_facts import FILE, LogFacts
from distrl.core.spaces import leaves
from distrl.core.types import COLUMNS, DEFAULT_POLICY, OBSERVATION, AgentSpec, Fragment, Observation
from distrl.experience import OpenLog, next_observation, trajectories

_ROW_GROUP_BYTES = 32 << 20

#: Columns of a step that go into a Minari episode's infos.
INFOS = (
    "episode_uid",
    "agent_index",
    "step",
    "policy_version",
    "log_prob",
    "start_s",
    "end_s",
    "core_s",
    "attempt",
    "fidelity",
)


@dataclass(frozen=True)
class Exported:
    """Attributes: paths: what was written, files or the dataset's folder. what: it in one phrase."""

    paths: list[Path]
    what: str


class _File:
    """A Parquet file of one policy's transitions, which appears whole or not at all."""

    def __init__(self, path: Path, table: Any, metadata: dict[str, str]):
        import pyarrow.parquet as pq

        if path.exists():
            raise ConfigError(f"the export needs a file that does not exist yet, and {path} does: choose another --out")
        self.path, self._temporary = path, path.with_name(f".{path.name}.tmp-{os.getpid()}")
        self._schema = table.schema.with_metadata(metadata)
        self._plain = table.schema
        self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd")
        self._waiting: list[Any] = []
        self._bytes = 0

    def add(self, number: int, table: Any) -> None:
        if not table.schema.equals(self._plain):
            raise StorageError(
                f"a Parquet file needs fragments of one kind: fragment {number} has the columns {table.schema}, "
                f"those before it {self._plain}"
            )
        self._waiting.append(table)
        self._bytes += table.nbytes
        if self._bytes >= _ROW_GROUP_BYTES:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).replace_schema_metadata(self._schema.metadata))
        self._waiting, self._bytes = [], 0

    def finish(self) -> None:
        self._write()
        self._writer.close()
        os.replace(self._temporary, self.path)

    def drop(self) -> None:
        self._temporary.unlink(missing_ok=True)


def to_parquet(log: OpenLog, out: Path) -> Exported:
    """One row per transition of the log, in order of arrival; the schema is in docs/experience.md. What policies other
    than ``default`` did is in files of their own, whose names end in the policy's.

    The log is streamed: for each policy a row group of at least 32 MB is in memory, never the whole.

    Raises:
        ConfigError: a file exists. StorageError: it cannot be written, or a policy's fragments have several shapes.
    """
    files: dict[str, _File] = {}
    num_rows = 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for number, fragment in read_log(log.directory, damaged=log.damaged):
            table, policy = _table(number, fragment), fragment.policy_id
            if policy not in files:
                path = out if policy == DEFAULT_POLICY else out.with_stem(f"{out.stem}-{policy}")
                files[policy] = _File(path, table, _file_metadata(log))
            files[policy].add(number, table)
            num_rows += table.num_rows
        if not files:
            raise StorageError(f"{log.directory} holds no fragment that can be read: {'; '.join(log.damaged)}")
        for file in files.values():
            file.finish()
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        for file in files.values():
            file.drop()
    return Exported([file.path for file in files.values()], f"{num_rows} transitions")


def _file_metadata(log: OpenLog) -> dict[str, str]:
    path = log.directory / FILE
    return {"distrl.log": path.read_text()} if log.facts is not None else {}


def _table(number: int, fragment: Fragment) -> Any:
    """The rows of a fragment, time-major."""
    import pyarrow as pa

    shape = (fragment.num_steps, fragment.num_rows)
    arrays: dict[str, np.ndarray] = {
        "fragment": np.full(shape, number, np.int64),
        "worker": np.full(shape, fragment.worker, np.int32),
        "incarnation": np.full(shape, fragment.incarnation, np.int32),
        "policy_id": np.full(shape, fragment.policy_id),
    }
    for name, (_, axes) in COLUMNS.items():
        if axes != "K":
            arrays[name] = np.broadcast_to(fragment.columns[name], shape)
    arrays["action"] = fragment.columns["action"]
    following = next_observation(fragment)
    for path in following:
        arrays[OBSERVATION + path] = fragment.columns[OBSERVATION + path][:-1]
    arrays |= {f"next_{OBSERVATION}{path}": array for path, array in following.items()}
    columns, fields = [], []
    for name, array in arrays.items():
        inner = array.shape[2:]
        column = pa.array(array.reshape(-1))
        if inner:
            column = pa.FixedSizeListArray.from_arrays(column, int(np.prod(inner)))
        columns.append(column)
        fields.append(pa.field(name, column.type, metadata={"shape": str(list(inner))} if inner else None))
    return pa.table(columns, schema=pa.schema(fields))


def to_minari(log: OpenLog, out: Path) -> Exported:
    """A dataset ``distrl/<environment>-<run>-v0`` in the folder ``out``, which ``minari.load_dataset`` finds where the
    environment variable MINARI_DATASETS_PATH names that folder.

    A Minari dataset has one observation and one action space. So of an environment of several agents there is a dataset
    for each policy (``distrl/<environment>-<run>-<policy>-v0`` but for ``default``), in which an episode of each of its
    agents is an episode.

    Raises:
        ConfigError: Minari is not installed, the log has no description, agents of a policy have several spaces, or a
            dataset exists.
        StorageError: it cannot be written.
    """
    try:
        import h5py  # noqa: F401 - the format that every version of Minari reads
        import minari  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the export to Minari needs packages that are not installed ({error}): pip install 'distrl[export]'"
        ) from None

    facts = log.facts
    if facts is None:
        raise ConfigError(f"a Minari dataset needs the spaces, and {log.directory} has no {FILE} that can be read")
    base = f"distrl/{re.sub(r'[^A-Za-z0-9_-]+', '-', facts.env_id)}-{facts.run_id}"
    actors = _actors(log, facts)
    names = {policy: f"{base}-v0" if policy == DEFAULT_POLICY else f"{base}-{policy}-v0" for policy in actors}
    targets = [out.absolute() / name for name in names.values()]
    for target in targets:
        if target.exists():
            raise ConfigError(f"the dataset {target} exists already: choose another --out, or remove it")
    counts, whole = [0, 0], False
    try:
        with warnings.catch_warnings(), _datasets_in(out):
            warnings.simplefilter("ignore", UserWarning)  # about authors and permalinks, which a log has not
            for policy, name in names.items():
                dataset = _dataset(log, facts, policy, actors[policy], name)
                counts = [counts[0] + dataset.total_steps, counts[1] + dataset.total_episodes]
        whole = True
    except OSError as error:
        raise StorageError(f"{targets[0].parent} cannot be written: {error.strerror or error}") from error
    finally:
        for target in targets if not whole else []:
            shutil.rmtree(target, ignore_errors=True)
    said = f"dataset {targets[0].relative_to(out.absolute())}" if len(targets) == 1 else f"{len(targets)} datasets"
    return Exported(targets, f"{counts[0]} steps in {counts[1]} episodes, as the Minari {said}")


def _actors(log: OpenLog, facts: LogFacts) -> dict[str, AgentSpec]:
    """Policy → an agent that it acted for, whose spaces all of them have.

    Raises:
        ConfigError: they have several, as they may in a mix of runs.
    """
    if not facts.agents:
        return {DEFAULT_POLICY: AgentSpec("", facts.observation_space, facts.action_space)}
    found: dict[str, AgentSpec] = {}
    for _, fragment in read_log(log.directory, damaged=[]):
        for index in np.unique(fragment.columns["agent_index"]).tolist():
            agent = facts.agents[index]
            first = found.setdefault(fragment.policy_id, agent)
            if not equal_spaces(first, agent):
                raise ConfigError(
                    f"a Minari dataset has one space, but {fragment.policy_id!r} acted for {first.name!r} and "
                    f"{agent.name!r}, which have others: export to Parquet"
                )
    return found


def _dataset(log: OpenLog, facts: LogFacts, policy: str, actor: AgentSpec, name: str) -> Any:
    """Write what a policy did."""
    import gymnasium
    import minari

    episodes = (item for item in trajectories(log) if not facts.agents or item.policy_id == policy)
    whose = f"; agents by agent_index: {', '.join(agent.name for agent in facts.agents)}" if facts.agents else ""
    dataset = minari.create_dataset_from_buffers(
        name,
        _buffers(episodes, actor.observation_space),
        observation_space=actor.observation_space,
        action_space=actor.action_space,
        description=f"Experience of the distrl run {facts.run_id} on {facts.env_id}; env.kwargs = "
        f"{dict(facts.env_kwargs)}, env.fidelity = {facts.fidelity}{whose}.",
        data_format="hdf5",
        jpeg_encoding=False,  # it would lose what a pixel was
    )
    if facts.env_id in gymnasium.registry and not facts.agents:  # so that recover_environment makes it; not made now
        spec = gymnasium.spec(facts.env_id)
        spec.kwargs = {**spec.kwargs, **facts.env_kwargs}
        dataset.storage.update_metadata({"env_spec": spec.to_json()})
    return dataset


@contextlib.contextmanager
def _datasets_in(folder: Path) -> Iterator[None]:
    """Minari takes its folder from the environment alone."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder.absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _buffers(episodes: Iterator[Fragment], space: Any) -> Iterator[Any]:
    """Of episodes with B = 1, one by one."""
    from minari.data_collector import EpisodeBuffer

    for episode in episodes:
        columns = episode.columns
        following = next_observation(episode)
        observation = {
            path: np.concatenate([columns[OBSERVATION + path][:1, 0], array[:, 0]]) for path, array in following.items()
        }
        truncated = columns["truncated"][:, 0].copy()
        cut = not (truncated[-1] or columns["terminated"][-1, 0])
        truncated[-1] |= cut
        infos = {name: np.broadcast_to(columns[name], columns["reward"].shape)[:, 0] for name in INFOS}
        infos |= {name: np.full(len(truncated), getattr(episode, name)) for name in ("worker", "incarnation")}
        infos["cut"] = np.zeros(len(truncated), bool)
        infos["cut"][-1] = cut
        yield EpisodeBuffer(
            seed=int(columns["seed"][0, 0]),
            observations=_nest(space, observation),
            actions=columns["action"][:, 0],
            rewards=columns["reward"][:, 0],
            terminations=columns["terminated"][:, 0],
            truncations=truncated,
            # entry t + 1 belongs to step t, as Minari's collector has it; entry 0 belongs to the reset
            infos={name: np.concatenate([array[:1], array]) for name, array in infos.items()},
        )


def _nest(space: Any, observation: Observation) -> Any:
    """Arrays by "/"-path as the dicts and tuples of a space."""
    from gymnasium import spaces

    paths = {leaf.keys: leaf.path for leaf in leaves(space)}

    def build(sub: Any, keys: tuple[Any, ...]) -> Any:
        if isinstance(sub, spaces.Dict):
            return {key: build(child, (*keys, key)) for key, child in sub.spaces.items()}
        if isinstance(sub, spaces.Tuple):
            return tuple(build(child, (*keys, position)) for position, child in enumerate(sub.spaces))
        return observation[paths[keys]]

    return build(space, ())
