import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import files
from interp.errors import DataError


class Interrupted(BaseException):
    pass


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def broken_off(path, error):
    with files.atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Interrupted])
def test_a_block_that_raises_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "table.txt"
    path.write_text("old")
    with pytest.raises(error):
        broken_off(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.txt"]


def test_a_block_that_raises_leaves_no_new_file(tmp_path):
    with pytest.raises(ValueError):
        broken_off(tmp_path / "new" / "a.txt", ValueError)
    assert names(tmp_path / "new") == []


def test_the_file_takes_its_name_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    with files.atomic(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_folder_takes_its_name_and_the_place_of_an_older_one_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "pages"
    with files.atomic_folder(path) as temporary:
        (temporary / "a.txt").write_text("a")
        assert temporary.parent == path.parent
        assert not path.exists()
    with files.atomic_folder(path) as temporary:
        (temporary / "b.txt").write_text("b")
        assert names(path) == ["a.txt"]
    assert names(path) == ["b.txt"]
    assert names(path.parent) == ["pages"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Interrupted])
def test_a_block_that_raises_leaves_the_old_folder(tmp_path, error):
    path = tmp_path / "pages"
    path.mkdir()
    (path / "old.txt").write_text("old")

    def broken():
        with files.atomic_folder(path) as temporary:
            (temporary / "new.txt").write_text("half")
            raise error

    with pytest.raises(error):
        broken()
    assert names(path) == ["old.txt"]
    assert names(tmp_path) == ["pages"]


def test_a_folder_does_not_take_the_place_of_a_file(tmp_path):
    (tmp_path / "pages").write_text("x")

    def taken():
        with files.atomic_folder(tmp_path / "pages"):
            pass

    with pytest.raises(DataError, match="a file has this name; choose another folder"):
        taken()
    assert names(tmp_path) == ["pages"]


def test_what_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    for path in (tmp_path / "file" / "a.txt", tmp_path / "folder"):
        with pytest.raises(DataError, match="choose another folder") as caught:
            files.write_text(path, "x")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["file", "folder"]


def test_text_comes_back(tmp_path):
    for text in ("", "a\n\nb", "é 漢 \u2028 \u0085 🜚"):
        files.write_text(tmp_path / "a.txt", text)
        assert files.read_text(tmp_path / "a.txt") == text
        assert (tmp_path / "a.txt").read_bytes() == text.encode()


def test_text_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        files.read_text(tmp_path / "nothing")
    with pytest.raises(DataError, match="cannot read"):
        files.read_text(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read"):
        files.read_text(tmp_path / "bytes")


def strict(text):
    """JSON as the standard has it, without NaN."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_no_nan(tmp_path):
    content = {
        "nan": math.nan,
        "inside": [1.5, math.inf, (-math.inf, "x")],
        "numpy": np.float64("nan"),
        "array": np.array([[1.0, np.nan]]),
        "tensor": torch.tensor([2.0, torch.nan]),
        "zero": torch.tensor(3),
        "small": np.float32(0.5),
        "truth": np.bool_(True),
        7: None,
        "text": "nan <é>\n",
    }
    files.write_json(tmp_path / "a.json", content)
    assert strict((tmp_path / "a.json").read_text()) == {
        "nan": None,
        "inside": [1.5, None, [None, "x"]],
        "numpy": None,
        "array": [[1.0, None]],
        "tensor": [2.0, None],
        "zero": 3,
        "small": 0.5,
        "truth": True,
        "7": None,
        "text": "nan <é>\n",
    }
    assert files.read_json(tmp_path / "a.json")["zero"] == 3


def test_a_json_that_cannot_be_written_leaves_the_old(tmp_path):
    files.write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"thing": object()})
    assert files.read_json(tmp_path / "a.json") == [1]
    assert names(tmp_path) == ["a.json"]


def test_a_json_that_is_none_is_refused(tmp_path):
    for content in ("", "{", "{'a': 1}", "nothing"):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(DataError, match="is not JSON") as caught:
            files.read_json(tmp_path / "a.json")
        assert str(tmp_path / "a.json") in str(caught.value)
        assert "\n" not in str(caught.value)


def test_lines_come_back(tmp_path):
    rows = [{"a": 1, "b": [2.5, None]}, {"text": 'quote " and\nline'}, {}]
    files.write_jsonl(tmp_path / "a.jsonl", rows)
    assert files.read_jsonl(tmp_path / "a.jsonl") == rows
    assert len((tmp_path / "a.jsonl").read_bytes().split(b"\n")) == 4


@settings(deadline=None, derandomize=True, database=None, max_examples=50)
@given(text=st.text(st.sampled_from('a"\\ \n\r\t\x0b\x0c\x1c\x85\u2028\u2029é'), max_size=6))
def test_lines_with_any_text_come_back(tmp_path_factory, text):
    """U+2028 and U+0085 end a line for `str.splitlines` but not for JSON."""
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    files.write_jsonl(path, [{"text": text}, {"text": text}])
    assert files.read_jsonl(path) == [{"text": text}] * 2


def test_lines_have_no_nan(tmp_path):
    files.write_jsonl(tmp_path / "a.jsonl", [{"loss": math.nan}])
    assert strict((tmp_path / "a.jsonl").read_text()) == {"loss": None}


def test_a_wrong_line_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    for content, message in [
        ('{"a": 1}\n\n{"a": \n', "line 3: not JSON"),
        ('{"a": 1}\n[1, 2]\n', "line 2: expected an object, found list"),
        ("\n  \n", "is empty"),
        ("", "is empty"),
    ]:
        path.write_text(content)
        with pytest.raises(DataError, match=message) as caught:
            files.read_jsonl(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_shipped_models_are_found_by_name():
    folders = files.shipped_models()
    assert folders == sorted(folders)
    configs = ("config.json", "adapter_config.json")
    assert all(any((folder / name).is_file() for name in configs) for folder in folders)
    assert all(files.shipped_model(folder.name) == folder for folder in folders)
    assert files.shipped_model("no such model") is None
    assert files.shipped_model("..") is None
    assert files.data_dir().is_dir()
