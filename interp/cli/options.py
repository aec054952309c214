"""What options of several commands mean."""

from __future__ import annotations

from collections.abc import Sequence

from interp.errors import ConfigError


def named(only: str, known: Sequence[str]) -> dict[str, bool]:
    """The analyses named in --only."""
    chosen = [name.strip() for name in only.split(",") if name.strip()]
    if not chosen:
        raise ConfigError(f"--only names no analysis; choose from {', '.join(known)}")
    for name in chosen:
        if name not in known:
            raise ConfigError(f"there is no analysis {name!r}; choose from {', '.join(known)}")
    return {name: name in chosen for name in known}
