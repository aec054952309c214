import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import interp

HEAVY = ("torch", "transformer_lens", "transformers", "pandas", "plotly", "sklearn", "scipy", "numpy")
PROGRAMS = {
    "import interp": "import interp",
    "interp --help": """
import sys
sys.argv = ["interp", "--help"]
from interp.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
""",
    "dir(interp)": "import interp; dir(interp); hasattr(interp, '__version__'); hasattr(interp, 'nothing')",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_heavy_is_loaded(program):
    """In a process of its own, since this one has everything loaded."""
    code = f"{PROGRAMS[program]}\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    loaded = json.loads(found.stdout.splitlines()[-1])
    assert "interp" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def stub_names():
    stub = Path(interp.__file__).with_suffix(".pyi")
    tree = ast.parse(stub.read_text(encoding="utf-8"))
    assert all(isinstance(node, ast.ImportFrom) for node in tree.body)
    return [alias.asname or alias.name for node in tree.body for alias in node.names]


def test_the_public_names_are_those_of_the_stub():
    names = stub_names()
    assert len(names) == len(set(names))
    assert sorted(interp.__all__) == sorted(names)
    assert set(interp.__all__) <= set(dir(interp))


@pytest.mark.parametrize("name", interp.__all__)
def test_every_public_name_is_there(name):
    found = getattr(interp, name)
    assert found is not None
    assert getattr(found, "__doc__", None) or isinstance(found, dict)


def test_each_name_comes_from_where_the_stub_says():
    tree = ast.parse(Path(interp.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    for node in tree.body:
        assert isinstance(node, ast.ImportFrom)
        module = __import__(f"interp.{node.module}" if node.module else "interp", fromlist=["*"])
        for alias in node.names:
            assert getattr(interp, alias.name) is getattr(module, alias.name)


@pytest.mark.parametrize("name", ["nothing", "Prompt", "torch", "_secret"])
def test_a_name_that_is_not_there_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=name):
        getattr(interp, name)
    assert name not in interp.__all__


def test_all_of_it_can_be_imported_at_once():
    space = {}
    exec("from interp import *", space)
    assert set(interp.__all__) <= set(space)
