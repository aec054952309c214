"""Where features read and write in Gemma-2, against the modules of transformers and TransformerLens' own hooks."""

from dataclasses import replace

import pytest
import torch

from interp.circuits.attached import attach_transcoders
from interp.circuits.graph import attribution_graph, prepared
from interp.circuits.transcoders import Reads
from interp.errors import ConfigError
from interp.models.load import load_model
from tests.circuits.test_graph import asked, drawn
from tests.models.test_sweeps import LAYERS, plain

HOOKS: dict[Reads, str] = {
    "normalized": "ln2.hook_normalized", "mlp_in": "mlp.hook_in", "resid_mid": "ln2.hook_in",
}  # fmt: skip


@pytest.mark.parametrize("reads", HOOKS)
def test_features_read_and_write_where_circuit_tracers_hooks_are(reads):
    own, prompts = plain("gemma2"), asked()
    seen = {}
    for layer, block in enumerate(own.model.layers):
        for name in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            module = getattr(block, name)
            module.register_forward_hook(lambda m, x, y, at=(name, layer): seen.update({at: (x[0][0], y[0])}))
    with torch.no_grad():
        own(prompts.tokens)
    model = load_model(plain("gemma2"), device="cpu", weights="raw")
    _, cache = model.run_with_cache(prompts.tokens)
    frozen = prepared(model, drawn("relu", reads), prompts, 0, 1 << 30)[2]
    for layer in range(LAYERS):
        mid, out = seen["pre_feedforward_layernorm", layer]
        unit = mid / (mid.pow(2).mean(-1, keepdim=True) + own.config.rms_norm_eps).sqrt()
        wanted = {"normalized": unit, "mlp_in": out, "resid_mid": mid}[reads]
        torch.testing.assert_close(frozen.inputs(layer), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(cache[f"blocks.{layer}.{HOOKS[reads]}"][0], wanted, atol=1e-5, rtol=1e-5)
        written = seen["post_feedforward_layernorm", layer][1]
        torch.testing.assert_close(frozen.layers[layer].mlp_out[0], written, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(cache[f"blocks.{layer}.hook_mlp_out"][0], written, atol=1e-5, rtol=1e-5)
        assert float((cache[f"blocks.{layer}.mlp.hook_out"][0] - written).abs().max()) > 0.1


def test_features_that_write_before_the_norm_behind_the_mlp_are_refused_where_there_is_one():
    transcoders = replace(drawn("relu"), before_norm=True)
    gemma, llama = (load_model(plain(form), device="cpu", weights="raw") for form in ("gemma2", "llama"))
    attribution_graph(llama, transcoders, asked())
    for use in (lambda: attribution_graph(gemma, transcoders, asked()), lambda: attach_transcoders(gemma, transcoders)):
        with pytest.raises(ConfigError, match="before the norm behind the MLP"):
            use()
