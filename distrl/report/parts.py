"""What sections of a page are made of: words in, HTML out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distrl.report.facts import RunFacts
from distrl.report.words import escaped


@dataclass(frozen=True)
class Part:
    """Attributes: anchor: of links. title: of the section. content: HTML."""

    anchor: str
    title: str
    content: str


def none(reason: str) -> str:
    return f'<p class="none">{escaped(reason)}</p>'


def run_name(run: RunFacts, several: bool) -> str:
    return f"<h3>{escaped(run.name)}</h3>" if several else ""


def key_of(entries: Sequence[tuple[str, str]]) -> str:
    items = "".join(f'<li><i style="background:{colour}"></i>{escaped(text)}</li>' for colour, text in entries)
    return f'<ul class="key">{items}</ul>'
