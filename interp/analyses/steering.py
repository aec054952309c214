"""Does the model use a direction? Project it out, add it in doses, and do the same with random directions.

Sources: Arditi et al. (arXiv 2406.11717) for projecting out, Turner et al. (arXiv 2308.10248) for adding. Any vector of
some length changes what a model says; what counts is what this one does beyond random ones of the same length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.estimates import Estimate, difference, mean
from interp.metrics import Metric, Targets
from interp.models.directions import Direction
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY
from interp.models.sweeps import Edits, Readout, sweep
from interp.prompts import Position, Prompts
from interp.results import grid_frame


@dataclass(frozen=True, eq=False)
class DirectionTest:
    """Metric of every prompt with a direction projected out or added, beside random directions."""

    source: str
    """What the direction came from."""
    site: str
    metric: str
    edits: tuple[str, ...]
    """`project out`, then `add X` for each dose X (in multiples of the vector)."""
    values: Float[Tensor, "prompt edit"]
    random: Float[Tensor, "prompt edit direction"]
    """The same edits with random directions of the same norm."""
    base: Float[Tensor, " prompt"]
    groups: Int[Tensor, " prompt"]

    def effect(self) -> tuple[Estimate, Estimate, Estimate]:
        """Mean change of the metric, that of random directions, and the paired difference: each an estimate [edit]."""
        own, control = self.values - self.base[:, None], self.random.mean(2) - self.base[:, None]
        return mean(own, self.groups), mean(control, self.groups), difference(own, control, self.groups)

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and edit."""
        frame = grid_frame({"edit": self.edits}, value=self.values, random=self.random.mean(2))
        index = torch.tensor(frame["prompt"].to_numpy())
        return frame.assign(base=self.base[index].numpy(), group=self.groups[index].numpy())


def direction_test(
    model: HookedTransformer,
    prompts: Prompts,
    direction: Direction,
    *,
    at: Position | None = None,
    doses: Sequence[float] = (),
    metric: Metric | str = "log_prob",
    targets: Targets | None = None,
    random_directions: int = 20,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> DirectionTest:
    """Project a direction out at every token (or at one position `at`), and add it at each dose."""
    if random_directions < 1:
        raise ConfigError("the control needs at least one random direction")
    width = int(model.cfg.d_model)
    if direction.site.name.startswith(("resid", "attn_out", "mlp_out")) and len(direction.vector) != width:
        raise ConfigError(f"the direction has width {len(direction.vector)}, {direction.site} has {width}")
    cells = []
    for one in (direction, *direction.random(random_directions, seed=seed)):
        cells += [[one.project_out(at=at)], *one.dose(doses, at=at)]
    readout = Readout.of(prompts, [metric], targets)
    found = sweep(model, Edits(prompts, cells), readout, memory=memory, progress=progress)
    grid = found.values[..., 0].reshape(len(prompts), random_directions + 1, 1 + len(doses))
    if at is not None:
        grid = grid.masked_fill((prompts.columns(at) < 0)[:, None, None], torch.nan)
    names = ("project out", *(f"add {dose:g}" for dose in doses))
    return DirectionTest(
        source=direction.source,
        site=str(direction.site),
        metric=found.metrics[0],
        edits=names,
        values=grid[:, 0],
        random=grid[:, 1:].transpose(1, 2).contiguous(),
        base=found.base[:, 0],
        groups=prompts.groups,
    )
