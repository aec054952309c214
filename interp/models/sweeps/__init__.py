"""Sweeps: many edits, each tried alone, each scored on every prompt.

`sweep(model, edits, readout)` is the one way to loop over a grid of edits (layers x positions, heads, neurons). It
returns raw scores with the prompt axis kept; what they mean (recovered, dropped) is for the analysis to say. How the
numbers are computed is decided here and recorded in the result; the call does not change with it.
"""

from itertools import chain
from typing import Literal

from interp.errors import ConfigError, ModelError
from interp.models.features import NAME
from interp.models.load import HookedTransformer, info
from interp.models.run import MEMORY, check_context, check_edits, check_memory, undisturbed
from interp.models.sweeps.blocks import UnknownForm
from interp.models.sweeps.generic import generic_sweep
from interp.models.sweeps.grid import Edits, Readout, Sweep
from interp.models.sweeps.packed import packed_sweep
from interp.models.sweeps.places import Axis, Places, places, unit_count
from interp.models.sweeps.runs import Runs, runs_of, unedited
from interp.sites import every

__all__ = ["Axis", "Edits", "Places", "Readout", "Sweep", "places", "runs_of", "sweep", "unedited", "unit_count"]

Path = Literal["auto", "packed", "generic"]


def sweep(
    model: HookedTransformer,
    edits: Edits,
    readout: Readout,
    *,
    memory: int = MEMORY,
    path: Path = "auto",
    like: Runs | None = None,
    progress: bool = False,
) -> Sweep:
    """Score every prompt under every cell of `edits`.

    Each cell is a full forward pass in meaning: the values equal those of a plain loop over cells to 1e-5 (float32).
    `path` is how: "packed" computes only what an edit changes and knows the GPT-2, Llama (Mistral, Qwen2) and Gemma-2
    forms, "generic" runs the bridge from the edited block on and serves every architecture; "auto" takes the first
    where its logits are the model's own. The result says which it was, and why. `like` are runs that the model made
    just before; then it is not looked at anew.

    Working memory is bounded by `memory` bytes beside the model and the base run's residual stream.
    """
    check_memory(memory)
    check_context(model, edits.prompts)
    sites = list(dict.fromkeys(edit.site for cell in edits.cells for edit in cell))
    check_edits(model, sites)
    readout.check(model, edits.prompts)
    for edit in chain.from_iterable(edits.cells):
        edit.check(edits.prompts)
    every(sites, int(model.cfg.n_layers))
    if path not in ("auto", "packed", "generic"):
        raise ConfigError(f"the path of a sweep is auto, packed or generic, not {path!r}")
    why_not = "asked for"
    if path != "generic":
        try:
            if any(site.name == NAME for site in sites):
                raise UnknownForm("features are read and changed through the bridge")
            with undisturbed(model):
                runs = Runs.of(model, edits.prompts, memory=memory, like=like)
                found = packed_sweep(runs, edits, readout, memory=memory, progress=progress)
        except UnknownForm as error:
            if path == "packed":
                raise ModelError(f"{info(model).name} cannot be swept by the packed path: {error}") from None
            why_not = str(error)
        else:
            values, base = (part.clone() for part in found)  # tensors that a caller may go on writing to
            names = tuple(metric.name for metric in readout.metrics)
            return Sweep(values, base, names, "packed", "only what an edit changes, all cells side by side")
    return generic_sweep(model, edits, readout, memory=memory, progress=progress, why=why_not)
