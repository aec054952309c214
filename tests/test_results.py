import dataclasses
import importlib
import inspect
import itertools
import json
import math
import pickle
import pkgutil
import sys
import types
import typing

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import interp.analyses
from interp import results
from interp.analyses.heads import HeadScores
from interp.errors import DataError


def kinds():
    """Every public result dataclass of every analysis: a new one is tested as soon as it is there."""
    found = {}
    for module in pkgutil.iter_modules(interp.analyses.__path__, "interp.analyses."):
        public = {n: v for n, v in vars(importlib.import_module(module.name)).items() if not n.startswith("_")}
        for name, value in public.items():
            if dataclasses.is_dataclass(value) and inspect.isclass(value) and value.__module__ == module.name:
                found[name] = value
    return found


KINDS = kinds()
AXES = {
    "prefixes": "prefix",
    "shapes": "module",
    "categories": "prompt",
    "texts": "prompt",
}
"""The axis along which a tuple runs, where it is not the singular of the tuple's name."""


def example(kind, sizes):
    """An instance made from the annotations: tensors of the named axes with some nan in them, names along them."""
    generator = torch.Generator().manual_seed(0)
    values, hints = {}, typing.get_type_hints(kind)
    if any(axis.name == "edge" for hint in hints.values() for axis in getattr(hint, "dims", ())):
        sizes["source"] = sizes["target"] = sizes.setdefault("edge", 3)  # both ends are named edge by edge
    for name, hint in hints.items():
        values[name] = _value(name, hint, sizes, generator)
    return kind(**values)


def _value(name, hint, sizes, generator):
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(hint, "dims"):
        shape = [sizes.setdefault(axis.name, len(sizes) % 3 + 2) for axis in hint.dims]
        if "float" in str(hint.dtypes[0]):
            tensor = torch.randn(shape, generator=generator)
            return tensor.masked_fill(torch.rand(shape, generator=generator) < 0.2, torch.nan)
        if "bool" in str(hint.dtypes[0]):
            return torch.rand(shape, generator=generator) < 0.5
        return torch.randint(5, shape, generator=generator)
    if origin is tuple and args[-1] is Ellipsis:
        length = sizes.setdefault(AXES.get(name, name.removesuffix("s")), len(sizes) % 3 + 2)
        return tuple(_value(f"{name}{i}", args[0], sizes, generator) for i in range(length))
    if origin is tuple:
        return tuple(_value(f"{name}{i}", arg, sizes, generator) for i, arg in enumerate(args))
    if origin is typing.Literal:
        return args[-1]
    if inspect.isclass(origin) and issubclass(origin, typing.Mapping):
        return {f"{name} {i}": _value(f"{name}{i}", args[1], sizes, generator) for i in range(2)}
    if origin in (types.UnionType, typing.Union):
        return _value(name, args[0], sizes, generator)
    plain = {str: f'{name} "é\n', int: 7, float: 0.1 + 0.2, bool: True}
    if hint not in plain:
        pytest.fail(f"the test does not know how to make an example of {name}: {hint}")
    return plain[hint]


def equal(first, second):
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    elif isinstance(first, np.ndarray):
        np.testing.assert_array_equal(first, second)
        assert first.dtype == second.dtype
    elif isinstance(first, float) and math.isnan(first):
        assert math.isnan(second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            equal(first[key], second[key])
    elif isinstance(first, tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            equal(one, other)
    else:
        assert first == second


def equal_results(first, second):
    assert type(first) is type(second)
    for item in dataclasses.fields(first):
        equal(getattr(first, item.name), getattr(second, item.name))


def test_the_analyses_have_results():
    assert {"Patching", "LogitLens", "HeadScores", "AttentionStatistics"} <= set(KINDS)


@pytest.mark.parametrize("name", list(KINDS))
def test_every_result_comes_back_as_it_went(name, tmp_path):
    result = example(KINDS[name], {})
    results.save(result, tmp_path / "run")
    equal_results(result, results.load(tmp_path / "run"))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names - {"table.parquet"} == {"result.json", "result.safetensors"}
    assert ("table.parquet" in names) == hasattr(result, "to_frame")


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if hasattr(kind, "to_frame")])
def test_the_long_table_is_read_by_pandas(name, tmp_path):
    result = example(KINDS[name], {})
    results.save(result, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), result.to_frame())


def scores(n=3):
    generator = torch.Generator().manual_seed(n)
    values = torch.rand(n, 2, 2, 1, generator=generator)
    return HeadScores(("induction",), (0, 1), values, torch.rand(n, 1, generator=generator), torch.arange(n))


@pytest.fixture
def home():
    """A module of the library with results of every kind of field, for the time of a test."""
    name = "interp.analyses._for_the_test"
    module = types.ModuleType(name)
    sys.modules[name] = module

    def add(**fields_):
        kind = dataclasses.make_dataclass(
            "Example", fields_, frozen=True, eq=False, namespace={"__module__": name, "__qualname__": "Example"}
        )
        kind.__module__ = name
        module.Example = kind
        return kind

    yield add
    del sys.modules[name]


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1.5, torch.nan, torch.inf]),
        torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.arange(6).reshape(2, 3).T,
        torch.zeros(0, 3),
        torch.tensor(2.0),
        (1, (2.5, "a"), ()),
        {"a": "b", "é": "<script>"},
        {},
        None,
        "",
        True,
        1e-300,
    ],
    ids=str,
)
def test_fields_of_every_kind_come_back(home, tmp_path, value):
    result = home(field=object, other=int)(value, 1)
    results.save(result, tmp_path)
    equal_results(result, results.load(tmp_path))


@pytest.mark.parametrize("value", [math.nan, (1.0, math.nan), {"a": math.nan}], ids=str)
def test_a_number_that_is_nan_comes_back_as_nan(home, tmp_path, value):
    result = home(field=object)(value)
    results.save(result, tmp_path)
    equal_results(result, results.load(tmp_path))


@pytest.mark.parametrize("value", [{"a": (1, 2)}, {"a": {"b": ((1,), "c")}}], ids=str)
def test_tuples_inside_a_mapping_come_back_as_tuples(home, tmp_path, value):
    result = home(field=object)(value)
    results.save(result, tmp_path)
    equal_results(result, results.load(tmp_path))


def test_arrays_come_back_as_arrays(home, tmp_path):
    result = home(field=object)(np.array([[1.0, np.nan], [3.0, 4.0]]))
    results.save(result, tmp_path)
    equal_results(result, results.load(tmp_path))


def test_fields_may_share_memory_and_are_not_changed(home, tmp_path):
    values = torch.arange(6.0).reshape(2, 3)
    result = home(first=object, second=object)(values, values[:, 1])
    results.save(result, tmp_path)
    back = results.load(tmp_path)
    back.first[0, 0] = 99
    assert values[0, 0] == 0
    assert back.second.tolist() == [1, 4]


def test_only_results_are_saved(tmp_path):
    for thing in ({"a": 1}, HeadScores, torch.zeros(2)):
        with pytest.raises(DataError, match="only result dataclasses"):
            results.save(thing, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_second_result_takes_the_place_of_the_first(tmp_path):
    results.save(scores(3), tmp_path)
    results.save(scores(5), tmp_path)
    equal_results(results.load(tmp_path), scores(5))


def test_a_save_cut_short_never_mixes_two_results(home, tmp_path):
    """Killed between tensors and JSON, a folder must not pass for a whole result made of both."""
    kind = home(values=object, label=str)
    results.save(kind(torch.zeros(2), "old"), tmp_path)
    kind.to_frame = lambda self: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        results.save(kind(torch.ones(2), "new"), tmp_path)
    try:
        found = results.load(tmp_path)
    except DataError:
        return
    assert (found.label, found.values.tolist()) in [("old", [0, 0]), ("new", [1, 1])]


def change(**changed):
    def do(folder):
        about = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(about | changed))

    return do


def change_fields(**changed):
    def do(folder):
        about = json.loads((folder / "result.json").read_text())
        change(fields={k: v for k, v in (about["fields"] | changed).items() if v is not None})(folder)

    return do


def cut(name):
    def do(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return do


DAMAGE = {
    "no tensors": lambda folder: (folder / "result.safetensors").unlink(),
    "no json": lambda folder: (folder / "result.json").unlink(),
    "tensors cut": cut("result.safetensors"),
    "json cut": cut("result.json"),
    "tensors empty": lambda folder: (folder / "result.safetensors").write_bytes(b""),
    "json empty": lambda folder: (folder / "result.json").write_bytes(b""),
    "json not text": lambda folder: (folder / "result.json").write_bytes(b"\xff\xfe\x00"),
    "json a list": lambda folder: (folder / "result.json").write_text("[1, 2]"),
    "json a number": lambda folder: (folder / "result.json").write_text("3"),
    "json null": lambda folder: (folder / "result.json").write_text("null"),
    "json a folder": lambda folder: [(folder / "result.json").unlink(), (folder / "result.json").mkdir()],
    "no kind": lambda folder: (folder / "result.json").write_text('{"fields": {}}'),
    "kind a number": change(kind=3),
    "kind empty": change(kind=""),
    "kind a name": change(kind="HeadScores"),
    "kind gone": change(kind="interp.analyses.heads.Vanished"),
    "module gone": change(kind="interp.analyses.vanished.HeadScores"),
    "kind foreign": change(kind="os.system"),
    "kind like ours": change(kind="interpreter.HeadScores"),
    "kind another": change(kind="interp.analyses.patching.Patching"),
    "kind no class": change(kind="interp.analyses.heads.COMMON"),
    "fields a list": change(fields=[1]),
    "fields null": change(fields=None),
    "field lacking": change_fields(scores=None),
    "field too many": change_fields(colour="red"),
    "tensor lacking": lambda folder: save_file({}, folder / "result.safetensors"),
    "tensor too many": lambda folder: save_file(
        {"values": torch.zeros(1, 1, 1, 1), "uniform": torch.zeros(1, 1), "more": torch.zeros(1)},
        folder / "result.safetensors",
    ),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_damaged_and_foreign_folders_are_refused_in_one_line(name, tmp_path):
    results.save(scores(), tmp_path / "run")
    DAMAGE[name](tmp_path / "run")
    with pytest.raises(DataError) as caught:
        results.load(tmp_path / "run")
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "run") in message


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        results.load(tmp_path / "nothing")


class Bomb:
    """Touches a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_is_unpickled(tmp_path):
    trace = tmp_path / "went off"
    for content in (pickle.dumps(Bomb(trace)), None):
        folder = tmp_path / "run"
        results.save(scores(), folder)
        if content is None:
            torch.save({"values": Bomb(trace)}, folder / "result.safetensors")
        else:
            (folder / "result.safetensors").write_bytes(content)
        with pytest.raises(DataError):
            results.load(folder)
        assert not trace.exists()


def test_only_result_classes_are_called(tmp_path):
    """A folder from elsewhere names what is to be made; it must not be able to call functions of the library."""
    folder, target = tmp_path / "run", tmp_path / "overwritten"
    results.save(scores(), folder)
    save_file({}, folder / "result.safetensors")
    about = {"kind": "interp.files.write_text", "fields": {"path": str(target), "text": "not a result"}}
    (folder / "result.json").write_text(json.dumps(about))
    with pytest.raises(DataError):
        results.load(folder)
    assert not target.exists()


def test_a_long_table_has_one_row_a_cell():
    values = torch.arange(12.0).reshape(2, 3, 2)
    frame = results.grid_frame({"layer": (4, 5, 6), "role": ("a", "b")}, value=values, half=values / 2)
    assert list(frame.columns) == ["prompt", "layer", "role", "value", "half"]
    wanted = list(itertools.product(range(2), (4, 5, 6), ("a", "b")))
    assert list(frame[["prompt", "layer", "role"]].itertuples(index=False, name=None)) == wanted
    # Row-major: prompt 1, layer 5, role b is 1 * 6 + 1 * 2 + 1 = 9.
    assert frame.query("prompt == 1 and layer == 5 and role == 'b'")["value"].item() == 9
    assert (frame["half"] * 2 == frame["value"]).all()


def test_provenance_is_plain_and_names_the_versions():
    found = results.provenance()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"] == torch.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert found["machine"]["threads"] == torch.get_num_threads()


def test_fingerprints_tell_work_apart():
    first = results.fingerprint("a", {"x": 1, "y": [2, 3]})
    assert first == results.fingerprint("a", {"y": [2, 3], "x": 1})
    assert len(first) == 16
    others = [("a", {"x": 1, "y": [3, 2]}), ("b", {"x": 1, "y": [2, 3]}), ("a",), ({"x": 1, "y": [2, 3]}, "a")]
    assert len({first, *(results.fingerprint(*parts) for parts in others)}) == 5
