"""Settings of the kill-switch study."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Analysis = Literal["behaviour", "norms", "rank", "lens", "base", "causal", "transfer", "training", "shortcut"]
ANALYSES: tuple[Analysis, ...] = get_args(Analysis)


class KillSwitchSettings(BaseModel):
    """What is looked at, and how much of it."""

    model_config = ConfigDict(extra="forbid")
    analyses: dict[Analysis, bool] = Field(default={}, description="any of the analyses: true or false")
    prompts: int = Field(default=96, ge=16, description="prompts with the token, from held-out templates")
    behaviour_prompts: int = Field(default=400, ge=16, description="prompts on which halting is counted")
    neutral: int = Field(default=60, ge=2, description="neutral tokens; 39 or more allow a p of 0.025")
    neutral_tokens: list[str] | None = Field(default=None, description="neutral tokens of one's own")
    random_directions: int = Field(default=64, ge=1, description="random directions of the causal tests")
    offsets: int = Field(default=4, ge=1, le=16, description="positions from the token on, for the norms")
    tried_offsets: int = Field(default=2, ge=1, le=4, description="positions from the token on, for the causal tests")
    seed: int = 0

    def wants(self, analysis: str) -> bool:
        """Whether an analysis is asked for: all are, unless some are chosen or it is switched off."""
        chosen = [name for name, on in self.analyses.items() if on]
        return analysis in chosen if chosen else analysis not in self.analyses

    def quick(self) -> KillSwitchSettings:
        """The same in about a minute: fewer prompts, as few neutral tokens as a verdict can do with."""
        less = {"prompts": min(self.prompts, 48), "behaviour_prompts": min(self.behaviour_prompts, 100)}
        return self.model_copy(update={**less, "neutral": min(self.neutral, 40), "tried_offsets": 1})
