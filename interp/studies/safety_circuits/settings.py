"""Settings of the safety-circuits study."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class CircuitSettings(BaseModel):
    """What is looked at, and how much of it."""

    model_config = ConfigDict(extra="forbid")
    categories: list[str] | None = Field(default=None, min_length=1, description="some of the benchmark's; all if null")
    triples: int | None = Field(default=None, ge=8, description="at most so many of each category; all if null")
    benchmark: str | None = Field(default=None, description="triples of one's own, as data/safety_prompts.jsonl")
    template: str | None = Field(default=None, description="how a request is put, with {prompt}; null: the model's own")
    refuse: str | None = Field(default=None, description="first word of a refusal; null: as the model's card says")
    comply: str | None = Field(default=None, description="first word of compliance; null: as the model's card says")
    at: Literal["largest", "answer"] = Field(
        default="largest", description="a prompt stands with its largest activation, or with that where it is answered"
    )
    min_frequency: float = Field(default=0.1, ge=0, le=1, description="share of a group's prompts to be described at")
    min_activation: float = Field(default=0.0, ge=0, description="activation above which a feature is active")
    level: float = Field(default=0.05, gt=0, lt=1, description="family-wise level over all contrasts")
    resamples: int = Field(default=9999, ge=99, description="permutations of each test")
    graphs: int | None = Field(default=16, ge=8, description="triples of each category with graphs; all if null")
    max_feature_nodes: int = Field(default=300, ge=1, description="features kept in a graph; others join its errors")
    nodes: float = Field(default=0.8, gt=0, le=1, description="share of influence whose nodes a graph keeps")
    edges: float = Field(default=0.98, gt=0, le=1, description="share of influence whose edges a graph keeps")
    checked: int = Field(default=6, ge=1, description="features of each graph that are switched off and doubled")
    mine_patterns: bool = Field(default=True, description="whether motifs are sought")
    support: float = Field(default=0.3, gt=0, le=1, description="share of prompts that have a set of edges to be kept")
    rewired: int = Field(default=199, ge=39, description="copies of the graphs that triads are counted against")
    matched: int = Field(default=50, ge=19, description="matched sets of features in the causal test")
    shuffled: int = Field(default=20, ge=3, description="contrasts with labels shuffled within triples")
    memory: int = Field(default=1 << 30, ge=1 << 20, description="bytes of working memory")
    seed: int = 0
