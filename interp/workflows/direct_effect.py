"""Which heads and MLPs write the end of sequence after a control token? Direct logit attribution, token less neutral
twin.

Each component's direct share in the end's logit (less the mean logit) on the prompt with the token, less its share on
the same prompt with a neutral token; the control is the same between two neutral tokens. The embedding's part is the
token's own. Direct effects only: what a component does through later ones is counted as theirs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from interp.analyses.attribution import Split, logit_attribution
from interp.models.contrast import reading_end
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, capture
from interp.prompts import Prompts
from interp.results import grid_frame
from interp.twins import Twins


@dataclass(frozen=True, eq=False)
class DirectEffect:
    """Change of each component's direct share in the end's logit at the token."""

    components: tuple[str, ...]
    values: Float[Tensor, "prompt component"]
    """Logits, with the token less with a neutral token."""
    null: Float[Tensor, "prompt component"]
    """With one neutral token less with another."""
    groups: Int[Tensor, " prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and component."""
        return grid_frame({"component": self.components}, value=self.values, null=self.null)


def direct_effect(
    model: HookedTransformer, twins: Twins, end: int, *, split: Split = "head", seed: int = 0, memory: int = MEMORY
) -> DirectEffect:
    """Split the change of the end's logit by head (or layer) and MLP. Raises as `logit_attribution` does."""
    drawn = twins.partners(seed)[1]
    other = (drawn + 1) % len(twins.neutral)
    names: tuple[str, ...] = ()

    def parts(prompts: Prompts) -> Tensor:
        nonlocal names
        asked = reading_end(prompts, end, offsets=(0,))
        layers = int(model.cfg.n_layers)
        sites = ["resid_pre", "resid_post", "attn_out", "mlp_out", *(["z"] if split == "head" else [])]
        sites += ["mlp_post"] if split == "neuron" else []
        found = logit_attribution(
            capture(model, replace(asked, roles={}), sites, layers=range(layers), memory=memory), model, split=split
        )
        names = found.components
        return found.values

    with_token = parts(twins.prompts)
    neutral, another = (parts(twins.with_token(twins.neutral[index])) for index in (drawn, other))
    return DirectEffect(names, with_token - neutral, neutral - another, twins.prompts.groups)
