"""One prompt through a network whose attention patterns and norm scales are held: but for the MLPs, a linear map.

In it everything that is written to the stream reaches what reads it along straight lines, so "how much of this
feature's input comes from that one" has one answer (Ameisen et al., "Circuit Tracing", 2025). Gradients are carried
down it in closed form; none of them is a gradient of the model itself, in which patterns and scales move, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from interp.circuits.transcoders import Reads, read_by
from interp.models.sweeps.blocks import Layer, Network, Norm


@dataclass(frozen=True, eq=False)
class Frozen:
    """A prompt's run. Gradients stand as [pos, target, d_model], for the first columns of the prompt or all."""

    net: Network
    layers: tuple[Layer, ...]
    """Each with its pattern, of one prompt."""
    reads: Reads

    @classmethod
    def of(cls, net: Network, entry: Float[Tensor, "pos d_model"], reads: Reads) -> Frozen:
        """Run the network on the stream that enters it."""
        layers, stream = [], entry[None]
        for block in net.blocks:
            layers.append(net.layer(block, stream, keep_pattern=True))
            stream = layers[-1].after
        return cls(net, tuple(layers), reads)

    @property
    def final(self) -> Float[Tensor, "pos d_model"]:
        """The stream that the last norm reads."""
        return self.layers[-1].after[0]

    def inputs(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """What the features of a layer read."""
        mid, norm = self.layers[layer].mid[0], self.net.blocks[layer].ln2
        return read_by(norm, mid, self.reads)

    def inputs_bias(self, layer: int) -> Float[Tensor, " d_model"]:
        """What they would read of an empty stream: the bias of the norm."""
        zero = torch.zeros_like(self.final[0])
        return self.net.blocks[layer].ln2.of(zero) if self.reads == "mlp_in" else zero

    def inputs_down(
        self, layer: int, slope: Float[Tensor, "pos target d_model"], first: int = 0
    ) -> Float[Tensor, "pos target d_model"]:
        """From gradients by what features read to gradients by the stream between attention and MLP."""
        if self.reads == "resid_mid":
            return slope
        norm, mid = self.net.blocks[layer].ln2, self.layers[layer].mid[0, first : first + len(slope)]
        return _down(norm, slope, norm.scale(mid), weighted=self.reads == "mlp_in")

    def attention_bias(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """What attention writes of an empty stream: the biases of the norm, the values and the output."""
        block, here = self.net.blocks[layer], self.layers[layer]
        values = F.linear(block.ln1.of(torch.zeros_like(self.final)), *block.v)
        z = self.net.read(_pattern(here), self.net.heads(values)[None])
        out = F.linear(z.flatten(-2), *block.o)[0]
        post = block.ln1_post
        return out if post is None else post.held(out, self._post_scale(layer)) + post.of(torch.zeros_like(out))

    def attention_down(
        self, layer: int, slope: Float[Tensor, "pos target d_model"]
    ) -> Float[Tensor, "pos target d_model"]:
        """From gradients by the stream behind attention to gradients by the stream that attention reads.

        Norms go into the small matrices: their weights into those of output and values, their scales into the pattern.
        """
        net, block, columns, targets = self.net, self.net.blocks[layer], *slope.shape[:2]
        first, post = block.ln1, block.ln1_post
        pattern = _pattern(self.layers[layer])[0, :, :columns, :columns]
        pattern = pattern / first.scale(self.layers[layer].stream[0, :columns])[:, 0]
        out, value = block.o[0], first.tidy(block.v[0] * first.weight)
        if post is not None:
            out = post.weight[:, None] * post.tidy(out.T).T
            pattern = pattern / self._post_scale(layer)[:columns]
        # Heads that share a value are summed where the pattern is applied.
        shared = pattern.unflatten(0, (net.n_kv, -1)).permute(0, 3, 1, 2).flatten(2)
        flat = slope.reshape(columns * targets, -1)
        z = (flat @ out).view(columns, targets, net.n_heads, net.d_head).permute(2, 0, 1, 3)
        v = shared @ z.reshape(net.n_kv, -1, targets * net.d_head)
        v = v.view(net.n_kv, columns, targets, net.d_head).permute(1, 2, 0, 3)
        return torch.addmm(flat, v.reshape(columns * targets, -1), value).view_as(slope)

    def attention_up(self, layer: int, change: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """What attention writes more where the stream that it reads is changed."""
        net, block = self.net, self.net.blocks[layer]
        x = block.ln1.held(change, block.ln1.scale(self.layers[layer].stream))
        values = net.heads(x @ block.v[0].T)
        out = net.read(_pattern(self.layers[layer]).expand(len(change), -1, -1, -1), values).flatten(-2) @ block.o[0].T
        return out if block.ln1_post is None else block.ln1_post.held(out, self._post_scale(layer))

    def inputs_up(self, layer: int, change: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """What features read more where the stream between attention and MLP is changed."""
        if self.reads == "resid_mid":
            return change
        norm, scale = self.net.blocks[layer].ln2, self.net.blocks[layer].ln2.scale(self.layers[layer].mid)
        return norm.held(change, scale) if self.reads == "mlp_in" else norm.tidy(change) / scale

    def final_down(self, pos: int, slope: Float[Tensor, "target d_model"]) -> Float[Tensor, "target d_model"]:
        """From gradients by what the last norm gives at a column to gradients by the stream there."""
        return _down(self.net.ln_final, slope, self.net.ln_final.scale(self.final[pos]))

    def _post_scale(self, layer: int) -> Float[Tensor, "pos one"]:
        block = self.net.blocks[layer]
        assert block.ln1_post is not None
        return block.ln1_post.scale(F.linear(self.layers[layer].z[0].flatten(-2), *block.o))


def _pattern(layer: Layer) -> Float[Tensor, "one head query key"]:
    assert layer.pattern is not None
    return layer.pattern


def _down(norm: Norm, slope: Tensor, scale: Tensor, *, weighted: bool = True) -> Tensor:
    """The transpose of the linear map that a norm is while its scale is held."""
    inner = norm.tidy(slope * norm.weight if weighted else slope)
    return inner / (scale[:, None] if slope.ndim == 3 else scale)
