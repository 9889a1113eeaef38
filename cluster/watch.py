"""The id of a run and a cluster's address in, the run's statuses out as its supervisor tells them: for whoever cannot
see its directory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from distrl.core.errors import ConfigError

_POLL_S = 1.0
_ANSWER_S = 30.0
_PREFIX = "supervisor-"


def follow_on_cluster(run_id: str, address: str) -> Iterator[list[dict[str, Any]]]:
    """As ``distrl.monitor.watch.follow``, from now on; the first status has ``steps``, the run's length.

    Raises:
        ConfigError: no cluster answers there, or the run is not running on it.
    """
    import ray

    try:
        ray.init(address=address, namespace="distrl", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"no Ray cluster can be joined at {address}: {str(error).splitlines()[0]}") from None
    try:
        try:
            supervisor: Any = ray.get_actor(_PREFIX + run_id)
        except ValueError:
            raise ConfigError(f"no run with the id {run_id} is running at {address}{_running()}") from None
        while True:
            try:
                status = ray.get(supervisor.status.remote(), timeout=_ANSWER_S)
            except ray.exceptions.RayActorError:
                yield [{"ended": "its supervisor has ended"}]
                return
            except ray.exceptions.GetTimeoutError:
                yield [{"phase": f"its supervisor has not answered for {_ANSWER_S:g} s"}]
                continue
            if status["phase"] == "failed":
                yield [{**status, "ended": f"it failed: {status['failure']}"}]
                return
            if status["phase"] == "ended":
                yield [{**status, "ended": "its training has ended"}]
                return
            yield [status]
            time.sleep(_POLL_S)
    finally:
        ray.shutdown()


def _running() -> str:
    import ray

    names = [
        actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == "distrl"
    ]
    ids = sorted(name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))
    return f"; there are {', '.join(ids)}" if ids else ""
