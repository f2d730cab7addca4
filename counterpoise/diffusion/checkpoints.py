"""The state of a training on disk: written aside and put in place whole, the last two kept, gone when it is finished."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from counterpoise.rundir import commit
from counterpoise.types import Refusal

SAVE_EVERY_S = 120.0
KEPT = 2


@contextmanager
def refusing_full_disk(folder: Path) -> Iterator[None]:
    """A full disk is nobody's bug: what could not be written, what is kept, what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        last = next(iter(sorted(folder.glob("state-*.safetensors"), reverse=True)), None)
        kept = "no earlier state is there" if last is None else f"{last.name} is whole and kept"
        raise Refusal(
            f"{folder}: the disk is full; {kept}. Make room and run the same command again"
        ) from None


@dataclass
class Folder:
    """A training's own folder. `identity` says what is being trained: the state of something else is refused."""

    path: Path
    identity: str
    draw: Callable[[int, nn.Module], bytes] | None = None  # (step, network) => a PNG of samples
    hear: Callable[[float], None] | None = None  # is told the share that is done
    every_s: float = SAVE_EVERY_S
    saved_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def resume(self) -> tuple[int, dict[str, Tensor]] | None:
        """The newest whole state."""
        for path in sorted(self.path.glob("state-*.safetensors"), reverse=True):
            try:
                with safe_open(path, "pt") as file:
                    identity = (file.metadata() or {}).get("identity")
                    if identity != self.identity:
                        raise Refusal(
                            f"{path} is the state of another training ({identity}, this one is {self.identity}): "
                            "use another directory, or --redo fit"
                        )
                    state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a handle
            except SafetensorError:
                with suppress(
                    FileNotFoundError
                ):  # not whole, so out of the way of a new one; the one before it is
                    path.rename(path.with_suffix(".broken"))
                continue
            return int(path.stem.removeprefix("state-")), state
        return None

    @property
    def begun(self) -> bool:
        return any(self.path.glob("state-*.safetensors"))

    def due(self) -> bool:
        return time.monotonic() - self.saved_at >= self.every_s

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        with refusing_full_disk(self.path):
            commit(
                self.path / f"state-{step:08d}.safetensors",
                lambda file: file.write(save(state, {"identity": self.identity})),
            )
        for old in sorted(self.path.glob("state-*.safetensors"))[:-KEPT]:
            old.unlink()
        self.saved_at = time.monotonic()

    def preview(self, step: int, net: nn.Module) -> None:
        """A picture decides nothing: if there is no room for it, there is none."""
        if self.draw is not None:
            picture = self.draw(step, net)
            with suppress(OSError):
                commit(self.path / f"grid-{step:08d}.png", lambda file: file.write(picture))
        self.saved_at = time.monotonic()  # drawing may take longer than a save is due

    def log(self, row: dict[str, Any]) -> None:
        with suppress(OSError), open(self.path / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.hear is not None:
            self.hear(row["step"] / row["of"])

    def finish(self) -> None:
        """The result is there: its states have served."""
        for old in self.path.glob("state-*.safetensors"):
            old.unlink()
