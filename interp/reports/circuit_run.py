"""What a finished study of circuits left in its folder, read and checked before a page is made of it.

A number may be null where it is undefined; keys that are not named here are passed over. Whatever is missing or of the
wrong kind is said in one line that names the file and the place in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from interp.errors import DataError
from interp.files import read_text

Number = Annotated[float | None, AfterValidator(lambda x: x if x is not None and math.isfinite(x) else None)]
Verdict = Literal["supported", "not supported", "undecided"]
KINDS = ("harmful", "safe_contrast", "benign_act")


class Interval(BaseModel):
    """A value with the ends of its interval and the number of prompts behind it."""

    value: Number
    low: Number = None
    high: Number = None
    n: int | None = None


class Finding(BaseModel):
    """One sentence with its statistics, and a verdict where one was drawn."""

    text: str
    verdict: Verdict | None = None


class Power(BaseModel):
    """The smallest effect that the pairs of a category can show."""

    category: str
    pairs: int | None = None
    detectable: Number = None


class Config(BaseModel):
    """`config.json`: what was run."""

    model: str
    transcoders: str | None = None
    categories: list[str]
    settings: dict[str, Any] = Field(default_factory=dict)
    findings: list[Finding] = Field(default_factory=list)
    power: list[Power] = Field(default_factory=list)


class Group(BaseModel):
    """Prompts of one kind and category."""

    name: str
    category: str
    kind: Literal["harmful", "safe_contrast", "benign_act"]
    prompts: int | None = None


class InGroup(BaseModel):
    """A feature over the prompts of a group."""

    frequency: Interval | None = None
    mean_activation: Interval | None = None
    importance: Number = None
    influence: Interval | None = None


class Context(BaseModel):
    """A prompt at which a feature is active."""

    tokens: list[str]
    at: int
    activation: Number = None
    prompt: str = ""


class Feature(BaseModel):
    """A feature of a transcoder, with what it reads and writes."""

    name: str
    layer: int
    feature: int
    groups: dict[str, InGroup] = Field(default_factory=dict)
    top_tokens: list[tuple[str, Number]] = Field(default_factory=list)
    bottom_tokens: list[tuple[str, Number]] = Field(default_factory=list)
    contexts: list[Context] = Field(default_factory=list)
    sentence: str = ""


class Features(BaseModel):
    """`category_features.json`."""

    groups: list[Group]
    features: list[Feature]


class Contrast(BaseModel):
    """A feature on harmful prompts beside their safe twins."""

    name: str
    layer: int
    feature: int
    harmful_mean: Number = None
    safe_mean: Number = None
    effect: Interval | None = None
    auc: Number = None
    p: Number = None
    discovered: bool = False
    confirmed: bool = False
    survives_safe_contrast: bool = False
    survives_benign_act: bool = False
    kind: Literal["unique", "shared", "differential", "none"] | None = None
    sentence: str = ""


class Pairs(BaseModel):
    """Pairs of prompts in each part of the data."""

    discovery: int | None = None
    confirmation: int | None = None
    causal: int | None = None


class Category(BaseModel):
    """The features of a category that were compared."""

    pairs: Pairs = Field(default_factory=Pairs)
    tested: int | None = None
    """Features that the contrast tried; `features` lists those of which there is something to tell."""
    why_not: str = ""
    """Why nothing could be confirmed."""
    features: list[Contrast] = Field(default_factory=list)


class Causal(BaseModel):
    """What an intervention did, beside its control."""

    name: str
    effect: Interval | None = None
    control: Interval | None = None
    verdict: Verdict | None = None
    sentence: str = ""


class Contrasts(BaseModel):
    """`contrasting_features.json`."""

    categories: dict[str, Category]
    causal: list[Causal] = Field(default_factory=list)


class End(BaseModel):
    """One end of an edge of a motif."""

    type: Literal["feature", "token", "error", "logit"]
    name: str


class Edge(BaseModel):
    """An edge of a motif; its sign is that of its weight."""

    source: End
    target: End
    sign: Literal[1, -1]


class Motif(BaseModel):
    """A set of edges that the graphs of a category have in common."""

    edges: list[Edge]
    support_harmful: Interval | None = None
    support_safe: Interval | None = None
    p: Number = None
    q: Number = None
    confirmed: bool = False
    sentence: str = ""


class Triad(BaseModel):
    """Three nodes and how they are linked, counted over all graphs."""

    name: str
    shape: Literal["chain", "fan_out", "fan_in", "triangle"]
    types: list[str]
    signs: list[Literal[1, -1]]
    count: Number = None
    expected: Number = None
    p: Number = None
    q: Number = None


class Motifs(BaseModel):
    """`<category>_motifs.json`."""

    category: str
    graphs: dict[str, int] = Field(default_factory=dict)
    mined: int | None = None
    """Sets that were compared; `sets` may list some of them."""
    left_out: int = 0
    """Frequent sets beyond the cap, which were not looked at."""
    level: Number = None
    """Family-wise, of `p`."""
    confirmed: int | None = None
    sets: list[Motif] = Field(default_factory=list)
    triads: list[Triad] = Field(default_factory=list)


class Node(BaseModel):
    """A node of a graph in Neuronpedia's schema."""

    node_id: str
    layer: str
    ctx_idx: int
    feature_type: str
    feature: int | None = None
    influence: Number = None
    activation: Number = None
    token_prob: Number = None
    clerp: str | None = None


class Link(BaseModel):
    """An edge of a graph."""

    source: str
    target: str
    weight: Number


class About(BaseModel):
    """Whose graph it is."""

    prompt_tokens: list[str]
    prompt: str = ""
    slug: str = ""


class GraphFile(BaseModel):
    """The graph of a prompt as `interp.circuits.export` writes it."""

    metadata: About
    nodes: list[Node]
    links: list[Link]


File = TypeVar("File", bound=BaseModel)


def read(path: Path, kind: type[File]) -> File:
    """A file of the run. Raises DataError naming the first place that is wrong."""
    try:
        return kind.model_validate_json(_utf8(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {place + ': ' if place else ''}{first['msg']}") from None


def _utf8(path: Path) -> bytes:
    return read_text(path).encode()


def motif_files(run: Path, config: Config) -> Iterator[Path]:
    """The motifs of each category for which some were sought."""
    for category in config.categories:
        if Path(category).name != category:
            raise DataError(f"{run / 'config.json'}: categories: {category!r} cannot be part of a file's name")
        path = run / f"{category}_motifs.json"
        if path.exists():
            yield path


def graph_files(run: Path, config: Config) -> Iterator[tuple[str, str, Path]]:
    """Category, kind and file of every graph, in the order of the categories."""
    folders = {folder.name: folder for folder in sorted((run / "graphs").glob("*")) if folder.is_dir()}
    for category in config.categories:
        for kind in KINDS:
            folder = folders.pop(category if kind == "harmful" else f"{category}_{kind}", None)
            for path in sorted(folder.glob("*.json")) if folder else ():
                yield category, kind, path
    for name, folder in folders.items():
        for path in sorted(folder.glob("*.json")):
            yield name, "", path
