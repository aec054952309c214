"""Files of transcoders: what is written is what is read, bit for bit, and what other tools write is understood."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from interp.circuits.formats import read_transcoders, write_sae_lens, write_transcoders
from interp.errors import DataError
from tests.circuits.test_graph import KINDS, drawn

PARTS = ("encoder", "encoder_bias", "decoder", "decoder_bias", "threshold", "skip", "k")


def same(first, second):
    assert first.reads == second.reads
    for one, other in zip(first.layers, second.layers, strict=True):
        for part in PARTS:
            a, b = getattr(one, part), getattr(other, part)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, part


@pytest.mark.parametrize("reads", ["resid_mid", "normalized", "mlp_in"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_circuit_tracer_folder_comes_back_exactly(tmp_path, kind, reads):
    transcoders = drawn(kind, reads).to(torch.bfloat16)
    write_transcoders(transcoders, tmp_path / "set", model="tiny", scan="mine")
    found = read_transcoders(tmp_path / "set")
    same(transcoders, found)
    assert found.name == "mine"


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk", "skip"])
def test_a_sae_lens_folder_comes_back_exactly(tmp_path, kind):
    transcoders = drawn(kind)
    write_sae_lens(transcoders, tmp_path)
    same(transcoders, read_transcoders(tmp_path))
    about = json.loads((tmp_path / "layer_1" / "cfg.json").read_text())
    assert about["metadata"]["hook_name"] == "blocks.1.mlp.hook_in"
    assert load_file(tmp_path / "layer_1" / "sae_weights.safetensors")["W_enc"].shape == (32, 24)


def test_names_in_cross_layer_files_are_circuit_tracers(tmp_path):
    write_transcoders(drawn("cross"), tmp_path)
    assert set(load_file(tmp_path / "W_enc_1.safetensors")) == {"W_enc_1", "b_enc_1", "b_dec_1"}
    assert load_file(tmp_path / "W_dec_1.safetensors")["W_dec_1"].shape == (24, 2, 32)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model_kind"] == "cross_layer_transcoder"


def arrays(file, one):
    """As GemmaScope publishes a layer."""
    file.parent.mkdir(parents=True)
    np.savez(
        file, W_enc=one.encoder.T.numpy(), W_dec=one.decoder[:, 0].numpy(), b_enc=one.encoder_bias.numpy(),
        b_dec=one.decoder_bias.numpy(), threshold=one.threshold.numpy(),
    )  # fmt: skip


def test_gemma_scopes_arrays_are_read(tmp_path):
    transcoders = drawn("jumprelu", "normalized")
    for number, one in enumerate(transcoders.layers):
        arrays(tmp_path / f"layer_{number}" / "width_24" / "average_l0_5" / "params.npz", one)
    same(transcoders, read_transcoders(tmp_path))


def test_a_config_may_list_the_files_of_its_layers(tmp_path):
    transcoders = drawn("jumprelu", "normalized")
    write_transcoders(transcoders, tmp_path)
    arrays(tmp_path / "other" / "params.npz", transcoders.layers[1])
    about = yaml.safe_load((tmp_path / "config.yaml").read_text())
    files = ["layer_0.safetensors", "other/params.npz", str(tmp_path / "layer_2.safetensors")]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**about, "transcoders": files}))
    same(transcoders, read_transcoders(tmp_path))
    for wrong, said in (("layer_0.safetensors", "a list of files"), (["hf://nobody"], "no file of the hub")):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**about, "transcoders": wrong}))
        with pytest.raises(DataError, match=said):
            read_transcoders(tmp_path)


@pytest.mark.parametrize("write", [write_transcoders, write_sae_lens])
def test_where_features_write_comes_back(tmp_path, write):
    transcoders = drawn("relu")
    for before in (False, True):
        write(replace(transcoders, before_norm=before), tmp_path / str(before))
        assert read_transcoders(tmp_path / str(before)).before_norm is before


def test_what_cannot_be_read_is_told_in_a_line(tmp_path):
    def written(name):
        write_transcoders(drawn("relu"), tmp_path / name)
        return tmp_path / name

    with pytest.raises(DataError, match="no folder"):
        read_transcoders(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no transcoders"):
        read_transcoders(tmp_path / "empty")
    one = written("gap")
    (one / "layer_1.safetensors").unlink()
    with pytest.raises(DataError, match="no transcoder of layer 1"):
        read_transcoders(one)
    one = written("lacking")
    content = load_file(one / "layer_2.safetensors")
    save_file({k: v for k, v in content.items() if k != "b_dec"}, one / "layer_2.safetensors")
    with pytest.raises(DataError, match="lacks b_dec"):
        read_transcoders(one)
    one = written("short")
    save_file(content | {"b_enc": content["b_enc"][:3].clone()}, one / "layer_2.safetensors")
    with pytest.raises(DataError, match="do not fit"):
        read_transcoders(one)
    one = written("torn")
    (one / "layer_0.safetensors").write_bytes(b"not tensors")
    with pytest.raises(DataError, match="cannot read"):
        read_transcoders(one)
    one = written("elsewhere")
    (one / "config.yaml").write_text("feature_input_hook: hook_resid_pre\n")
    with pytest.raises(DataError, match="read at hook_resid_pre"):
        read_transcoders(one)
    (one / "config.yaml").write_text("[")
    with pytest.raises(DataError, match="not YAML"):
        read_transcoders(one)
    one = tmp_path / "pickled"
    one.mkdir()
    np.savez(one / "layer_0.npz", W_enc=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="cannot read"):
        read_transcoders(one)
