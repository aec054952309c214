"""Sweeps: many edits, each tried alone, each scored on every prompt.

`sweep(model, edits, readout)` is the one way to loop over a grid of edits (layers x positions, heads, neurons). It
returns raw scores with the prompt axis kept; what they mean (recovered, dropped) is for the analysis to say. How the
numbers are computed is decided here and recorded in the result; the call does not change with it.
"""

from interp.models.sweeps.generic import generic_sweep
from interp.models.sweeps.grid import Edits, Readout, Sweep
from interp.models.sweeps.places import Axis, Places, places, unit_count

__all__ = ["Axis", "Edits", "Places", "Readout", "Sweep", "places", "sweep", "unit_count"]

from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, check_context, check_edits


def sweep(
    model: HookedTransformer,
    edits: Edits,
    readout: Readout,
    *,
    memory: int = MEMORY,
    progress: bool = False,
) -> Sweep:
    """Score every prompt under every cell of `edits`.

    Each cell is a full forward pass in meaning: the values equal those of a plain loop over cells to 1e-5 (float32).
    Working memory is bounded by `memory` bytes beside the model and the base run's residual stream.
    """
    check_context(model, edits.prompts)
    check_edits(model, [edit.site for cell in edits.cells for edit in cell])
    readout.check(model, edits.prompts)
    return generic_sweep(model, edits, readout, memory=memory, progress=progress)
