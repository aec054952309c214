import pytest
import torch

from interp.datasets.judging import requests, turns, twin
from interp.errors import PromptError
from interp.workflows import paths
from interp.workflows.paths import SafeUnsafePaths, safe_unsafe_paths
from tests.judges import odds_of, tiny

UNSAFE = [one for one in requests(60, seed=6) if one.unsafe and "object" in turns(one)][:10]
SAFE = [twin(one, "object", seed=i) for i, one in enumerate(UNSAFE)]


@pytest.fixture(scope="module")
def made():
    plain, judge = tiny()
    sides = [judge.prompts([one.text for one in side]) for side in (UNSAFE, SAFE)]
    return plain, judge, sides, safe_unsafe_paths(judge, *sides, neutral=sides[1])


def test_copies_equal_hooks_on_the_plain_model(made):
    plain, judge, _, found = made
    for i in range(4):
        for layer in range(2):
            block = plain.model.layers[layer]
            kept = {}

            def keep(name, kept=kept):
                return lambda _, __, out: kept.update({name: out[0] if isinstance(out, tuple) else out})

            def give(name, kept=kept):
                return lambda _, __, out: (kept[name], *out[1:]) if isinstance(out, tuple) else kept[name]

            parts = {"attention": block.self_attn, "mlp": block.mlp}
            hooks = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
            high = odds_of(plain, judge, UNSAFE[i].text)
            for hook in hooks:
                hook.remove()
            low = odds_of(plain, judge, SAFE[i].text)
            hooks = [part.register_forward_hook(give(name)) for name, part in parts.items()]
            copied = odds_of(plain, judge, SAFE[i].text)
            for hook in hooks:
                hook.remove()
            torch.testing.assert_close(found.to_unsafe[i, layer], copied - low, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(found.gap[i], high - low, atol=1e-4, rtol=1e-4)


def test_a_prompt_s_own_outputs_change_nothing(made):
    found = made[3]
    torch.testing.assert_close(found.control, torch.zeros_like(found.control), atol=1e-5, rtol=0)


def test_swapping_the_labels_turns_every_sign(made):
    _, judge, sides, found = made
    turned = safe_unsafe_paths(judge, sides[1], sides[0])
    torch.testing.assert_close(turned.moved, -found.moved, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(turned.distance, found.distance)


def by_hand(moved, distance=None, control=0.0):
    n, layers = moved.shape
    return SafeUnsafePaths(
        tuple(range(layers)), torch.rand(n, layers + 1) if distance is None else distance, torch.zeros(n, layers + 1),
        moved, moved, torch.full_like(moved, control), torch.ones(n), torch.arange(n),
    )  # fmt: skip


def test_the_layer_that_moves_is_named_and_the_distance_is_doubted():
    torch.manual_seed(0)
    moved = torch.randn(40, 4) * 0.1 + torch.tensor([0.0, 2.0, 0.5, 0.0])
    distance = torch.arange(5.0).expand(40, -1)
    found = by_hand(moved, distance).critical()
    assert (found.layer, found.naive) == (1, 3)
    assert found.p < 0.01
    assert float(found.effect.low) > 1.8
    assert float(found.beyond_next.value) == pytest.approx(1.5, abs=0.1)
    assert "layer 3" in found.warning
    assert by_hand(moved, distance.flip(1) * torch.tensor([1.0, 1, 9, 1, 1])).critical().warning == ""


def test_where_nothing_moves_no_layer_is_critical():
    """The largest of 6 layers is inside the null: at most the binomial bound of 100 nulls may pass 5 %."""
    from scipy import stats

    passed = 0
    for seed in range(100):
        moved = torch.randn(24, 6, generator=torch.Generator().manual_seed(seed))
        passed += bool((by_hand(moved).effect().p < 0.05).any())
    assert passed <= stats.binom.ppf(0.999, 100, 0.05)


def test_what_does_not_align_is_said(made):
    _, judge, sides, _ = made
    with pytest.raises(PromptError, match="neutral twins"):
        safe_unsafe_paths(judge, *sides, neutral=sides[1].take(range(3)))
    with pytest.raises(PromptError):
        safe_unsafe_paths(judge, sides[0], sides[1].take(range(3)))


def test_pairs_in_parts_give_the_same(made, monkeypatch):
    _, judge, (unsafe, safe), _ = made
    whole = safe_unsafe_paths(judge, unsafe, safe, layers=[1])
    monkeypatch.setattr(paths, "batch_rows", lambda *_: 6)
    parts = safe_unsafe_paths(judge, unsafe, safe, layers=[1])
    for name in ("distance", "to_unsafe", "to_safe", "gap", "groups"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=1e-5)
    assert len(whole.to_frame()) == len(unsafe)
    assert whole.naive in (0, 1)
