"""Files of repositories on the Hugging Face hub: fetched once, and read from its cache where there is no network."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from interp.errors import DataError
from interp.models.load import quiet_transformers

_NAME = re.compile(r"([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)(?:@([\w./-]+))?")
SCHEME = "hf://"


@dataclass(frozen=True)
class Place:
    """A file or folder of a repository; `inside` is empty for the whole, `revision` None for its main branch."""

    repository: str
    inside: str = ""
    revision: str | None = None

    @classmethod
    def of(cls, name: str) -> Place | None:
        """From `owner/name`, `owner/name/folder`, `owner/name@revision` or `hf://owner/name/file?revision=...`."""
        text, revision = name, None
        if name.startswith(SCHEME):
            parts = urlsplit(name)
            text, revision = parts.netloc + parts.path, parse_qs(parts.query).get("revision", [None])[0]
        found = _NAME.fullmatch(text)
        if found is None or any(set(part) == {"."} for part in text.split("/")):
            return None
        return cls(found[1], found[2].strip("/"), revision or found[3])

    def __str__(self) -> str:
        return "/".join(filter(None, (self.repository, self.inside)))


def fetch_file(place: Place) -> Path:
    """A file here. Raises DataError where neither the hub nor its cache gives it."""
    from huggingface_hub import hf_hub_download

    return _fetched(place, lambda: hf_hub_download(place.repository, place.inside, revision=place.revision))


def fetch_folder(place: Place, patterns: Sequence[str]) -> Path:
    """A folder here with those of its files whose names fit. Raises DataError where it cannot be had."""
    from huggingface_hub import snapshot_download

    wanted = [f"{place.inside}/{pattern}" if place.inside else pattern for pattern in patterns]
    whole = _fetched(place, lambda: snapshot_download(place.repository, revision=place.revision, allow_patterns=wanted))
    return whole / place.inside


def _fetched(place: Place, ask: Callable[[], str]) -> Path:
    from huggingface_hub import constants

    try:
        with quiet_transformers():
            return Path(ask())
    except Exception as error:  # the client raises OSError, ValueError and errors of its own and of its HTTP library
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        why = "the hub is switched off (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else said
        raise DataError(
            f"cannot fetch {place}: {why}, and its cache {constants.HF_HUB_CACHE} has no copy; check the name, fetch "
            "it where there is a network, or give a local folder"
        ) from error
