"""Finished matches in, one line each into a writer's own file; how often each player beat each other out.

``RUN/league/matches-<writer>.jsonl`` are appended to, never changed. Each process that has matches to report writes a
file of its own, so there is no lock, and whoever wants to know reads all of them, each time only what is new. A line
that a death has torn is cut off when its writer comes back, and until then not read.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distrl.core.errors import StorageError
from distrl.core.matchups import is_snapshot
from distrl.core.metrics import JsonLines

_WIN, _DRAW, _LOSS, _SCORE = range(4)


@dataclass(frozen=True)
class Match:
    """One finished game.

    Attributes:
        players: who sat where, two or more names; a policy that learns by its own name, a snapshot as ``main:000123``.
        scores: what each was paid (its episode return), in the same order. Whoever has more has won against whoever
            has less.
        env_steps: its length. end_s: Unix time when it ended.
    """

    players: tuple[str, ...]
    scores: tuple[float, ...]
    env_steps: int
    end_s: float

    def __post_init__(self) -> None:
        if len(self.players) < 2 or len(self.players) != len(self.scores):
            raise ValueError(
                f"a match needs two or more players and a score for each; got {self.players} and {self.scores}"
            )
        if not all(map(math.isfinite, self.scores)):
            raise ValueError(f"a match needs scores that are numbers; {self.players} got {self.scores}")


class MatchWriter:
    """Appends to one writer's file. May be used from several threads.

        writer = MatchWriter(run / "league", "supervisor")
        writer.add(Match(("main", "main:000123"), (1.0, -1.0), env_steps=7, end_s=time.time()))

    Args:
        writer: unique among the processes that live at the same time; after a restart the same one again.

    Raises:
        StorageError: the file cannot be written.
    """

    def __init__(self, directory: Path, writer: str):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the league's folder {directory} cannot be written: {error.strerror}") from error
        self._lines = JsonLines(directory / f"matches-{writer}.jsonl")
        self._lock = threading.Lock()

    def add(self, match: Match) -> None:
        """A game is over. One of a player against itself says nothing, and is not written.

        Raises:
            StorageError: the disk is full, or gone.
        """
        if len(set(match.players)) == 1:
            return
        with self._lock:
            self._lines.write(vars(match))

    def forget(self, player: str, end_s: float) -> None:
        """The player begins again: what it did before is not counted any more.

        Raises:
            StorageError: the disk is full, or gone.
        """
        with self._lock:
            self._lines.write({"forget": player, "end_s": end_s})

    def close(self) -> None:
        """Harmless when repeated."""
        self._lines.close()


class Payoffs:
    """What all matches of a league say.

        payoffs = Payoffs(run / "league")
        payoffs.read()                                   # what has come since the last call
        payoffs.win_rates("main", ["main:000100", "main:000200"])

    Of two snapshots every match counts the same. Where a policy learns, the past is another player's: each match of
    the pair first scales what was counted by 1 − 1/``window`` (FightLadder's payoffs: 0.99).

    Attributes:
        num_matches: read so far, those forgotten included. num_lines: of all files, read so far.
        num_settled: pairs of snapshots in them, whose results nothing makes obsolete.
    """

    def __init__(self, directory: Path, window: int = 100):
        """
        Args:
            window: about how many matches a win rate of a policy that learns is the mean of.
        """
        self._directory, self._keep = directory, 1.0 - 1.0 / window
        self._offsets: dict[Path, int] = {}  # bytes of each file that are read
        self._pairs: dict[tuple[str, str], np.ndarray] = {}  # seats in order → wins, draws, losses, score of the first
        self.num_matches = self.num_lines = self.num_settled = 0

    def read(self) -> int:
        """Take in what is new in all files; returns how many matches that were.

        Raises:
            StorageError: a line is not a match.
        """
        found: list[tuple[float, Match | str]] = []
        for path in sorted(self._directory.glob("matches-*.jsonl")):
            latest = -np.inf  # within a file the order of the lines decides, whatever the clock has done
            for end_s, what in self._new_lines(path):
                latest = max(latest, end_s)
                found.append((latest, what))
        before = self.num_matches
        self.num_lines += len(found)
        for _, what in sorted(found, key=lambda one: one[0]):
            if isinstance(what, Match):
                self._count(what)
            else:
                self._forget(what)
        return self.num_matches - before

    def players(self) -> list[str]:
        """Everybody who has played, by name."""
        return sorted({name for pair in self._pairs for name in pair})

    def counts(
        self, rows: Sequence[str], columns: Sequence[str], seats: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(wins, draws, losses) of the players ``rows`` against ``columns``, float64 [R, C].

        Args:
            seats: only matches in which the one of the row sat before the one of the column.
        """
        table = self._table(rows, columns, seats)
        return table[..., _WIN], table[..., _DRAW], table[..., _LOSS]

    def mean_scores(self, rows: Sequence[str], columns: Sequence[str], seats: bool = False) -> np.ndarray:
        """What ``rows`` were paid on average in matches with ``columns``, float64 [R, C]; NaN where there were none."""
        table = self._table(rows, columns, seats)
        matches = table[..., :_SCORE].sum(-1)
        return np.divide(table[..., _SCORE], matches, out=np.full(matches.shape, np.nan), where=matches > 0)

    def win_rates(self, player: str, opponents: Sequence[str], prior: float = 2.0) -> np.ndarray:
        """P(``player`` beats each opponent), draws as half, float64 [n], as if there had been ``prior`` draws before:
        1/2 where they never met, and nobody is written off after one match."""
        wins, draws, losses = (array[0] for array in self.counts([player], opponents))
        matches = wins + draws + losses
        rates = np.full(len(opponents), 0.5)
        return np.divide(wins + draws / 2 + prior / 2, matches + prior, out=rates, where=matches + prior > 0)

    def _table(self, rows: Sequence[str], columns: Sequence[str], seats: bool) -> np.ndarray:
        """float64 [R, C, 4]."""
        table = np.zeros((len(rows), len(columns), 4))
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                first, second = self._pairs.get((row, column)), self._pairs.get((column, row))
                if first is not None:
                    table[i, j] += first[:4]
                if second is not None and not seats:
                    table[i, j] += second[[_LOSS, _DRAW, _WIN, _SCORE + 1]]
        return table

    def _count(self, match: Match) -> None:
        self.num_matches += 1
        for i, (one, score) in enumerate(zip(match.players, match.scores, strict=True)):
            for j in range(i + 1, len(match.players)):
                other, others = match.players[j], match.scores[j]
                pair = self._pairs.setdefault((one, other), np.zeros(5))
                if is_snapshot(one) and is_snapshot(other):
                    self.num_settled += 1
                else:
                    pair *= self._keep
                    reverse = self._pairs.get((other, one))
                    if reverse is not None and reverse is not pair:
                        reverse *= self._keep
                pair[_WIN if score > others else _LOSS if score < others else _DRAW] += 1
                pair[_SCORE:] += score, others

    def _forget(self, player: str) -> None:
        self._pairs = {pair: counts for pair, counts in self._pairs.items() if player not in pair}

    def _new_lines(self, path: Path) -> Iterable[tuple[float, Match | str]]:
        """(when it ended, a match or who begins again)."""
        offset = self._offsets.get(path, 0)
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]  # the last line may still be under way, or torn
        self._offsets[path] = offset + len(content)
        for line in content.splitlines():
            try:
                record = json.loads(line)
                what = record["forget"] if "forget" in record else Match(**record)
                end_s = float(record["end_s"])
            except (ValueError, TypeError, KeyError) as error:
                raise StorageError(f"{path} holds a line that is not a match: {line[:80]!r} ({error})") from None
            yield end_s, what
