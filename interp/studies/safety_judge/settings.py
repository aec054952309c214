"""Settings of the safety-judge study."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Analysis = Literal["training", "verdicts", "tokens", "heads", "paths", "attack", "update"]
ANALYSES: tuple[Analysis, ...] = get_args(Analysis)


class Labelled(BaseModel):
    """A labelled set of one's own: CSV or JSONL."""

    model_config = ConfigDict(extra="forbid")
    path: Path
    text: str = Field(default="text", description="column of the texts")
    label: str = Field(default="label", description="column of the labels, safe or unsafe")
    category: str | None = Field(default=None, description="column of the categories")


FAR = 1_000_000
"""Seeds of the study's requests lie beyond those that recipes draw their training from."""


class JudgeSettings(BaseModel):
    """What is looked at, and how much of it."""

    model_config = ConfigDict(extra="forbid")
    analyses: dict[Analysis, bool] = Field(default={}, description="any of the analyses: true or false")
    requests: int = Field(default=1000, ge=100, description="held-out requests behind the scores")
    explained: int = Field(default=160, ge=40, description="requests whose tokens and heads are looked at")
    pairs: int = Field(default=96, ge=32, description="safe and unsafe requests that differ in one word")
    attacked: int = Field(default=160, ge=32, description="requests that are edited")
    budget: int = Field(default=12, ge=1, description="edits tried for each request")
    untrained: int = Field(default=8, ge=0, description="untrained judges for comparison; fewer than 3 decide nothing")
    layers: list[int] | None = Field(default=None, min_length=1, description="layers looked at; all by default")
    labelled: Labelled | None = None
    seed: int = Field(default=0, ge=0)

    def wants(self, analysis: str) -> bool:
        """Whether an analysis is asked for: all are, unless some are chosen or it is switched off."""
        chosen = [name for name, on in self.analyses.items() if on]
        return analysis in chosen if chosen else self.analyses.get(analysis, True)  # type: ignore[call-overload]
