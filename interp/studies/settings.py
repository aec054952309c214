"""What a user may choose in an analysis: the keys of the YAML and of the command."""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_serializer, model_validator

from interp.errors import ConfigError
from interp.metrics import METRICS
from interp.models.load import HookedTransformer, Weights, info
from interp.sites import AXES

Analysis = Literal[
    "attention",
    "logit-lens",
    "patching",
    "circuits",
    "interventions",
    "attribution",
    "weights",
    "probing",
    "learning",
]
ANALYSES: tuple[Analysis, ...] = get_args(Analysis)


class Pair(BaseModel):
    """A clean and a corrupted prompt for patching in any model."""

    model_config = ConfigDict(extra="forbid")
    clean: str
    corrupted: str
    answer: str = Field(description="what should follow the clean prompt; its first token counts")
    foil: str = Field(description="what should follow the corrupted prompt")


class Example(BaseModel):
    """A prompt that is drawn by itself: a text, or a problem with the columns whose carry is looked at."""

    model_config = ConfigDict(extra="forbid")
    text: str
    carries: list[str] = Field(default=[], description="columns out of which a carry (borrow) goes: ones, tens, ...")

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, value: object) -> object:
        return {"text": value} if isinstance(value, str) else value

    @model_serializer
    def _as_given(self) -> str | dict[str, object]:
        return {"text": self.text, "carries": self.carries} if self.carries else self.text


class Probe(BaseModel):
    """A probe for a label column of the prompts."""

    model_config = ConfigDict(extra="forbid")
    label: str = Field(description="a label column, for instance carry.tens")
    at: list[str | int] = Field(min_length=1, description="roles or indices of tokens at which it is read")
    key: list[str] = Field(min_length=1, description="label columns that the control task's random labels hang on")


class Settings(BaseModel):
    """Settings of `interp analyze` and `interp run`."""

    model_config = ConfigDict(extra="forbid")
    examples: list[Example] = Field(default=[], description="prompts that are drawn one by one")
    pairs: list[Pair] = Field(default=[], description="pairs for patching; arithmetic models make their own")
    analyses: dict[Analysis, bool] = Field(default={}, description="turns analyses on or off; all are on by default")
    layers: list[int] | None = Field(
        default=None, min_length=1, description="layers whose attention is read and that are patched; all by default"
    )
    heads: list[str] = Field(default=[], description="heads drawn alone, as L0H1; by default the best one of each job")
    roles: list[str | int] | None = Field(
        default=None, min_length=1, description="positions to patch: roles, or indices of tokens"
    )
    sites: list[str] = Field(
        default=["resid_pre", "attn_out", "mlp_out", "z"], min_length=1, description="what is patched"
    )
    metrics: list[str] = Field(default=["logit_diff"], min_length=1, description="metrics of patching")
    weights: Weights = Field(default="raw", description="raw, or processed: norms folded and weights centred")
    direction: Literal["denoising", "noising"] = "denoising"
    problems: int = Field(
        default=300, ge=20, description="generated problems behind every statistic (arithmetic models)"
    )
    pairs_per_kind: int = Field(
        default=160, ge=20, description="generated minimal pairs of each kind (arithmetic models)"
    )
    ablation: Literal["zero", "mean", "resample"] = Field(default="mean", description="what ablation writes")
    probes: list[Probe] = Field(default=[], description="probes beside the study's own, by label column")
    untrained: int = Field(default=8, ge=0, description="untrained models for comparison; fewer than 3 decide nothing")
    seed: int = Field(default=0, ge=0)

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: list[str]) -> list[str]:
        known = [name for name in METRICS if name != "kl"]
        for name in value:
            if name not in known:
                raise ValueError(f"there is no metric {name!r} for patching; choose from {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _weights_fit(self) -> Settings:
        needy = [name for name in self.metrics if METRICS[name].weights == "processed"]
        if needy and self.weights != "processed":
            raise ValueError(f"the metric {needy[0]!r} needs weights: processed")
        return self

    @field_validator("sites")
    @classmethod
    def _known_sites(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in AXES or name in ("logits", "features"):
                known = ", ".join(site for site in AXES if site not in ("logits", "features"))
                raise ValueError(f"there is no site {name!r}; choose from {known}")
        return value

    @field_validator("heads")
    @classmethod
    def _spelled_heads(cls, value: list[str]) -> list[str]:
        for name in value:
            if not re.fullmatch(r"L\d+H\d+", name):
                raise ValueError(f"{name!r} is no head; write it like L0H1")
        return value

    @property
    def texts(self) -> list[str]:
        """The examples as text."""
        return [one.text for one in self.examples]

    def wants(self, analysis: str) -> bool:
        """Whether an analysis is turned on."""
        return {**dict.fromkeys(ANALYSES, True), **self.analyses}[analysis]

    @property
    def single_heads(self) -> list[tuple[int, int]]:
        """Heads to draw alone, as (layer, head)."""
        found = [re.fullmatch(r"L(\d+)H(\d+)", name) for name in self.heads]
        return [(int(m[1]), int(m[2])) for m in found if m]


def chosen_layers(model: HookedTransformer, settings: Settings) -> list[int]:
    """The layers to look at. Raises ConfigError where a layer or a single head is not in the model."""
    known = info(model)
    layers = list(range(known.n_layers)) if settings.layers is None else settings.layers
    for layer in layers:
        if not 0 <= layer < known.n_layers:
            raise ConfigError(f"there is no layer {layer}: {known.name} has layers 0 to {known.n_layers - 1}")
    for layer, head in settings.single_heads:
        if layer not in layers or head >= known.n_heads:
            raise ConfigError(
                f"there is no head L{layer}H{head} to draw: looked at are layers {layers} of {known.name}, "
                f"each with heads 0 to {known.n_heads - 1}"
            )
    return layers
