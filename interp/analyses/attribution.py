"""Which parts write the answer? Direct logit attribution: the metric as a sum over what each part adds to the stream.

The residual stream is a sum, and with the final norm's scale held at its value a logit is linear in it (Elhage et al.,
"A Mathematical Framework for Transformer Circuits", 2021). A part's share is its *direct* effect: what it does through
later parts is counted as theirs, and a part that writes what a later one erases still shows (McGrath et al., arXiv
2307.15771). Ablation and patching say what is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ModelError, PromptError
from interp.metrics import Targets
from interp.models.load import HookedTransformer
from interp.models.readout import LinearReadout
from interp.models.run import undisturbed, unembed
from interp.results import grid_frame
from interp.tensors import Activations

Split = Literal["layer", "head", "neuron"]


@dataclass(frozen=True, eq=False)
class LogitAttribution:
    """How much each part adds to the metric, directly."""

    split: Split
    unit: str
    components: tuple[str, ...]
    """embed, L0 attn or L0H0 ... (and L0 attn bias), L0 mlp or L0N0 ... (and L0 mlp bias), final bias."""
    values: Float[Tensor, "prompt component"]
    """Mean over the prompt's answer tokens; they sum to `total`."""
    total: Float[Tensor, " prompt"]
    """The metric itself: logit of the answer minus that of the foil, or minus the mean logit where there is no foil."""
    groups: Int[Tensor, " prompt"]

    @property
    def accumulated(self) -> Float[Tensor, "prompt component"]:
        """The sum up to each component, in the order of the stream, under the final norm's scale."""
        return self.values.cumsum(1)

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and component."""
        frame = grid_frame({"component": self.components}, value=self.values, accumulated=self.accumulated)
        index = torch.tensor(frame["prompt"].to_numpy())
        return frame.assign(total=self.total[index].numpy(), group=self.groups[index].numpy())


def logit_attribution(
    activations: Activations,
    model: HookedTransformer,
    *,
    targets: Targets | None = None,
    split: Split = "layer",
) -> LogitAttribution:
    """Split the answer's logit, less the foil's (less the mean logit without foils), into what each part writes.

    `layer` needs `resid_pre` and `resid_post`, `attn_out` and `mlp_out` of every layer in the activations; `head` also
    `z`, `neuron` also `mlp_post`. Sums are checked against the model's own logits: raises ModelError where a part
    passes another norm on its way (Gemma-2) or where the logits are capped.
    """
    prompts = activations.prompts
    targets = (Targets.of(prompts) if targets is None else targets).to(torch.device("cpu"))
    columns = prompts.reads
    here = targets.answers >= 0
    if targets.foils is not None:
        here = here & (targets.foils >= 0) & (targets.foils != targets.answers)
    if not bool(here.any()):
        raise PromptError("no prompt has an answer (and another foil) to attribute; give answers")
    with undisturbed(model):
        ways, bias = _directions(activations, model, targets, here)
        pick = _Picker(columns, here)
        embed = pick(activations["resid_pre", 0], ways)
        found: dict[str, Tensor] = {"embed": embed}
        for layer in range(activations.n_layers):
            attention, mlp = model.blocks[layer].attn, model.blocks[layer].mlp
            heads = ("H", attention.W_O, attention.b_O) if split == "head" else None
            neurons = ("N", mlp.W_out, mlp.b_out) if split == "neuron" else None
            found |= _block(activations, layer, "attn_out", heads, pick, ways)
            found |= _block(activations, layer, "mlp_out", neurons, pick, ways)
        found["final bias"] = bias
        values = torch.stack(list(found.values()), 1)
        total = _metric(activations, model, targets, here)
    values, total = values.float().cpu().clone(), total.float().cpu().clone()
    _check_sum(values.sum(1), total)
    unit = "logits over the foil's" if targets.foils is not None else "logits over the mean logit"
    return LogitAttribution(split, unit, tuple(found), values, total, prompts.groups)


class _Picker:
    """Vectors at the read columns, dotted with each prompt's own directions, mean over its reads."""

    def __init__(self, columns: Int[Tensor, "prompt read"], here: Tensor) -> None:
        self.columns, self.here = columns.clamp(min=0), here
        self.rows = torch.arange(len(columns))[:, None]

    def rows_of(self, tensor: Tensor) -> Tensor:
        return torch.nan_to_num(tensor[self.rows.to(tensor.device), self.columns.to(tensor.device)])

    def __call__(self, tensor: Float[Tensor, "prompt pos d"], ways: Float[Tensor, "prompt read d"]) -> Tensor:
        return self.mean(torch.einsum("prd,prd->pr", self.rows_of(tensor).to(ways), ways))

    def mean(self, values: Float[Tensor, "prompt read ..."]) -> Float[Tensor, "prompt ..."]:
        weight = self.here.to(values).reshape(*self.here.shape, *[1] * (values.ndim - 2))
        return (values * weight).sum(1) / weight.sum(1)


def _directions(
    activations: Activations, model: HookedTransformer, targets: Targets, here: Tensor
) -> tuple[Float[Tensor, "prompt read d_model"], Float[Tensor, " prompt"]]:
    """The vector of the stream that each answer is read with, the norm's scale in it; and the constant beside it."""
    pick = _Picker(activations.prompts.reads, here)
    stream = pick.rows_of(activations["resid_post", activations.n_layers - 1]).float()
    readout = LinearReadout.of(model)
    answers = targets.answers.clamp(min=0).to(stream.device)
    ways, constant = readout.directions(answers), readout.constants(answers)
    if targets.foils is None:
        ways, constant = ways - readout.mean_direction(), constant - readout.mean_constant()
    else:
        foils = targets.foils.clamp(min=0).to(stream.device)
        ways, constant = ways - readout.directions(foils), constant - readout.constants(foils)
    return ways / readout.scale(stream)[..., None], pick.mean(constant)


def _block(
    activations: Activations, layer: int, site: str, split: tuple[str, Any, Any] | None, pick: _Picker, ways: Tensor
) -> dict[str, Tensor]:
    """A block's output whole, or by its heads or neurons with the bias that is nobody's; these must sum to the whole.

    `split` is what the parts are called (H, N), the weight that writes them [part, ..., d_model], and the bias.
    """
    name = f"L{layer} {site.removesuffix('_out')}"
    whole = pick(activations[site, layer], ways)
    if split is None:
        return {name: whole}
    letter, weight, bias = split
    inner = pick.rows_of(activations["z" if letter == "H" else "mlp_post", layer]).to(ways)
    # The answers' directions meet the weights first: no [prompt, part, d_model] tensor is ever made.
    onto = torch.einsum("n...d,prd->prn...", weight.to(ways), ways)
    parts = pick.mean((inner * onto).flatten(3).sum(-1) if letter == "H" else inner * onto)
    found = {f"L{layer}{letter}{i}": parts[:, i] for i in range(parts.shape[1])}
    if bias is not None:
        found[f"{name} bias"] = pick.mean(ways @ bias.to(ways))
    _check_sum(torch.stack(list(found.values())).sum(0), whole)
    return found


def _metric(activations: Activations, model: HookedTransformer, targets: Targets, here: Tensor) -> Tensor:
    pick = _Picker(activations.prompts.reads, here)
    logits = unembed(model, pick.rows_of(activations["resid_post", activations.n_layers - 1])).float()
    answers = targets.answers.clamp(min=0).to(logits.device)
    others = logits.mean(-1)
    if targets.foils is not None:
        others = logits.gather(-1, targets.foils.clamp(min=0).to(logits.device)[..., None])[..., 0]
    return pick.mean(logits.gather(-1, answers[..., None])[..., 0] - others)


def _check_sum(parts: Tensor, whole: Tensor) -> None:
    found, wanted = parts.nan_to_num(), whole.nan_to_num()
    if not torch.allclose(found, wanted, atol=1e-3 * max(1.0, float(wanted.abs().max())), rtol=0):
        raise ModelError(
            f"the parts of this model do not add up to its logits (off by {float((found - wanted).abs().max()):.2g}): "
            "something norms or caps them on the way; direct logit attribution does not apply"
        )
