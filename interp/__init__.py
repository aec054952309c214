"""Mechanistic interpretability on TransformerLens: where a behaviour lives, in what form, how it reaches the output.

The public names stand in `__init__.pyi` and load when they are first used, so `import interp` costs nothing.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
