"""What every tool is given: one file a model, with its weights, its prompts and the answers; its transcoders beside it.

Workers in other environments import this, so it needs no more than torch, safetensors and transformers; what writes the
files runs in the project's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

MOST_PAIRS, MOST_TOKENS = 64, 256
PROBED, CLASSES = 400, 2
"""Prompts and labels of the probing job."""
STEPS = 32
"""Points of the integral in the job of integrated gradients."""
SILENCE = 2.72
"""How many standard deviations the input of a feature must be above its mean for the feature to be active."""


@dataclass(frozen=True)
class Shape:
    """A GPT-2 of some size."""

    name: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    features: int = 0
    """Of a layer's transcoder; 0 where the model has none."""

    @property
    def neurons(self) -> int:
        """Neurons of a layer."""
        return 4 * self.width


@dataclass(frozen=True)
class Case:
    """Which of the file's prompts a job takes."""

    pairs: int = 4
    tokens: int = 16
    first: int = 0
    """The one column in which the prompts of a pair differ."""


@dataclass(frozen=True)
class Pairs:
    """Clean and corrupted prompts, and the two answers whose logits are compared at the last token."""

    clean: Tensor
    corrupted: Tensor
    answers: Tensor
    foils: Tensor

    def score(self, logits: Tensor) -> Tensor:
        """The logit difference of each pair from logits [pair, pos, vocab]."""
        rows = torch.arange(len(self.answers), device=logits.device)
        return logits[rows, -1, self.answers] - logits[rows, -1, self.foils]


def write(path: Path, shape: Shape, seed: int = 0) -> None:
    """Draw weights, prompts and answers, and write them.

    Weights have the standard deviation that keeps activations near one; biases and norms are random too, so that a tool
    which forgot one would differ. Probed activations are drawn as well, with a spectrum that falls off and two classes.
    """
    from transformers import GPT2LMHeadModel

    torch.manual_seed(seed)
    model = GPT2LMHeadModel(_config({**asdict(shape)}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, shape.width**-0.5 if parameter.ndim == 2 else 0.1)
            if "ln_" in name and name.endswith("weight"):
                parameter.add_(1)
    clean = torch.randint(shape.vocabulary, (MOST_PAIRS, MOST_TOKENS))
    apart = torch.randint(1, shape.vocabulary, (3, MOST_PAIRS))
    other = (clean + apart[0][:, None]) % shape.vocabulary
    answers = apart[1] % shape.vocabulary
    foils = (answers + apart[2]) % shape.vocabulary
    falling = (1 + torch.arange(shape.width)).float().rsqrt()
    labels = torch.arange(PROBED) % CLASSES
    towards = torch.randn(shape.layers + 1, 1, shape.width) * falling
    probed = torch.randn(shape.layers + 1, PROBED, shape.width) * falling
    probed = probed + 0.1 * towards * (2 * labels - 1)[:, None]
    tensors = {f"weights.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    tensors |= {"clean": clean, "other": other, "answers": answers, "foils": foils}
    tensors |= {"probed": probed, "labels": labels}
    temporary = path.with_suffix(".part")
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"shape": json.dumps(asdict(shape))}
    )
    temporary.replace(path)
    if shape.features:
        _write_transcoders(path, shape)


def _write_transcoders(path: Path, shape: Shape) -> None:
    """Draw transcoders whose features are seldom active, and write them as circuit-tracer reads them."""
    from interp.circuits.formats import write_transcoders
    from interp.circuits.transcoders import Transcoder, Transcoders

    def normal(*size: int, by: float = shape.width**-0.5) -> Tensor:
        return by * torch.randn(*size)

    layers = [
        Transcoder(
            normal(shape.features, shape.width), normal(shape.features, by=0.1) - SILENCE,
            normal(shape.features, 1, shape.width), normal(shape.width, by=0.1),
        )
        for _ in range(shape.layers)
    ]  # fmt: skip
    write_transcoders(Transcoders(tuple(layers), "mlp_in"), path.with_suffix(".transcoders"))


def _config(shape: dict[str, Any]) -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        n_layer=shape["layers"], n_embd=shape["width"], n_head=shape["heads"], vocab_size=shape["vocabulary"],
        n_positions=MOST_TOKENS, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Inputs:
    """A file of inputs, read."""

    path: Path
    device: str = "cpu"

    @cached_property
    def _file(self) -> Any:
        return safe_open(str(self.path), framework="pt", device="cpu")

    def __getitem__(self, name: str) -> Tensor:
        return self._file.get_tensor(name).to(self.device)

    @cached_property
    def shape(self) -> Shape:
        """The model's shape."""
        return Shape(**json.loads(self._file.metadata()["shape"]))

    @property
    def transcoders(self) -> Path:
        """Folder of the model's transcoders, `layer_{i}.safetensors`, which read what the MLP's norm gives."""
        return self.path.with_suffix(".transcoders")

    def config(self) -> Any:
        """The Hugging Face configuration."""
        return _config(asdict(self.shape))

    def model(self) -> Any:
        """The Hugging Face model, in evaluation mode, without gradients of its weights."""
        from transformers import GPT2LMHeadModel

        torch.manual_seed(0)
        model: Any = GPT2LMHeadModel(self.config())
        prefix = "weights."
        names = [name for name in self._file.keys() if name.startswith(prefix)]  # noqa: SIM118
        model.load_state_dict({name[len(prefix) :]: self._file.get_tensor(name) for name in names})
        return model.to(self.device).eval().requires_grad_(False)

    def pairs(self, case: Case) -> Pairs:
        """The prompts of a case."""
        clean = self["clean"][: case.pairs, : case.tokens]
        corrupted = clean.clone()
        corrupted[:, case.first] = self["other"][: case.pairs, case.first]
        return Pairs(clean, corrupted, self["answers"][: case.pairs], self["foils"][: case.pairs])


def shared_edges(
    edges: Tensor, features: Tensor, shape: Shape, tokens: int, rows: Tensor | slice = slice(None)
) -> Tensor:
    """The edges of a graph that every tool has, in one row: nothing that stands at the first column but its token.

    `edges` [target, source]: from features [layer, column, number] and then errors (layer by column) and tokens, into
    features and then logits, whose rows may be picked out first.
    """
    later = features[:, 1] > 0
    errors = (torch.arange(tokens) > 0).repeat(shape.layers)
    sources = torch.cat([later, errors, torch.ones(tokens, dtype=torch.bool)])
    edges = edges[rows][:, : len(sources)]
    targets = torch.cat([later, torch.ones(len(edges) - len(later), dtype=torch.bool)])
    return edges[targets][:, sources].flatten()[None]


def edge_names(layers: int, heads: int) -> Iterator[tuple[str, str]]:
    """Every edge of the residual stream's graph, in the one order in which scores are compared.

    Sources write to the stream (embed, heads, MLPs), targets read from it (queries, keys, values, MLPs, logits).
    """
    for target, before in _targets(layers, heads):
        yield from ((source, target) for source in before)


def _targets(layers: int, heads: int) -> Iterator[tuple[str, list[str]]]:
    before = ["embed"]
    for layer in range(layers):
        own = [f"L{layer}H{head}" for head in range(heads)]
        for head in own:
            yield from ((f"{head}.{part}", list(before)) for part in "qkv")
        before += own
        yield f"mlp{layer}", list(before)
        before.append(f"mlp{layer}")
    yield "logits", before
