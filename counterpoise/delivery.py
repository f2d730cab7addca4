"""What the user takes home: the chosen classifier as a folder that needs no run, and the balanced data set."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from safetensors.numpy import load_file
from scipy.special import softmax
from torch import nn

from counterpoise import tables
from counterpoise.classifiers.heads import LinearHead
from counterpoise.classifiers.training import features_of
from counterpoise.data.intake import fit, intake
from counterpoise.data.pixels import Rows
from counterpoise.generators.fitted import CONFIG, WEIGHTS
from counterpoise.lots import Lot
from counterpoise.rundir import commit
from counterpoise.spaces.features import Frozen
from counterpoise.spaces.projection import Projection
from counterpoise.study import Study
from counterpoise.trialfiles import network_of
from counterpoise.types import Refusal, load

CARD, ENCODER = "counterpoise.json", "encoder"
#: What a generator does to be taken home, and what is said of one that cannot.
FORMS = {
    "diffusers": ("export", "that diffusers knows"),
    "lora": ("export_lora", "with adapters or words of its own"),
}


@dataclass(frozen=True)
class Predictor:
    """The chosen classifier. Call it with image files; it answers label, confidence and what was done to each."""

    card: dict[str, Any]
    network: Any
    net: nn.Module | None
    head: LinearHead
    projection: Projection | None = None
    encode: Callable[[np.ndarray], np.ndarray] | None = None  # of a generator with a space of its own

    @classmethod
    def open(cls, path: str | Path) -> Predictor:
        """From a run directory or its `classifier` folder, wherever that was copied to."""
        folder = Path(path)
        folder = folder if (folder / CARD).exists() else folder / "classifier"
        if not (folder / CARD).exists():
            raise Refusal(
                f"{path} holds no classifier: it has no {CARD}. Finish the run first (run its command again)"
            )
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        arrays = load_file(folder / "model.safetensors")

        def below(name: str) -> dict[str, np.ndarray]:
            return {k.removeprefix(f"{name}/"): v for k, v in arrays.items() if k.startswith(f"{name}/")}

        network, encode, kind = load(card["network"]), None, card.get("encoder")
        if kind is not None:
            encode = load(kind).encoder(folder / ENCODER)
        if card.get("transformers"):  # the backbone came along
            network = Frozen(backbone=str((folder / "transformers").resolve()))
        elif getattr(network, "frozen", False) and network.digest() != card["digest"]:
            raise Refusal(
                f"the weights of {network.backbone} are not those this classifier was fitted on: put them back"
            )
        net = None
        if not getattr(network, "frozen", False) and encode is None:
            net = network_of(network, card, card.get("called", card["labels"]), 0, card["cosine"])
            net.load_state_dict({k: torch.from_numpy(v) for k, v in below("net").items()})
            net.eval()
        found = below("projection")
        project = Projection.from_arrays(found) if found else None
        return cls(card, network, net, LinearHead.load(below("head")), project, encode)

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (n, h, w, c) at the working size => calibrated probabilities (n, classes)."""
        features = pixels
        if self.net is not None:
            features = features_of(self.net, Rows.of(pixels)).numpy()
        elif getattr(self.network, "frozen", False):
            features = self.network.encode(pixels)
        if self.projection is not None:
            features = self.projection(features)
        if self.encode is not None:
            features = self.encode(features)
        return softmax(self.head.logits(features) / self.card["temperature"], 1)

    def __call__(self, images: Sequence[str | Path], batch: int = 64) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for start in range(0, len(images), batch):
            found += self._batch(images[start : start + batch])
        return found

    def _batch(self, images: Sequence[str | Path]) -> list[dict[str, Any]]:
        seen = [self._read(Path(path)) for path in images]
        good = [pixels for pixels, _, _ in seen if pixels is not None]
        said = iter(self.probabilities(np.stack(good)) if good else ())
        rows = []
        for path, (pixels, reason, actions) in zip(images, seen, strict=True):
            row: dict[str, Any] = {"image": str(path), "label": None, "confidence": None, "reason": reason}
            if pixels is not None:
                p = next(said)
                row |= {"label": self.card["labels"][int(p.argmax())], "confidence": float(p.max())}
            rows.append(row | {"actions": list(actions)})
        return rows

    def _read(self, path: Path) -> tuple[np.ndarray | None, str | None, tuple[str, ...]]:
        try:
            data = path.read_bytes()
        except OSError as error:
            return None, f"cannot be opened: {error.strerror}", ()
        one = intake(data, path.name)
        if one.pixels is None:
            return None, one.reason, one.actions
        return fit(one.pixels, self.card["size"], self.card["channels"]), None, one.actions


# --- the balanced data set -------------------------------------------------------------------------------------------


def export_data(path: str | Path, to: str, out: str | Path, arm: str = "", draw: int = 0) -> int:
    """Real training images and the kept samples of an arm, as an image folder or as Parquet. Returns how many."""
    study, out = Study.open(path), Path(out)
    writers: dict[str, Callable[[Study, Iterator[dict[str, Any]], Path], int]] = {
        "imagefolder": _image_folder,
        "parquet": _parquet,
    }
    if to not in writers:
        raise Refusal(
            f"--to {to}: data sets are exported to {' or '.join(writers)}, generators to {' or '.join(FORMS)}"
        )
    synthesis = arm_synthesis(study, arm)
    if synthesis is not None and not study.pictures(synthesis):
        raise Refusal(
            "this run's samples are feature vectors, not images: only pixels can be exported as a data set"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refusal(f"{out} is not an empty directory: nothing is written over, name another with --out")
    out.mkdir(parents=True, exist_ok=True)
    return writers[to](study, _examples(study, synthesis, draw), out)


def export_generator(
    path: str | Path, out: str | Path, arm: str = "", draw: int = 0, to: str = "diffusers"
) -> str:
    """A fitted generator for use without this package. Returns its name.

    "diffusers" is a whole pipeline, "lora" what was learnt beside a model of others.
    """
    study, out = Study.open(path), Path(out)
    method, known = FORMS[to]
    name = arm_synthesis(study, arm)
    if name is None or not hasattr(study.synthesis(name).generator, method):
        able = [s.name for s in study.recipe.synthesis if hasattr(s.generator, method)]
        raise Refusal(
            f"{arm or 'the recommended arm'} has no generator {known}; "
            f"name one with --arm ({', '.join(able) or 'this run has none'})"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refusal(f"{out} is not an empty directory: nothing is written over, name another with --out")
    if out.exists():
        out.rmdir()  # it appears whole
    fitted = study.run / study.generator_of(Lot(name, draw))
    if not (fitted / "config.json").exists():
        raise Refusal(f"{name} is not fitted yet: run its command again to go on")
    getattr(study.synthesis(name).generator, method)(fitted, out)
    return name


def arm_synthesis(study: Study, arm: str = "") -> str | None:
    """Which synthesis an arm trains on. Unnamed: the recommended arm, or the candidate where that one has none."""
    arms = {a.name: a for a in study.recipe.arms}
    if arm and arm not in arms:
        raise Refusal(f"there is no arm {arm!r}; arms are {', '.join(arms)}")
    if not arm:
        candidates = [a.name for a in study.recipe.arms if a.role == "candidate"]
        recommended = (
            study.run.json("verdict.json")["recommendation"]["arm"] if study.run.has("verdict.json") else None
        )
        best = [
            name for name in (recommended, *candidates) if name and study.recipe.fit(arms[name].fit).synthesis
        ]
        if not best:
            return None
        arm = best[0]
    return study.recipe.fit(arms[arm].fit).synthesis


def _examples(study: Study, synthesis: str | None, draw: int) -> Iterator[dict[str, Any]]:
    manifest, pixels = study.manifest("train"), study.pixels("train")
    for row in study.draw_rows(draw).tolist():
        real = {name: manifest[name][row].as_py() for name in ("id", "uri", "label", "group")}
        yield real | {"is_synthetic": False, "pixels": pixels[row]}
    if synthesis is None:
        return
    first = Lot(synthesis, draw)
    samples, selection = study.kept_of(first)
    plans = [study.run.table(lot.plan).to_pylist() for lot in study.rounds(first)]
    plan = {row["request_id"]: row for rows in plans for row in rows}
    for x, request in zip(samples, selection["request_id"].to_pylist(), strict=True):
        wanted = plan[request]
        yield {
            "id": request,
            "uri": None,
            "label": wanted["label"],
            "group": wanted["group"],
            "is_synthetic": True,
            "request_id": request,
            "source_id": wanted["source_id"],
            "seed": wanted["seed"],
            "pixels": x,
        }


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _image_folder(study: Study, examples: Iterator[dict[str, Any]], out: Path) -> int:
    """class/ID.png, and provenance.csv with what each file is. Class names become folder names that any system takes."""
    import csv

    folders = [_safe(name, i) for i, name in enumerate(study.classes)]
    with open(out / "provenance.csv", "x", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "label", "is_synthetic", "source_id", "seed"])
        written = 0
        for row in examples:
            folder = out / folders[row["label"]]
            folder.mkdir(exist_ok=True)
            kind = "synthetic" if row["is_synthetic"] else "real"
            name = f"{kind}-{row['id']}.png"
            _picture(row["pixels"]).save(folder / name)
            cells = [study.classes[row["label"]], row["is_synthetic"], row.get("source_id"), row.get("seed")]
            table.writerow([f"{folder.name}/{name}", *cells])
            written += 1
    return written


def _safe(name: str, index: int) -> str:
    plain = "".join(c if c.isalnum() or c in "-_ " else "_" for c in name).strip()[:60].encode("utf-8")[:120]
    text = plain.decode("utf-8", "ignore")
    return text if text == name and name.lower() not in _RESERVED else f"{index:04d}-{text}".rstrip("- ")


_RESERVED = {"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(10))}


def _parquet(study: Study, examples: Iterator[dict[str, Any]], out: Path) -> int:
    """One Parquet file in the Hugging Face layout (image = struct(bytes, path)), every synthetic row marked."""
    import io

    import pyarrow.parquet as pq

    names = ("id", "label", "group", "is_synthetic", "request_id", "source_id", "seed")
    kinds = {name: tables.MANIFEST.field(name).type for name in names}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"image": {"_type": "Image"}, "label": {"names": study.classes, "_type": "ClassLabel"}}
    features |= {
        name: {"dtype": str(kind), "_type": "Value"} for name, kind in kinds.items() if name != "label"
    }
    schema = pa.schema(
        [("image", image), *kinds.items()],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    written = 0
    with pq.ParquetWriter(out / "train.parquet", schema) as writer:
        block: list[dict[str, Any]] = []
        for row in examples:
            sink = io.BytesIO()
            _picture(row["pixels"]).save(sink, "PNG")
            block.append({"image": {"bytes": sink.getvalue(), "path": None}} | {n: row.get(n) for n in names})
            written += 1
            if len(block) == 1000:
                writer.write_table(pa.Table.from_pylist(block, schema))
                block = []
        if block:
            writer.write_table(pa.Table.from_pylist(block, schema))
    return written


def copy_files(source: Path, to: Path) -> None:
    """What a fitted generator needs to be opened again."""
    for name in (WEIGHTS, CONFIG):
        shutil.copyfile(source / name, to / name)


def write_folder(
    folder: Path, card: dict[str, Any], arrays: dict[str, np.ndarray], preprocessing: dict
) -> None:
    """The classifier's folder; its card comes last, so that a folder with a card is whole."""
    from safetensors.numpy import save

    def as_json(value: Any) -> bytes:
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()

    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    commit(folder / "model.safetensors", lambda file: file.write(save(contiguous)))
    commit(folder / "preprocessor_config.json", lambda file: file.write(as_json(preprocessing)))
    commit(folder / CARD, lambda file: file.write(as_json(card)))
