from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from interp.errors import ConfigError, DataError
from interp.settings import check, read_yaml


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    share: float = Field(0.5, ge=0, le=1)
    kind: Literal["digit", "carry"] = "digit"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    layers: list[int] = []
    inner: Inner = Inner()


@pytest.fixture
def write(tmp_path):
    def do(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return do


def test_yaml_becomes_settings(write):
    found = read_yaml(write("name: é\nlayers: [1, 2]\ninner:\n  share: 1\n"), Outer)
    assert found == Outer(name="é", layers=[1, 2], inner=Inner(share=1.0))
    assert read_yaml(str(write("name: a\n")), Outer) == Outer(name="a")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name: a\ncolour: red\n", ["unknown key 'colour'", "known keys", "name, layers, inner"]),
        ("name: a\ninner:\n  colour: red\n", ["unknown key 'inner.colour'"]),
        ("name: [1]\n", ["name: ", "string", "got [1]"]),
        ("name: a\nlayers: [1, two]\n", ["layers.1: ", "integer", "got 'two'"]),
        ("name: a\nlayers: 3\n", ["layers: ", "list", "got 3"]),
        ("name: a\ninner:\n  share: 1.5\n", ["inner.share: ", "less than or equal to 1", "got 1.5"]),
        ("name: a\ninner:\n  share: -1\n", ["inner.share: ", "greater than or equal to 0"]),
        ("name: a\ninner:\n  share: .nan\n", ["inner.share: "]),
        ("name: a\ninner:\n  kind: operator\n", ["inner.kind: ", "'digit' or 'carry'", "got 'operator'"]),
        ("layers: [1]\n", ["name: ", "required"]),
        ("name: a\ninner: 3\n", ["inner: "]),
        ("1: b\nname: a\n", ["1"]),
        ("no: b\nname: a\n", ["False"]),  # YAML reads a bare `no` as false
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(write, text, parts):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path, Outer)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: [1, 2\nlayers: 3\n", "line 2: not YAML"),
        ("name: 'a\n", "not YAML"),
        ("\tname: a\n", "line 1: not YAML"),
        ("name: a\nname\n", "not YAML"),
        ("name: \x07\n", "not YAML"),
        ("name: *missing\n", "not YAML"),
        ("", "expected keys and values, found NoneType"),
        ("- a\n- b\n", "expected keys and values, found list"),
        ("words\n", "expected keys and values, found str"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
    ],
)
def test_what_is_no_yaml_is_refused(write, text, part):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path, Outer)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert part in message
    assert "\n" not in message


def test_yaml_runs_nothing(write, tmp_path):
    trace = tmp_path / "ran"
    path = write(f"name: !!python/object/apply:builtins.open ['{trace}', w]\n")
    with pytest.raises(ConfigError, match="not YAML"):
        read_yaml(path, Outer)
    assert not trace.exists()


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        read_yaml(tmp_path / "nothing.yaml", Outer)
    with pytest.raises(DataError, match="cannot read"):
        read_yaml(tmp_path, Outer)
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(DataError, match="cannot read"):
        read_yaml(tmp_path / "bytes.yaml", Outer)


def test_settings_from_elsewhere_name_their_source():
    assert check({"name": "a"}, Outer, "--set").name == "a"
    with pytest.raises(ConfigError, match=r"^--set: unknown key 'colour'"):
        check({"name": "a", "colour": 1}, Outer, "--set")
