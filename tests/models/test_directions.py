import pytest
import torch

from interp.errors import ConfigError
from interp.models.directions import Direction
from interp.models.run import capture, edit
from interp.sites import Site


def test_a_direction_is_added_and_projected_out(model, ragged):
    ids, prompts = ragged
    site = Site("resid_post", 1)
    direction = Direction(site, torch.linspace(-1, 2, 24), "a line")
    before = capture(model, prompts, [site])[site]
    added = edit(model, prompts, [direction.add(2.5, at=-1)], [site])[site]
    out = edit(model, prompts, [direction.project_out()], [site])[site]
    for i, row in enumerate(ids):
        n = len(row)
        moved = added[i, :n] - before[i, :n]
        torch.testing.assert_close(moved[-1], 2.5 * direction.vector, atol=1e-4, rtol=1e-4)
        assert float(moved[:-1].abs().max()) < 1e-6 if n > 1 else True
        assert float(direction.along(out[i, :n]).abs().max()) < 1e-4
        # What is orthogonal to it stays.
        rest = before[i, :n] - direction.along(before[i, :n])[:, None] * direction.unit
        torch.testing.assert_close(out[i, :n], rest, atol=1e-4, rtol=1e-4)


def test_random_directions_have_the_norm_and_no_preference():
    direction = Direction(Site("resid_pre", 0), 3 * torch.eye(64)[5], "an axis")
    drawn = direction.random(2000, seed=3)
    cosines = torch.tensor([direction.cosine(d) for d in drawn])
    assert all(abs(d.norm - 3) < 1e-4 and d.site == direction.site for d in drawn)
    # Cosines with a fixed vector have mean 0 and variance 1 / d: five standard errors.
    assert abs(float(cosines.mean())) < 5 / (64 * 2000) ** 0.5
    assert abs(float(cosines.var()) * 64 - 1) < 5 * (2 / 2000) ** 0.5
    again = direction.random(2, seed=3)
    assert torch.equal(again[1].vector, drawn[1].vector)


def test_doses_are_cells_of_a_sweep():
    direction = Direction(Site("resid_pre", 0), torch.ones(4), "ones")
    assert [cell[0].value.scale for cell in direction.dose([-1, 0, 2])] == [-1, 0, 2]
    assert direction.cosine(Direction(Site("resid_post", 0), -torch.ones(4), "minus")) == pytest.approx(-1)


@pytest.mark.parametrize("vector", [torch.zeros(3), torch.tensor([1.0, float("nan")])])
def test_a_direction_that_points_nowhere_is_refused(vector):
    with pytest.raises(ConfigError, match="points nowhere"):
        Direction(Site("resid_pre", 0), vector, "nothing")


def test_directions_of_other_widths_are_not_compared():
    one, other = (Direction(Site("resid_pre", 0), torch.ones(n), "ones") for n in (3, 4))
    with pytest.raises(ConfigError, match="width 3 and 4"):
        one.cosine(other)
