"""All figures of this folder, one after the other."""

import importlib
import sys

from benchmarks.figures import paper

if __name__ == "__main__":
    names = [path.stem for path in paper.scripts()]
    sys.exit(paper.command({name: importlib.import_module(f"benchmarks.figures.{name}").figure for name in names}))
