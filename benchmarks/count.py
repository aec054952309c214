"""The fewest operations that a job takes, counted layer by layer and column by column.

Counted are the products of matrices (a product and a sum are two operations); norms, softmax, activations and copies
are left out, so no program can reach the count over the matrix-multiply rate. What need not be computed again is not
counted:

- a patch at (layer l, column p) changes nothing below l and nothing before p, and nothing at all where both runs are
  the same there (before the first column in which the prompts differ; at layer 0 in every other column);
- in the layer where one column's stream is changed, the other columns' queries, keys and values are the base run's;
- the last layer needs every changed key and value, but one query, one attention output and one MLP: the last column's;
- a logit difference needs two columns of the unembedding;
- backwards, each product is done once more with the weights transposed; weights have no gradient.

The products are those of the network in its own order: that a longer product could be split or joined in another order
is left aside.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.inputs import STEPS, Case, Shape


@dataclass(frozen=True)
class Count:
    """Operations on one prompt (or pair) of a case."""

    shape: Shape
    case: Case

    # One token in one layer ------------------------------------------------------------------------------------------
    @property
    def square(self) -> int:
        """A product with a weight of width by width: the query, the key, the value, the output each take one."""
        return 2 * self.shape.width**2

    @property
    def mlp(self) -> int:
        """Into the neurons and out of them."""
        return 2 * 2 * self.shape.width * self.shape.neurons

    def attention(self, keys: int) -> int:
        """A query's scores with so many keys, and the mixing of their values, over all heads."""
        return 2 * 2 * self.shape.width * keys

    @property
    def head_out(self) -> int:
        """What one head writes."""
        return 2 * self.shape.width // self.shape.heads * self.shape.width

    @property
    def readout(self) -> int:
        """Two logits."""
        return 2 * 2 * self.shape.width

    # Many tokens, many layers ----------------------------------------------------------------------------------------
    @property
    def last(self) -> int:
        """The last layer."""
        return self.shape.layers - 1

    def layer(self, layer: int, first: int) -> int:
        """A layer into which every column from `first` on comes changed."""
        columns = range(first, self.case.tokens)
        if layer < self.last:
            return sum(4 * self.square + self.mlp + self.attention(column + 1) for column in columns)
        keys_and_values = len(columns) * 2 * self.square
        return keys_and_values + 2 * self.square + self.mlp + self.attention(self.case.tokens)

    def layers(self, start: int, first: int) -> int:
        """All layers from `start` on, every column from `first` on."""
        return sum(self.layer(layer, first) for layer in range(start, self.shape.layers))

    def entered(self, layer: int, column: int, known: bool) -> int:
        """A layer into which one column comes changed; its query, key and value may be known from another run.

        A later column's attention changes in one key.
        """
        end = self.case.tokens - 1
        if layer == self.last:
            reached = [end]
            own = 2 * self.square + (self.square if column == end else 0)
        else:
            reached = list(range(column, self.case.tokens))
            own = 3 * self.square
        mixing = sum(self.attention(column + 1 if other == column else 1) for other in reached)
        return (0 if known else own) + mixing + len(reached) * (self.square + self.mlp)

    def forward(self) -> int:
        """A whole run, read at the last column."""
        return self.layers(0, 0) + self.readout

    def source(self) -> int:
        """The run that is copied from, where it differs from the base run, up to the last query, key and value."""
        last = (self.case.tokens - self.case.first) * 2 * self.square + self.square
        return sum(self.layer(layer, self.case.first) for layer in range(self.last)) + last

    def backward(self, into_first: bool = True) -> int:
        """From the two logits down to the first layer's queries, keys and values, and through them if asked.

        As forward; attention has two products more.
        """
        below_last = sum(self.attention(column + 1) for column in range(self.case.tokens))
        at_last = self.attention(self.case.tokens)
        found = self.forward() + self.last * below_last + at_last
        if into_first:
            return found
        projections = self.case.tokens * (3 if self.last else 2) * self.square + (0 if self.last else self.square)
        return found - projections - 2 * (below_last if self.last else at_last)

    # The jobs --------------------------------------------------------------------------------------------------------
    def residual(self) -> int:
        """resid_pre, layers by columns."""
        cells = 0
        for layer in range(self.shape.layers):
            for column in range(self.case.first, self.case.tokens):
                if layer > 0 or column == self.case.first:
                    cells += self.entered(layer, column, known=True) + self.layers(layer + 1, column) + self.readout
        return self.forward() + self.source() + cells

    def heads(self) -> int:
        """z of one head in one column, layers by columns by heads."""
        end, cells = self.case.tokens - 1, 0
        for layer in range(self.shape.layers):
            for column in range(self.case.first, self.case.tokens):
                if layer == self.last and column < end:
                    continue
                cell = self.head_out + self.mlp + self.readout
                if layer < self.last:
                    cell += self.entered(layer + 1, column, known=False) + self.layers(layer + 2, column)
                cells += cell
        return self.forward() + self.source() + self.shape.heads * cells

    def ablation(self) -> int:
        """Every head of every layer, at all columns."""
        cells = 0
        for layer in range(self.shape.layers):
            columns = 1 if layer == self.last else self.case.tokens
            cells += columns * (self.head_out + self.mlp) + self.layers(layer + 1, 0) + self.readout
        return self.forward() + self.shape.heads * cells

    def edges(self) -> int:
        """Two runs forward, one back, and for each edge a product of its source's change and its target's gradient."""
        changed, heads = self.case.tokens - self.case.first, self.shape.heads
        products, before = 0, 1
        for layer in range(self.shape.layers):
            end = layer == self.last
            products += before * heads * (2 * changed + (1 if end else changed))  # keys and values; queries
            before += heads
            products += before * (1 if end else changed)
            before += 1
        products += before  # logits
        return self.forward() + self.layers(0, self.case.first) + self.backward() + products * 2 * self.shape.width

    def nodes(self) -> int:
        """Two runs forward, one back to the first layer's heads, and a product for every head and column."""
        products = self.shape.layers * (self.case.tokens - self.case.first) * 2 * self.shape.width
        return self.forward() + self.source() + self.backward(into_first=False) + products

    def lens(self) -> int:
        """A run, and the whole unembedding at the last column of every depth."""
        unembedding = (self.shape.layers + 1) * 2 * self.shape.width * self.shape.vocabulary
        return self.layers(0, 0) + unembedding

    def tokens(self) -> int:
        """A run and its way back for every step of the integral."""
        return STEPS * (self.forward() + self.backward())

    def naive(self) -> int:
        """A plain forward pass, every column unembedded: what a loop does for each cell."""
        columns = range(self.case.tokens)
        layer = sum(4 * self.square + self.mlp + self.attention(column + 1) for column in columns)
        return self.shape.layers * layer + self.case.tokens * 2 * self.shape.width * self.shape.vocabulary


def operations(job: str, shape: Shape, case: Case) -> int | None:
    """The fewest operations of a job on all pairs of a case; None where they are not counted."""
    counted = getattr(Count(shape, case), job, None)
    return None if counted is None else case.pairs * counted()
