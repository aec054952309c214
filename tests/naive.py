"""The independent twin: plain loops over a plain Hugging Face model, one unpadded prompt at a time.

Nothing here is shared with the library but the numbers it must reach.
"""

import torch


class Naive:
    """Reads and edits a GPT-2, Llama or Qwen2 model through torch module hooks."""

    def __init__(self, hf):
        self.hf = hf.eval()
        self.gpt2 = hasattr(hf, "transformer")
        self.blocks = hf.transformer.h if self.gpt2 else hf.model.layers
        self.n_heads = hf.config.num_attention_heads

    def module(self, name, layer):
        block = self.blocks[layer]
        attention = block.attn if self.gpt2 else block.self_attn
        return {
            "resid_pre": (block, "in"),
            "resid_post": (block, "out"),
            "attn_out": (attention, "out"),
            "mlp_out": (block.mlp, "out"),
            "z": (attention.c_proj if self.gpt2 else attention.o_proj, "in"),
            "mlp_post": (block.mlp.c_proj if self.gpt2 else block.mlp.down_proj, "in"),
            "resid_mid": (block.ln_2 if self.gpt2 else block.post_attention_layernorm, "in"),
        }[name]

    def read(self, ids, name, layer):
        """One site's tensor [pos, ...] for one prompt."""
        if name == "pattern":
            with torch.no_grad():
                return self.hf(ids[None], output_attentions=True).attentions[layer][0]
        kept = {}
        module, side = self.module(name, layer)

        def keep(_, args, kwargs, out):
            tensor = (args[0] if args else kwargs["hidden_states"]) if side == "in" else out
            kept["x"] = (tensor[0] if isinstance(tensor, tuple) else tensor).clone()

        handle = module.register_forward_hook(keep, with_kwargs=True)
        with torch.no_grad():
            self.hf(ids[None])
        handle.remove()
        x = kept["x"][0]
        return x.reshape(len(x), self.n_heads, -1) if name == "z" else x

    def logits(self, ids, *edits):
        """Logits [pos, vocab] of one prompt under edits (name, layer, function of the [pos, ...] tensor)."""
        handles = []
        for name, layer, function in edits:
            module, side = self.module(name, layer)

            def change(x, name=name, function=function):
                shaped = x[0].reshape(x.shape[1], self.n_heads, -1) if name == "z" else x[0]
                return function(shaped).reshape(x.shape[1], -1)[None]

            if side == "in":

                def pre(_, args, change=change):
                    return (change(args[0]), *args[1:])

                handles.append(module.register_forward_pre_hook(pre))
            else:

                def post(_, args, out, change=change):
                    return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

                handles.append(module.register_forward_hook(post))
        with torch.no_grad():
            found = self.hf(ids[None]).logits[0]
        for handle in handles:
            handle.remove()
        return found
