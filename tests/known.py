"""The hand-built induction model with prompts `x A B y A`, for which every answer is known."""

import torch

from interp.models.load import load_model
from interp.models.tiny import induction_model
from interp.prompts import PromptPairs, Prompts

LENGTH = 9


def known_model():
    return load_model(induction_model(), device="cpu")


def known_pairs(n=24, seed=0):
    """Clean `f A B g.. A` and the same with B changed; the answer is B, the foil the other one.

    Fillers, A and B are distinct, so the earlier A is the only match. The gap between the two A varies.
    """
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted, answers, foils, ends = [], [], [], [], []
    for i in range(n):
        tokens = torch.randperm(12, generator=generator)
        a, b, other, rest = tokens[0], tokens[1], tokens[2], tokens[3:]
        gap = 1 + i % 5
        clean.append(torch.stack([rest[0], a, b, *rest[1 : 1 + gap], a]))
        corrupted.append(torch.stack([rest[0], a, other, *rest[1 : 1 + gap], a]))
        answers.append(b)
        foils.append(other)
        ends.append(3 + gap)
    sides = []
    for rows, targets in ((clean, answers), (corrupted, foils)):
        width = max(map(len, rows))
        tokens = torch.stack([torch.cat([row, torch.zeros(width - len(row), dtype=torch.long)]) for row in rows])
        mask = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
        roles = {"first A": torch.ones(n, dtype=torch.long), "B": torch.full((n,), 2), "second A": torch.tensor(ends)}
        sides.append(Prompts.from_tokens(tokens, mask, answers=torch.stack(targets), roles=roles))
    return PromptPairs(*sides)
