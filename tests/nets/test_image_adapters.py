"""IP-Adapters: where their weights go, and which are refused."""

from __future__ import annotations

import pytest
import text_to_image
import torch
from safetensors.torch import load_file, save_file

from counterpoise.nets.backbones import CLIP_MEAN
from counterpoise.nets.image_adapters import ImageAdapter
from counterpoise.nets.stable_diffusion import open_base
from counterpoise.types import Refusal


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapter")
    folder = text_to_image.save(root / "base")
    return folder, *text_to_image.image_adapter(root / "adapter", folder)


def test_a_picture_is_heard_beside_the_words_as_loud_as_asked_for(made):
    folder, file, encoder = made
    rng = torch.Generator().manual_seed(0)
    x, words, image = (torch.randn(shape, generator=rng) for shape in [(2, 4, 8, 8), (2, 40, 24), (2, 20)])

    def heard(scale, image):
        net = open_base(str(folder), image_adapter=ImageAdapter(str(file), str(encoder), scale)).frozen_unet
        return net(x, torch.tensor([10.0, 500.0]), words, added_cond_kwargs={"image_embeds": image}).sample

    plain = open_base(str(folder)).frozen_unet(x, torch.tensor([10.0, 500.0]), words).sample
    torch.testing.assert_close(heard(1e-9, image), plain)
    assert (heard(1.0, image) - plain).std() > 0.01
    assert (heard(1.0, image) - heard(1.0, -image)).std() > 0.01


def test_its_content_is_part_of_the_base_s(made, tmp_path):
    folder, file, encoder = made
    other = {name: 2 * value for name, value in load_file(file).items()}
    save_file(other, tmp_path / "other.safetensors")
    louder = ImageAdapter(str(file), str(encoder), 0.5)
    another = ImageAdapter(str(tmp_path / "other.safetensors"), str(encoder))
    found = [None, ImageAdapter(str(file), str(encoder)), louder, another]
    assert len({open_base(str(folder), image_adapter=one).content for one in found}) == 4


def test_the_encoder_sees_as_clip_does_where_nothing_else_is_said(made):
    folder, file, encoder = made
    eye = open_base(str(folder), image_adapter=ImageAdapter(str(file), str(encoder))).eye
    assert (eye.size, eye.mean, eye.dim) == ((32, 32), CLIP_MEAN, 20)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w: w | {"ip_adapter.2.to_k_ip.weight": torch.zeros(2)}, r"1 of its .*ip_adapter\.2\.to_k_ip"),
        (lambda w: w | {"image_proj.latents": torch.zeros(1, 16, 4)}, r"image_proj\.latents \(1, 16, 4\)"),
        (
            lambda w: {n: v for n, v in w.items() if ".3.to_v" not in n},
            r"ip_adapter\.3\.to_v_ip\.weight \(none\)",
        ),
        (
            lambda w: w | {"image_proj.proj.weight": torch.zeros(96, 21)},
            r"image_proj\.proj\.weight \(96, 21\)",
        ),
        (lambda w: {"lora": torch.zeros(2)}, "and more: a plain IP-Adapter"),
    ],
)
def test_weights_without_a_place_and_places_without_weights_are_refused(change, why, made, tmp_path):
    folder, file, encoder = made
    save_file(change(load_file(file)), tmp_path / "changed.safetensors")
    base = open_base(
        str(folder), image_adapter=ImageAdapter(str(tmp_path / "changed.safetensors"), str(encoder))
    )
    with pytest.raises(Refusal, match=why):
        base.unet()


def test_what_is_no_safetensors_is_refused(made, tmp_path):
    folder, _, encoder = made
    (tmp_path / "pickled.safetensors").write_bytes(b"\x80\x04nothing")
    base = open_base(
        str(folder), image_adapter=ImageAdapter(str(tmp_path / "pickled.safetensors"), str(encoder))
    )
    with pytest.raises(Refusal, match="whatever its name"):
        base.unet()


def test_the_parts_of_unclip_have_to_fit(tmp_path):
    import json

    folder = text_to_image.save(tmp_path / "base", kind="unclip")
    assert open_base(str(folder)).seen == 40
    config = folder / "image_normalizer" / "config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps(told | {"embedding_dim": 19}))
    with pytest.raises(Refusal, match="its image_normalizer knows 19"):
        open_base(str(folder))
    config.write_text(json.dumps(told))
    (folder / "image_noising_scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(Refusal, match="has no image_noising_scheduler"):
        open_base(str(folder))
