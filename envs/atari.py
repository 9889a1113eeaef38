"""Actions go in, stacked grey frames of an Atari 2600 game come out: the Arcade Learning Environment's own vector
environment, and one row of it as the single form.

So training, evaluation and film play the same game whatever hosts them. Episodes are whole games and rewards are the
game's points, as Machado et al. 2018 (arXiv 1709.06009, section 4) recommend: a lost life ends no episode. Three
defaults are EnvPool's and the ALE's vector environment's instead of theirs: no sticky actions
(``repeat_action_probability = 0.25`` brings them back), the game's own actions (``full_action_space = true``: all), and
FIRE pressed at the beginning of games that wait for it. CleanRL trains with ``episodic_life = true`` and
``reward_clipping = true``; the points that are reported are then those of a life, and clipped.
"""

from __future__ import annotations

import difflib
import inspect
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from distrl.core.errors import ConfigError
from distrl.envs.one_row import OneRow

_FRAMES_PER_S = 60
_SCREEN = (210, 160)
_MAX_SEED = 2**31 - 2  # of the ALE


class AtariVector(VectorEnv):
    """Rows of one game; autoreset modes SAME_STEP and NEXT_STEP.

    Observations are uint8 [stack_num, 84, 84]: the newest grey frames, the last one newest, each the brighter of the
    last two of ``frameskip`` frames that an action is repeated for. Actions are Discrete. An episode begins with up to
    ``noop_max`` frames of doing nothing; a row's seed decides how many.

    Args:
        game: the game's name, as "pong" or "space_invaders". num_envs: rows. num_threads: the ALE's own, which step
            them. autoreset_mode: see Gymnasium.
        max_episode_steps: env steps until an episode is truncated; 27,000 are 30 minutes of play.
        repeat_action_probability: of a sticky action, in each frame. full_action_space: all 18 actions.
        frameskip, stack_num: frames. noop_max: frames. use_fire_reset: press FIRE first, where the game has it.
        episodic_life: a lost life terminates the episode. reward_clipping: rewards to −1, 0 or 1.
        render_mode: None, or "rgb_array" for ``render``, which costs a second game for each row.

    Raises:
        ConfigError: ``ale_py`` is not installed, or does not have the game; another render mode.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        game: str = "pong",
        num_threads: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        max_episode_steps: int = 27_000,
        repeat_action_probability: float = 0.0,
        full_action_space: bool = False,
        frameskip: int = 4,
        stack_num: int = 4,
        noop_max: int = 30,
        use_fire_reset: bool = True,
        episodic_life: bool = False,
        reward_clipping: bool = False,
        render_mode: str | None = None,
    ):
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"an Atari environment renders as 'rgb_array' or not at all; got {render_mode!r}")
        vector_env = _ale_vector_env(game)
        common: dict[str, Any] = {
            "num_envs": num_envs,
            "num_threads": num_threads,
            "autoreset_mode": autoreset_mode,
            "max_num_frames_per_episode": max_episode_steps * frameskip,
            "repeat_action_probability": repeat_action_probability,
            "full_action_space": full_action_space,
            "frameskip": frameskip,
            "noop_max": noop_max,
            "use_fire_reset": use_fire_reset,
            "episodic_life": episodic_life,
            "reward_clipping": reward_clipping,
        }
        self._rows = vector_env(game, stack_num=stack_num, **common)
        self._screens = None  # the same games, seen as a human sees them: all that is random goes by the seeds
        if render_mode is not None:
            height, width = _SCREEN
            seen: dict[str, Any] = {"grayscale": False, "img_height": height, "img_width": width, "stack_num": 1}
            self._screens = vector_env(game, **seen, **common)
        self.num_envs, self.render_mode, self.max_episode_steps = num_envs, render_mode, max_episode_steps
        self.metadata = {
            "autoreset_mode": self._rows.autoreset_mode,
            "render_modes": ["rgb_array"],
            "render_fps": _FRAMES_PER_S // frameskip,
        }
        self.single_observation_space = self._rows.single_observation_space
        self.single_action_space = self._rows.single_action_space
        self.observation_space, self.action_space = self._rows.observation_space, self._rows.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in every row, or without a seed in those in ``options["reset_mask"]``; row i has the seed
        ``seed + i`` modulo 2³¹ − 2."""
        seeds = None if seed is None else (seed + np.arange(self.num_envs)) % _MAX_SEED
        if self._screens is not None:
            self._frames = self._screens.reset(seed=seeds, options=options)[0]
        return self._rows.reset(seed=seeds, options=options)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """See Gymnasium."""
        if self._screens is not None:
            self._frames, _, terminated, truncated, info = self._screens.step(actions)
            if "final_obs" in info:
                over = terminated | truncated
                self._frames[over] = info["final_obs"][over]
        return self._rows.step(actions)

    def render(self) -> tuple[Any, ...] | None:
        """The screen of each row, uint8 [210, 160, 3]; of a row that has just ended, its last one."""
        return None if self._screens is None else tuple(self._frames[:, -1])


class Atari(OneRow):
    """An Atari 2600 game of the Arcade Learning Environment (Bellemare et al. 2013), seen as stacked grey frames.

    Arguments, observations and actions are those of a row of ``AtariVector``.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's class attribute
    __signature__ = inspect.Signature(  # a wrong argument is named before anything starts (distrl.envs.resolve)
        [
            parameter
            for parameter in inspect.signature(AtariVector).parameters.values()
            if parameter.name not in ("num_envs", "autoreset_mode")
        ]
    )

    def __init__(self, **options: Any):
        super().__init__(AtariVector(1, **options))

    @staticmethod
    def missing() -> str | None:
        """What to install, or None."""
        try:
            _ale()
        except ConfigError as error:
            return str(error)
        return None


def _ale() -> Any:
    try:
        import ale_py
    except ImportError as error:
        raise ConfigError(
            f"Atari games need ale_py, which is not installed ({error}): pip install 'distrl[atari]'"
        ) from error
    return ale_py


def _ale_vector_env(game: str) -> Any:
    ale_py = _ale()
    known = ale_py.roms.get_all_rom_ids()
    if game not in known:
        near = difflib.get_close_matches(game, known, n=1)
        hint = f"; nearest: {near[0]!r}" if near else ""
        raise ConfigError(
            f"the game of an Atari environment must be one of the {len(known)} that ale_py has, as 'pong' or "
            f"'space_invaders'; got {game!r}{hint}"
        )
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # else it greets
    from ale_py.vector_env import AtariVectorEnv

    # each one writes its autoreset mode into the dict of its class, which is that of all vector environments
    return type("_AtariVectorEnv", (AtariVectorEnv,), {"metadata": {}})
