import torch

from interp.models import harvest as harvesting
from interp.models.harvest import harvest
from interp.models.run import capture
from interp.sites import Site

SITES = ["resid_pre", "z", "pattern", "mlp_post", "logits"]


def test_parts_together_are_what_capture_gives(model, ragged):
    _, prompts = ragged
    wanted = capture(model, prompts, SITES)
    for memory in (1, 60_000, 1 << 30):
        start = 0
        for part in harvest(model, prompts, SITES, memory=memory):
            rows = torch.arange(start, start + len(part.prompts))
            same = wanted.take(rows)
            assert part.tensors.keys() == same.tensors.keys()
            for site, tensor in part.tensors.items():
                torch.testing.assert_close(tensor, same[site], atol=1e-5, rtol=1e-5, equal_nan=True)
            start += len(rows)
        assert start == len(prompts)


def test_each_prompt_is_run_once_and_only_when_it_is_asked_for(model, ragged, monkeypatch):
    _, prompts = ragged
    rows = []

    def counted(*args, **options):
        found = capture(*args, **options)
        rows.append(len(args[1]))
        return found

    monkeypatch.setattr(harvesting, "capture", counted)
    parts = harvest(model, prompts, ["resid_pre"], layers=[0], memory=1)
    assert rows == []
    first = next(parts)
    assert rows == [1]
    assert set(first.tensors) == {Site("resid_pre", 0)}
    list(parts)
    assert sum(rows) == len(prompts)
