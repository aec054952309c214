"""Training of transcoders on a model's own activations, all layers together.

Per layer, with a skip, or cross layer; TopK (Gao et al., arXiv 2406.04093), JumpReLU with a straight-through gradient
(Rajamanoharan et al., arXiv 2407.14435), or ReLU with an L1 penalty. Features that have died are brought back by asking
them to explain the error (the auxiliary loss of Gao et al.). Activations are never stored: each step runs the model
anew on fresh prompts, which are a function of the step, so that a training that was killed goes on to the same weights.
What a set is worth is for `quality` to say: a single layer's figure says little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import Progress
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from interp.circuits.transcoders import Reads, Transcoder, Transcoders, read_by
from interp.errors import ConfigError, DataError, ModelError
from interp.files import read_tensors, write_tensors
from interp.models.load import HookedTransformer, info
from interp.models.run import embedded, undisturbed
from interp.models.sweeps.blocks import Network, UnknownForm, network
from interp.prompts import Prompts

_QUIET = 40
"""Steps without a token after which a feature counts as dead."""
_BAND = 0.05
"""Width of the window in which a threshold has a gradient, where activations are of size one."""


class TranscoderShape(BaseModel):
    """What is trained, and how."""

    model_config = ConfigDict(extra="forbid")
    form: Literal["per-layer", "skip", "cross-layer"] = "per-layer"
    activation: Literal["topk", "jumprelu", "relu"] = "topk"
    features: int = Field(default=1024, ge=1, description="of each layer")
    k: int = Field(default=8, ge=1, description="active features of a token, for topk")
    sparsity: float = Field(default=1e-3, ge=0, description="weight of the sparsity penalty, for jumprelu and relu")
    steps: int = Field(default=600, ge=1)
    tokens: int = Field(default=2048, ge=16, description="of a step")
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    decay: float = Field(default=0.3, ge=0, le=1, description="last share of the steps, in which the rate falls to 0")
    revive: float = Field(default=1 / 32, ge=0, description="weight of the auxiliary loss of dead features")
    early: float = Field(default=0.1, gt=0, le=1, description="share of the first two columns that is trained on")
    reads: Reads = "mlp_in"
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, eq=False)
class Quality:
    """What transcoders are worth on prompts that they were not trained on."""

    explained: Float[Tensor, " layer"]
    """Share of the variance of what each MLP writes that is reconstructed from its true input."""
    l0: Float[Tensor, " layer"]
    """Active features of a token."""
    dead: Float[Tensor, " layer"]
    """Share of features that no token made active."""
    recovered: float
    """Of the loss that is lost where every MLP writes its mean: the share that comes back where all transcoders write
    in the MLPs' places at once."""
    tokens: int


def activations_of(
    net: Network, entry: Float[Tensor, "prompt pos d_model"], reads: Reads
) -> tuple[
    list[Float[Tensor, "prompt pos d_model"]],
    list[Float[Tensor, "prompt pos d_model"]],
    Float[Tensor, "prompt pos d_model"],
]:
    """What features of each layer read, what each MLP writes, and the last stream."""
    inputs, outputs, stream = [], [], entry
    for block in net.blocks:
        layer = net.layer(block, stream)
        inputs.append(read_by(block.ln2, layer.mid, reads))
        outputs.append(layer.mlp_out)
        stream = layer.after
    return inputs, outputs, stream


def train_transcoders(
    model: HookedTransformer,
    prompts: Callable[[int], Prompts],
    shape: TranscoderShape,
    *,
    checkpoint: Path | None = None,
    data: str = "",
    every: int = 100,
    progress: bool = False,
) -> Transcoders:
    """Train a transcoder for every layer. `prompts(step)` gives prompts of one's own choice; each step takes them anew.

    The same seed and prompts give the same weights on the same machine. With `checkpoint` the state is written every so
    many steps, and where the file is there training goes on from it; `data` is what the prompts are known by. Raises
    DataError where the file belongs to another training.
    """
    net = _network(model)
    if shape.form == "cross-layer" and shape.activation == "topk":
        raise ConfigError("cross-layer transcoders with TopK have no file format; choose jumprelu or relu")
    width, layers = int(model.cfg.d_model), len(net.blocks)
    place = net.unembedding.device
    known = f"{shape.model_dump_json()} {data} {info(model).digest}"
    scale_in, scale_out, middle = _scales(model, net, prompts(0), shape)
    drawn = torch.Generator().manual_seed(shape.seed)
    made = _Made(layers, width, shape, middle / scale_out[:, None], drawn).to(place)
    optimizer = torch.optim.Adam(made.parameters(), lr=shape.learning_rate, betas=(0.9, 0.999))
    quiet = torch.zeros(layers, shape.features, device=place)
    first = 0
    if checkpoint is not None and checkpoint.exists():
        first = _restore(checkpoint, known, made, optimizer, quiet)
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("training transcoders", total=shape.steps, completed=first)
        for step in range(first, shape.steps):
            x, y = _tokens(model, net, prompts(step), shape, step)
            x, y = x / scale_in[:, None, None], y / scale_out[:, None, None]
            rate = min(1.0, (step + 1) / 20, (shape.steps - step) / max(1.0, shape.decay * shape.steps))
            for group in optimizer.param_groups:
                group["lr"] = shape.learning_rate * rate
            with torch.enable_grad():
                loss, active = made(x, y, quiet > _QUIET, warm=min(1.0, 4 * step / shape.steps))
            if not math.isfinite(float(loss.detach())):
                raise ModelError(f"training of transcoders has diverged at step {step + 1}; lower the learning rate")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(made.parameters(), 1.0)
            optimizer.step()
            quiet.add_(1).masked_fill_(active, 0.0)
            bar.advance(task)
            if checkpoint is not None and (step + 1) % every == 0 and step + 1 < shape.steps:
                _save(checkpoint, known, made, optimizer, quiet, step + 1)
    return made.transcoders(scale_in, scale_out)


def quality(model: HookedTransformer, transcoders: Transcoders, prompts: Prompts, *, batch: int = 128) -> Quality:
    """How well transcoders stand for the MLPs on these prompts, alone and all together."""
    net = _network(model)
    layers = len(net.blocks)
    width = int(model.cfg.d_model)
    sums = torch.zeros(layers, 2, dtype=torch.float64)
    mean = torch.zeros(layers, width, dtype=torch.float64)
    l0 = torch.zeros(layers, dtype=torch.float64)
    seen = [torch.zeros(one.size, dtype=torch.bool) for one in transcoders.layers]
    total, loss = 0, 0.0
    parts = torch.arange(len(prompts)).split(batch)
    with undisturbed(model):
        for some in parts:
            part = prompts.take(some)
            inputs, outputs, stream = activations_of(net, embedded(model, part), transcoders.reads)
            loss += _loss(net, part, stream)
            real = part.mask.to(inputs[0].device)
            found, written = transcoders.reconstruct([x[real] for x in inputs])
            total += int(real.sum())
            for at, (y, own, active) in enumerate(zip(outputs, written, found, strict=True)):
                wanted = y[real].double().cpu()
                sums[at, 0] += (wanted - own.double().cpu()).square().sum()
                sums[at, 1] += wanted.square().sum()
                mean[at] += wanted.sum(0)
                l0[at] += float((active > 0).sum())
                seen[at] |= (active > 0).any(0).cpu()
        mean /= total
        spread = sums[:, 1] - total * mean.square().sum(1)
        with_means, with_them = 0.0, 0.0
        constants = [row.to(net.unembedding) for row in mean]
        for some in parts:
            part = prompts.take(some)
            entry = embedded(model, part)
            with_means += _loss(net, part, _carried(net, entry, constants))
            with_them += _loss(net, part, _carried(net, entry, transcoders))
    return Quality(
        (1 - sums[:, 0] / spread).float(), (l0 / total).float(),
        torch.tensor([1 - float(one.float().mean()) for one in seen]),
        (with_means - with_them) / (with_means - loss) if with_means != loss else float("nan"), total,
    )  # fmt: skip


def replaced_logits(
    model: HookedTransformer, prompts: Prompts, transcoders: Transcoders
) -> Float[Tensor, "prompt read vocab"]:
    """Logits at the prompts' reads where transcoders write in the places of all MLPs at once."""
    net = _network(model)
    with undisturbed(model):
        stream = _carried(net, embedded(model, prompts), transcoders)
        rows = torch.arange(len(stream), device=stream.device)[:, None]
        return net.logits(stream[rows, prompts.reads.clamp(min=0).to(stream.device)])


def _network(model: HookedTransformer) -> Network:
    try:
        return network(model)
    except UnknownForm as error:
        raise ModelError(f"transcoders of {info(model).name} cannot be trained or judged: {error}") from None


def _carried(
    net: Network,
    entry: Float[Tensor, "prompt pos d_model"],
    instead: Transcoders | Sequence[Float[Tensor, " d_model"]],
) -> Float[Tensor, "prompt pos d_model"]:
    """The last stream where transcoders or constants write in the places of the MLPs."""
    stream, found = entry, []
    for at, block in enumerate(net.blocks):
        _, z = net.attended(block, *net.qkv(block, stream))
        mid = stream + block.attn_out(z)
        if isinstance(instead, Transcoders):
            x = read_by(block.ln2, mid, instead.reads)
            found.append(instead.layers[at].encode(x))
            stream = mid + instead.written(at, found, x)
        else:
            stream = mid + instead[at]
    return stream


def _loss(net: Network, prompts: Prompts, stream: Float[Tensor, "prompt pos d_model"]) -> float:
    """Summed loss of every token after the first, nats, from the last stream."""
    tokens, real = prompts.tokens.to(stream.device), prompts.mask.to(stream.device)
    asked = real[:, 1:] & real[:, :-1]
    return float(F.cross_entropy(net.logits(stream[:, :-1][asked]).float(), tokens[:, 1:][asked], reduction="sum"))


def _tokens(
    model: HookedTransformer, net: Network, prompts: Prompts, shape: TranscoderShape, step: int
) -> tuple[Float[Tensor, "layer token d_model"], Float[Tensor, "layer token d_model"]]:
    """Tokens of the prompts, few of the first two columns: they are alike in all prompts."""
    with undisturbed(model):
        inputs, outputs, _ = activations_of(net, embedded(model, prompts), shape.reads)
    drawn = torch.Generator().manual_seed(shape.seed * 1_000_003 + step)
    chosen = _chosen(prompts.mask, shape, drawn).to(inputs[0].device)
    return torch.stack([x[chosen] for x in inputs]), torch.stack([y[chosen] for y in outputs])


def _chosen(
    mask: Bool[Tensor, "prompt pos"], shape: TranscoderShape, generator: torch.Generator
) -> Bool[Tensor, "prompt pos"]:
    first = mask.int().argmax(1, keepdim=True)
    early = torch.arange(mask.shape[1]) < first + 2
    left = mask & (~early | (torch.rand(mask.shape, generator=generator) < shape.early))
    places = left.flatten().nonzero().flatten()
    kept = places[torch.randperm(len(places), generator=generator)[: shape.tokens]]
    found = torch.zeros(mask.numel(), dtype=torch.bool)
    found[kept] = True
    return found.view_as(mask)


def _scales(
    model: HookedTransformer, net: Network, prompts: Prompts, shape: TranscoderShape
) -> tuple[Float[Tensor, " layer"], Float[Tensor, " layer"], Float[Tensor, "layer d_model"]]:
    """Root mean squares of inputs and of outputs around their mean, and that mean."""
    x, y = _tokens(model, net, prompts, shape, shape.steps)
    middle = y.mean(1)
    around = (y - middle[:, None]).square().mean((1, 2)).sqrt()
    return x.square().mean((1, 2)).sqrt().clamp(min=1e-6), around.clamp(min=1e-6), middle


def _save(path: Path, known: str, made: nn.Module, optimizer: torch.optim.Optimizer, quiet: Tensor, step: int) -> None:
    tensors = {f"weights.{name}": value.clone() for name, value in made.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value.clone() for name, value in state.items()}
    write_tensors(path, {**tensors, "quiet": quiet}, {"training": known, "step": str(step)})


def _restore(path: Path, known: str, made: nn.Module, optimizer: torch.optim.Optimizer, quiet: Tensor) -> int:
    """Take up the state of a file; returns the steps that are done."""
    found = read_tensors(path)
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        if about.get("training") != known:
            raise DataError(f"{path} belongs to another training; remove it, or choose another folder")
        weights = {name.removeprefix("weights."): value for name, value in found.items() if name.startswith("weights.")}
        made.load_state_dict(weights)
        quiet.copy_(found["quiet"])
        layout: dict[str, Any] = optimizer.state_dict()
        for name, value in found.items():
            if name.startswith("optimizer."):
                _, number, part = name.split(".", 2)
                layout["state"].setdefault(int(number), {})[part] = value
        optimizer.load_state_dict(layout)
        return int(about["step"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{path} is no state of a training of transcoders ({error}); remove it to start anew"
        ) from error


class _Made(nn.Module):
    """The weights of all layers under training, on inputs and outputs of size one."""

    def __init__(
        self,
        layers: int,
        width: int,
        shape: TranscoderShape,
        middle: Float[Tensor, "layer d_model"],
        generator: torch.Generator,
    ):
        super().__init__()
        self.shape = shape
        rows = torch.randn(layers, shape.features, width, generator=generator)
        rows /= rows.norm(dim=-1, keepdim=True)
        above = layers if shape.form == "cross-layer" else 1
        self.encoder = nn.Parameter(rows.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(layers, shape.features))
        decoder = torch.zeros(layers, shape.features, above, width)
        decoder[:, :, 0] = 0.1 * rows
        self.decoder = nn.Parameter(decoder)
        self.decoder_bias = nn.Parameter(middle.cpu().clone())
        self.skip = nn.Parameter(torch.zeros(layers, width, width)) if shape.form == "skip" else None
        self.log_threshold = None
        if shape.activation == "jumprelu":
            self.log_threshold = nn.Parameter(torch.full((layers, shape.features), math.log(0.1)))

    def forward(
        self,
        x: Float[Tensor, "layer token d_model"],
        y: Float[Tensor, "layer token d_model"],
        dead: Bool[Tensor, "layer feature"],
        *,
        warm: float,
    ) -> tuple[Tensor, Bool[Tensor, "layer feature"]]:
        """Loss, and which features were active."""
        shape, layers = self.shape, len(x)
        before = torch.baddbmm(self.encoder_bias[:, None], x, self.encoder.transpose(1, 2))
        penalty: Tensor | float = 0.0
        if self.log_threshold is not None:
            active, on = _Jump.apply(before, self.log_threshold.exp()[:, None])  # pyright: ignore
            penalty = on.sum(-1).mean()
        else:
            active = before.relu()
            if shape.activation == "topk":
                active = _topk(active, shape.k)
            else:
                penalty = (active * self.decoder.flatten(2).norm(dim=-1)[:, None]).sum(-1).mean()
        out = torch.baddbmm(self.decoder_bias[:, None], active, self.decoder[:, :, 0])
        if self.skip is not None:
            out = out + x @ self.skip.transpose(1, 2)
        for up in range(1, self.decoder.shape[2]):
            rise = active[: layers - up] @ self.decoder[: layers - up, :, up]
            out = torch.cat([out[:up], out[up:] + rise])
        error = y - out
        loss = error.square().mean() + shape.sparsity * warm * penalty
        if shape.revive and bool(dead.any()):
            loss = loss + shape.revive * self._explained_by_dead(before, dead, error.detach())
        return loss, (active > 0).any(1)

    def _explained_by_dead(self, before: Tensor, dead: Bool[Tensor, "layer feature"], error: Tensor) -> Tensor:
        """How far the dead features, the strongest of them, are from explaining the error."""
        most = min(before.shape[2], max(self.shape.k, 32))
        here = _topk(before.relu() * dead[:, None], most)
        return (error - here @ self.decoder[:, :, 0]).square().mean().nan_to_num(0.0)

    def transcoders(self, scale_in: Tensor, scale_out: Tensor) -> Transcoders:
        """On the model's own scale."""
        layers = len(self.encoder)
        shape = self.shape
        made = []
        for at in range(layers):
            up = layers - at if shape.form == "cross-layer" else 1
            sizes = scale_out[at : at + up, None]
            made.append(
                Transcoder(
                    encoder=(self.encoder[at] / scale_in[at]).detach().clone(),
                    encoder_bias=self.encoder_bias[at].detach().clone(),
                    decoder=(self.decoder[at, :, :up] * sizes).detach().clone(),
                    decoder_bias=(self.decoder_bias[at] * scale_out[at]).detach().clone(),
                    threshold=None if self.log_threshold is None else self.log_threshold[at].detach().exp(),
                    k=shape.k if shape.activation == "topk" else None,
                    skip=None if self.skip is None else (self.skip[at] * scale_out[at] / scale_in[at]).detach().clone(),
                )
            )
        return Transcoders(tuple(made), shape.reads)


def _topk(x: Float[Tensor, "layer token feature"], k: int) -> Float[Tensor, "layer token feature"]:
    kept: tuple[Tensor, Int[Tensor, "layer token k"]] = x.topk(min(k, x.shape[-1]), -1)
    return torch.zeros_like(x).scatter(-1, kept[1], kept[0])


class _Jump(torch.autograd.Function):
    """Activations above a threshold, and how many there are, with a gradient for the threshold near it."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        on = before > threshold
        ctx.save_for_backward(before, threshold, on)
        return before * on, on.to(before)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor]:
        value, count = slopes
        before, threshold, on = ctx.saved_tensors
        near = ((before - threshold).abs() < _BAND / 2) / _BAND
        down = -(threshold * value + count) * near
        return value * on, down.sum(1, keepdim=True)
