"""The folder of a model that is named: ``miniature``, a folder, or a name on the hub; the only file that imports huggingface_hub.

What lies in such a folder, and whether it is sound, is known by those who open it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from counterpoise.nets import miniatures
from counterpoise.types import Refusal

Kind = Literal["clip", "text_to_image"]


def local_folder(name: str, kind: Kind) -> Path:
    """Where it lies, if it is no name on the hub."""
    plain = name.removeprefix("hf:")
    return miniatures.folder(kind) if plain == "miniature" else Path(plain).expanduser()


def folder_of(
    name: str,
    kind: Kind,
    what: str,
    revision: str | None,
    files: tuple[Sequence[str], Sequence[str]],
    whole: Callable[[Path], object],
    allow_pickle: bool,
    more: str = "",
) -> Path:
    """The folder of this name. From the hub come only files like the first of `files`; if pickle is allowed and those make
    no `whole` model, only files like the second. `what` is asked for, and may be named in `more` ways.
    """
    plain, folder = name.removeprefix("hf:"), local_folder(name, kind)
    if folder.is_dir():
        return folder
    if plain.startswith((".", "/", "~")) or plain.count("/") > 1 or ":" in plain:
        raise Refusal(
            f"there is no {what} {name!r}: name a folder that exists, hf:OWNER/NAME{more} or miniature"
        )
    safe, pickled = map(tuple, files)
    return _fetched(plain, revision, safe, pickled if allow_pickle else (), whole)


@lru_cache  # the hub is asked once
def _fetched(
    name: str,
    revision: str | None,
    safe: tuple[str, ...],
    pickled: tuple[str, ...],
    whole: Callable[[Path], object],
) -> Path:
    found = download(name, revision, safe)
    return download(name, revision, pickled) if pickled and not whole(found) else found


def download(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    hub = need("huggingface_hub", "hf")
    offline = hub.is_offline_mode()  # then only what was fetched before is looked at
    where = f"{name} cannot be had from the hub"
    # ValueErrors are malformed names.
    with refusing(f"{where} (check the name, or give a local folder)", (OSError, ValueError)):
        try:
            return Path(
                hub.snapshot_download(
                    name, revision=revision, allow_patterns=list(patterns), local_files_only=offline
                )
            )
        except hub.errors.LocalEntryNotFoundError:
            if not offline:
                raise
    raise Refusal(
        f"{where}: HF_HUB_OFFLINE is set, and it was never fetched on this machine; unset that, or name a local folder"
    )


def hash_of(paths: Iterable[Path]) -> bytes:
    digest = hashlib.blake2b()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.digest()


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@contextmanager
def refusing(what: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise Refusal(f"{what}: {line}") from None


def need(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Refusal(
            f"this backbone needs {error.name or module}: pip install 'counterpoise[{extra}]'"
        ) from None
