"""Transcoders by name, from a cache of the hub as its client leaves one; nothing here asks the network."""

from dataclasses import replace

import huggingface_hub
import pytest
import yaml

from interp.circuits.formats import GEMMA, load_transcoders, write_sae_lens, write_transcoders
from interp.circuits.hub import Place
from interp.errors import DataError
from tests.circuits.test_formats import arrays, same
from tests.circuits.test_graph import drawn

COMMIT = "0123456789abcdef0123456789abcdef01234567"
L0 = (76, 65, 49, 54, 88, 87, 95, 70, 52, 72, 88, 5, 6, 8, 8, 8, 10, 12, 13, 12, 11, 13, 15, 25, 37, 41)
"""The sixteen-thousand-feature files that circuit-tracer's published configuration for Gemma-2-2B lists."""


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Makes the folder of a repository's one snapshot."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def made(repository):
        root = tmp_path / "cache" / f"models--{repository.replace('/', '--')}"
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / "main").write_text(COMMIT)
        (root / "snapshots" / COMMIT).mkdir(parents=True, exist_ok=True)
        return root / "snapshots" / COMMIT

    return made


def test_a_folder_is_a_name_and_comes_first(tmp_path, cached, monkeypatch):
    write_transcoders(drawn("skip"), tmp_path / "owner" / "set", scan="mine")
    monkeypatch.chdir(tmp_path)
    for name in ("owner/set", tmp_path / "owner" / "set"):
        found = load_transcoders(name)
        same(drawn("skip"), found)
        assert found.name == "mine"


def test_a_repository_is_read_from_the_cache(cached):
    write_transcoders(drawn("cross"), cached("owner/cross"))
    found = load_transcoders("owner/cross")
    same(drawn("cross"), found)
    assert found.name == "owner/cross"
    write_sae_lens(drawn("topk"), cached("owner/many") / "deep" / "set")
    same(drawn("topk"), load_transcoders("owner/many/deep/set"))
    same(drawn("topk"), load_transcoders(f"owner/many/deep/set@{COMMIT}"))


def test_a_repository_may_list_files_of_another(cached):
    transcoders = drawn("jumprelu", "normalized")
    for number, one in enumerate(transcoders.layers):
        arrays(cached("owner/arrays") / f"layer_{number}" / "params.npz", one)
    files = [f"hf://owner/arrays/layer_{number}/params.npz" for number in range(3)]
    files[2] += f"?revision={COMMIT}"
    about = {"feature_input_hook": "ln2.hook_normalized", "feature_output_hook": "hook_mlp_out", "transcoders": files}
    (cached("owner/list") / "config.yaml").write_text(yaml.safe_dump(about))
    same(transcoders, load_transcoders("owner/list"))


def test_gemma_is_the_published_set(cached):
    one = drawn("jumprelu").layers[0]
    for layer, size in enumerate(L0):
        other = replace(one, encoder_bias=one.encoder_bias + layer)
        arrays(cached(GEMMA) / f"layer_{layer}" / "width_16k" / f"average_l0_{size}" / "params.npz", other)
    for name in ("gemma", GEMMA):
        found = load_transcoders(name)
        assert (len(found.layers), found.reads, found.before_norm, found.name) == (26, "normalized", False, "gemma")
        assert all(bool((x.encoder_bias == one.encoder_bias + at).all()) for at, x in enumerate(found.layers))


def test_what_cannot_be_had_is_told_in_a_line(cached, tmp_path):
    for name, said in (
        ("gemma", "cannot fetch google/gemma-scope-2b-pt-transcoders/layer_0/.*switched off"),
        ("owner/none", "cannot fetch owner/none: .*cache.* has no copy"),
        ("nowhere", "no folder 'nowhere'"), ("owner/../up", "no folder"), (tmp_path / "a" / "b", "no folder"),
        ("", "no folder"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said) as error:
            load_transcoders(name)
        assert "\n" not in str(error.value)
    cached("owner/empty")
    with pytest.raises(DataError, match="holds no transcoders"):
        load_transcoders("owner/empty")


def test_places():
    assert Place.of("a/b") == Place("a/b")
    assert Place.of("a/b/c/d@e") == Place("a/b", "c/d", "e")
    assert Place.of("hf://a/b/c/d.npz?revision=e") == Place("a/b", "c/d.npz", "e")
    for name in ("a", "a/b/../c", "../a", "a b/c", "https://a/b", "hf://a", "~/a", "./a/b"):
        assert Place.of(name) is None, name
