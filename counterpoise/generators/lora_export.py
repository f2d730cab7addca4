"""What a text-to-image model has learnt as files that other programs put beside the model: adapters, and words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

from counterpoise.generators.diffusing import SPACE
from counterpoise.generators.fitted import WEIGHTS, read_config
from counterpoise.nets.diffusers_folder import Folder
from counterpoise.nets.export import put_folder
from counterpoise.nets.lora import by_layer
from counterpoise.nets.lora_files import Adapters, write_diffusers, write_kohya, write_words
from counterpoise.nets.prompted import Inverted, Read, TextToImage
from counterpoise.nets.words import prompts
from counterpoise.types import Refusal

if TYPE_CHECKING:
    from counterpoise.generators.stable_diffusion import StableDiffusion

DIFFUSERS, WORDS = "pytorch_lora_weights.safetensors", "learned_embeds{}.safetensors"
OLD_END = 2  # in configs of CLIPs for which transformers takes the token of the largest number for the end of a text


def export_lora(model: StableDiffusion, fitted: Path, out: Path) -> None:
    """A folder with the adapters in both layouts, the words of each text tower, and how to use them; whole or not at all."""
    adapt = model.adapt
    if adapt is None:
        raise Refusal(
            f"nothing of {model.base} is learnt by this generator: name an arm whose generator learns with --arm, or fit "
            "one with --adapt lora"
        )
    if adapt.kind == "full":
        raise Refusal(
            f"this generator has changed all weights of {model.base} (--adapt full), which adapters cannot say: they are in "
            f"{fitted / WEIGHTS}, under the names of diffusers with / for their dots; --adapt lora learns adapters"
        )
    config = read_config(fitted)
    net, classes = _learnt(model, fitted, config), config["classes"]
    own = adapt.own_words(len(classes))
    asked = prompts(model.prompt, [" ".join(words) for words in own] if adapt.words else classes)
    base, sees = model._base, model.images.adapter if model.images is not None else None
    told = {
        "version": version("counterpoise"),
        "base": model.base,
        "revision": model.revision,
        "content": config["content"],
        "adapters": [f"{one.file}:{one.scale:g}" for one in model.adapters],
        "image_adapter": None if sees is None else f"{sees.file}:{sees.scale:g}",
        "steps": model.schooling.steps,
        "prompt": model.prompt,
        "classes": dict(zip(classes, asked, strict=True)),
        "tokens": dict(zip(classes, own, strict=True)),
    }

    def write(folder: Path) -> None:
        if lows := _adapters(net):
            told_all = told | {"rank": adapt.rank, "alpha": adapt.rank}
            write_diffusers(folder / DIFFUSERS, lows, told_all)
            write_kohya(folder / f"{out.resolve().name}_kohya.safetensors", lows, told_all)
        ends: list[int] = []
        if isinstance(net.prompts, Inverted):
            tokens = [token for words in own for token in words]
            for tower, words in enumerate(net.prompts.words.split(net.prompts.widths, 1), 1):
                write_words(folder / _words(tower), dict(zip(tokens, words, strict=True)), told)
            ends = [tower.config.eos_token_id for tower in net.prompts.frozen.net.towers]  # type: ignore[union-attr]
        (folder / "README.md").write_text(_readme(told, base, bool(lows), ends), encoding="utf-8")

    put_folder(out, write)


def _learnt(model: StableDiffusion, fitted: Path, config: Mapping[str, Any]) -> TextToImage:
    net = model.network_for(dict(config), seed=0)
    weights = load_file(fitted / WEIGHTS)
    net.load_state_dict({name: value for name, value in weights.items() if not name.startswith(SPACE)})
    return net


def _adapters(net: TextToImage) -> Adapters:
    place = "unet" if hasattr(net.frozen.net, "down_blocks") else "transformer"
    found = {place: lows} if (lows := by_layer(net.weights)) else {}
    if isinstance(net.prompts, Read):
        for name, low in by_layer(net.prompts.weights).items():
            _, tower, layer = name.split(".", 2)
            part = "text_encoder" if tower == "0" else f"text_encoder_{int(tower) + 1}"
            found.setdefault(part, {})[layer] = low
    return found


def _words(tower: int) -> str:
    return WORDS.format("" if tower == 1 else f"_{tower}")


def _readme(told: Mapping[str, Any], base: Folder, adapters: bool, ends: Sequence[int]) -> str:
    """`ends` are of the towers that have words of their own: the token that ends a text, by their configs."""
    first = next(iter(told["classes"].values()))
    revision = f", revision={told['revision']!r}" if told["revision"] else ""
    pipeline, opens = "DiffusionPipeline", "from_pretrained"
    if base.file is not None:  # only pipelines of one family open such a file
        pipeline, opens = base.family.pipeline, "from_single_file"
    lines = [f"pipe = {pipeline}.{opens}({told['base']!r}{revision})"]
    if adapters:
        lines.append(f'pipe.load_lora_weights("THIS_FOLDER", weight_name="{DIFFUSERS}")')
    for tower, end in enumerate(ends, 1):
        more = (
            ""
            if tower == 1
            else f", tokenizer=pipe.tokenizer_{tower}, text_encoder=pipe.text_encoder_{tower}"
        )
        lines.append(f'words = load_file("THIS_FOLDER/{_words(tower)}")')
        lines.append(f"pipe.load_textual_inversion(list(words.values()), token=list(words){more})")
        if tower == 2 and end == OLD_END:
            lines.append(
                "pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id  # for words this new"
            )
    beside = "image=REAL_PICTURE, prompt=" if base.family.seen(base.settings) else ""
    lines.append(f"picture = pipe({beside}{first!r}).images[0]")
    code = "\n".join(lines)
    return f"""# What {told["base"]} has learnt of {len(told["classes"])} classes

Made with Counterpoise {told["version"]} in {told["steps"]} steps. It needs diffusers{" and peft" if adapters else ""}:

```python
from diffusers import {pipeline}
from safetensors.torch import load_file

{code}
```
{_before(told["adapters"])}{_seen(told["image_adapter"])}{_elsewhere(adapters)}
The header of each file says the same as this one, as JSON under `counterpoise`; `content` there is the digest of the model
that these files belong to, {told["content"]}.

## Classes

{_table(told["classes"])}
"""


def _before(adapters: Sequence[str]) -> str:
    if not adapters:
        return ""
    return f"\nBefore anything was learnt, these were merged into the model (file:scale); load them as well: {', '.join(adapters)}\n"


def _seen(image_adapter: str | None) -> str:
    if image_adapter is None:
        return ""
    return f"\nIt learnt with a picture beside each text, seen through an IP-Adapter; load that as well: {image_adapter} (file:scale)\n"


def _elsewhere(adapters: bool) -> str:
    return (
        "\nFor programs that read kohya's layout there is a file that ends in `_kohya`.\n" if adapters else ""
    )


def _table(classes: Mapping[str, str]) -> str:
    return "\n".join(
        f"- {name}: `{json.dumps(prompt, ensure_ascii=False)}`" for name, prompt in classes.items()
    )
