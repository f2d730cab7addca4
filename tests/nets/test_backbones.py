"""Frozen backbones on tiny networks built from their configurations, and on a real one where it is there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from counterpoise.nets.backbones import open_backbone
from counterpoise.nets.export import replace_classifier
from counterpoise.types import Refusal

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
REAL = Path(__file__).parents[3] / "shared" / "models" / "mobilenet_v2_imagenet"
SIZE = 32


def tiny(kind: str):
    """A small random network with a classifier for 5 classes."""
    torch.manual_seed(0)
    common = {"num_labels": 5}
    if kind == "mobilenet":
        config = transformers.MobileNetV2Config(image_size=SIZE, depth_multiplier=0.35, **common)
        return transformers.MobileNetV2ForImageClassification(config)
    if kind == "vit":
        config = transformers.ViTConfig(
            image_size=SIZE, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, **common,
        )  # fmt: skip
        return transformers.ViTForImageClassification(config)
    if kind == "resnet":
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **common
        )
        return transformers.ResNetForImageClassification(config)
    if kind == "swin":
        config = transformers.SwinConfig(
            image_size=SIZE,
            patch_size=4,
            embed_dim=8,
            depths=[1, 1],
            num_heads=[2, 2],
            window_size=2,
            **common,
        )
        return transformers.SwinForImageClassification(config)
    if kind == "convnext":
        config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, **common)
        return transformers.ConvNextForImageClassification(config)
    if kind == "dinov2":
        config = transformers.Dinov2Config(
            image_size=SIZE,
            patch_size=8,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            **common,
        )
        return transformers.Dinov2ForImageClassification(config)
    vision = {
        "image_size": SIZE, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 32, "projection_dim": 12,
    }  # fmt: skip
    if kind == "clip-vision":
        return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**vision))
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.CLIPConfig(
        text_config=text | {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config=vision, projection_dim=12,
    )  # fmt: skip
    return transformers.CLIPModel(config)


def saved(kind: str, folder: Path, **settings) -> Path:
    net = tiny(kind).eval()
    for module in net.modules():  # batch norms with something to say
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
    net.save_pretrained(folder)
    settings = {
        "size": {"height": SIZE, "width": SIZE},
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
    } | settings
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def pictures(count=4, size=SIZE, channels=3):
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)
    )


CLASSIFIERS = {"mobilenet": 1280, "vit": 24, "resnet": 16, "convnext": 16, "dinov2": 48}


@pytest.mark.parametrize(("kind", "dim"), CLASSIFIERS.items())
def test_features_are_what_the_classifier_sees(tmp_path, kind, dim):
    backbone = open_backbone(str(saved(kind, tmp_path)))
    features = backbone(pictures())
    assert (features.shape, features.dtype, backbone.dim) == ((4, dim), torch.float32, dim)
    net = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    head = next(m for m in reversed(list(net.modules())) if isinstance(m, torch.nn.Linear))
    x = (pictures().permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        np.testing.assert_allclose(head(features), net(pixel_values=x).logits, atol=1e-5)
        assert features.std() > 0
        backbone.train()
        assert (backbone(pictures()) == features).all(), "frozen, whatever mode it is put into"
        np.testing.assert_allclose(backbone(pictures()[:1]), features[:1], atol=1e-5)


@pytest.mark.parametrize(("kind", "name"), [("clip", "pooler_output"), ("clip-vision", "image_embeds")])
def test_clip_gives_image_embeddings(tmp_path, kind, name):
    backbone = open_backbone(f"hf:{saved(kind, tmp_path)}")
    x = (pictures().permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    net = tiny(kind).eval()
    with torch.no_grad():
        found = net.get_image_features(x) if kind == "clip" else net(pixel_values=x)
    np.testing.assert_allclose(backbone(pictures()), getattr(found, name), atol=1e-5)
    assert backbone.dim == 12
    assert not replace_classifier(
        str(tmp_path), np.zeros((3, 12), np.float32), np.zeros(3, np.float32), list("abc"), tmp_path / "no"
    )
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("kind", "dim"), CLASSIFIERS.items())
def test_a_replaced_classifier_opens_in_transformers(tmp_path, kind, dim):
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(3, dim)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    folder = saved(kind, tmp_path / "in")
    labels = ["cat", "<img src=x>", "cat"]
    size = SIZE if kind == "vit" else 48  # its positions are fixed
    assert replace_classifier(str(folder), weight, bias, labels, tmp_path / "out", size=size)
    net = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    backbone = open_backbone(str(folder), size=size)
    again = open_backbone(str(tmp_path / "out"))
    assert again.size == backbone.size == (size, size), (
        "the new folder asks for the resolution it was fitted at"
    )
    features = backbone(pictures(size=size))
    x = (pictures(size=size).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        np.testing.assert_allclose(net(pixel_values=x).logits, features.numpy() @ weight.T + bias, atol=1e-4)
    np.testing.assert_allclose(again(pictures(size=size)), features, atol=1e-5)
    assert net.config.id2label == dict(enumerate(labels))
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".safetensors"}
    assert not replace_classifier(str(folder), weight[:, 1:], bias, labels, tmp_path / "no"), "another width"


#: What the features of a network are when its last map is pooled: maps (b, positions, d) => (b, d).
POOLED = {
    "mobilenet": ((1280, 1), lambda maps: maps.mean(2)),
    "resnet": ((16, 16), lambda maps: maps.mean(2)),
    "swin": ((16, 16), lambda maps: maps.mean(1)),
    "dinov2": ((16, 24), lambda maps: maps.mean(1)),
}


@pytest.mark.parametrize("kind", POOLED)
def test_maps_are_what_is_pooled(tmp_path, kind):
    folder = str(saved(kind, tmp_path))
    vectors, maps = open_backbone(folder), open_backbone(folder, maps=True)
    shape, pool = POOLED[kind]
    found = maps(pictures())
    assert found.shape == (4, shape[0] * shape[1]) == (4, maps.dim)
    pooled = pool(found.view(4, *shape))
    np.testing.assert_allclose(vectors(pictures())[:, -pooled.shape[1] :], pooled, atol=1e-5)
    assert maps.digest != vectors.digest


@pytest.mark.parametrize("kind", ["vit", "clip", "clip-vision"])
def test_tokens_are_those_of_patches_only(tmp_path, kind):
    backbone = open_backbone(str(saved(kind, tmp_path)), maps=True)
    net = tiny(kind).eval().base_model
    x = (pictures().permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        last = getattr(net, "vision_model", net)(pixel_values=x).last_hidden_state
    assert last.shape == (4, 17, 24), "a class token and 4 x 4 patches"
    np.testing.assert_allclose(backbone(pictures()), last[:, 1:].flatten(1), atol=1e-5)


def test_maps_are_refused_where_there_are_none():
    with pytest.raises(Refusal, match="transformers backbones only"):
        open_backbone("timm:resnet18", maps=True)


def test_preprocessing_resizes_and_takes_grey(tmp_path):
    backbone = open_backbone(str(saved("resnet", tmp_path)))
    assert backbone(pictures(size=50)).shape == (4, 16)
    grey = pictures(channels=1)
    assert torch.equal(backbone(grey), backbone(grey.expand(-1, -1, -1, 3)))
    flat = torch.full((1, 7, 9, 3), 77, dtype=torch.uint8)
    np.testing.assert_allclose(
        backbone(flat), backbone(torch.full((1, SIZE, SIZE, 3), 77, dtype=torch.uint8)), atol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": 40}, (40, 40)),
        ({"size": {"shortest_edge": 36}}, (36, 36)),
        (
            {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": {"height": 32, "width": 24}},
            (32, 24),
        ),
        ({"size": {"height": 40, "width": 44}, "do_center_crop": False, "crop_size": 32}, (40, 44)),
    ],
)
def test_the_resolution_of_the_preprocessor(tmp_path, settings, size):
    assert open_backbone(str(saved("resnet", tmp_path, **settings))).size == size


def test_the_digest_follows_content_not_place(tmp_path):
    first = open_backbone(str(saved("resnet", tmp_path / "a")))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert open_backbone(str(tmp_path / "b")).digest == first.digest
    assert open_backbone(str(tmp_path / "b"), size=48).digest != first.digest
    assert open_backbone(str(tmp_path / "b"), bf16=True).digest != first.digest
    body = bytearray((tmp_path / "b" / "model.safetensors").read_bytes())
    body[-3] ^= 1
    (tmp_path / "b" / "model.safetensors").write_bytes(bytes(body))
    assert open_backbone(str(tmp_path / "b")).digest != first.digest


def test_opening_leaves_the_global_generator_alone(tmp_path):
    folder = saved("vit", tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    open_backbone(str(folder))
    assert torch.equal(torch.rand(3), expected)


def test_bf16_is_close(tmp_path):
    folder = str(saved("vit", tmp_path))
    full, half = open_backbone(folder)(pictures()), open_backbone(folder, bf16=True)(pictures())
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.1


def test_pickle_only_when_allowed(tmp_path):
    folder = saved("resnet", tmp_path)
    expected = open_backbone(str(folder))(pictures())
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(Refusal, match="--allow-pickle"):
        open_backbone(str(folder))
    np.testing.assert_allclose(open_backbone(str(folder), allow_pickle=True)(pictures()), expected, atol=1e-6)


def test_what_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(Refusal, match="does not take pictures of 48 x 48"):
        open_backbone(str(saved("vit", tmp_path / "vit")), size=48)
    with pytest.raises(Refusal, match="folder that exists"):
        open_backbone(str(tmp_path / "nothing"))
    with pytest.raises(Refusal, match=r"no config\.json"):
        open_backbone(str(tmp_path))
    with pytest.raises(Refusal, match="not run"):
        open_backbone("torch:my_pkg:make_model")
    folder = saved("resnet", tmp_path / "a")
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(Refusal, match="cannot open"):
        open_backbone(str(folder))
    (folder / "config.json").write_text('{"model_type": "never-heard-of"}')
    with pytest.raises(Refusal, match="cannot open"):
        open_backbone(str(folder))


def test_remote_code_never_runs(tmp_path):
    folder = saved("resnet", tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(Refusal, match="cannot open"):
        open_backbone(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("timm:resnet18", "timm", "timm"), ("openclip:ViT-B-32/laion2b", "open_clip", "openclip")],
)
def test_a_missing_extra_is_named(monkeypatch, name, module, extra):
    monkeypatch.setitem(__import__("sys").modules, module, None)  # as if it were not installed
    with pytest.raises(Refusal, match=rf"counterpoise\[{extra}\]"):
        open_backbone(name)


def test_timm_weights_come_as_safetensors(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm", reason="the timm extra is not installed")
    net = timm.create_model("test_resnet.r160_in1k", pretrained=False).eval()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr("counterpoise.nets.backbones.download", lambda *_: tmp_path)  # the hub, on disk
    backbone = open_backbone("timm:test_resnet.r160_in1k", size=64)
    x = (pictures(size=64).permute(0, 3, 1, 2).float() / 255 - backbone._mean) / backbone._std
    with torch.no_grad():
        expected = net.forward_head(net.forward_features(x), pre_logits=True)
    np.testing.assert_allclose(backbone(pictures(size=64)), expected, atol=1e-5)
    with pytest.raises(Refusal, match="near ones"):
        open_backbone("timm:test_resnet_of_mars")


def test_open_clip_weights_come_as_safetensors(tmp_path, monkeypatch):
    open_clip = pytest.importorskip("open_clip", reason="the openclip extra is not installed")
    net = open_clip.create_model("RN50").eval()
    save_file(net.state_dict(), tmp_path / "open_clip_model.safetensors")
    monkeypatch.setattr(
        open_clip, "download_pretrained", lambda *_: str(tmp_path / "open_clip_model.safetensors")
    )
    backbone = open_backbone("openclip:RN50/openai")
    assert (backbone.dim, backbone.size) == (1024, (224, 224))
    x = (pictures(1, 224).permute(0, 3, 1, 2).float() / 255 - backbone._mean) / backbone._std
    with torch.no_grad():
        np.testing.assert_allclose(backbone(pictures(1, 224)), net.encode_image(x), atol=1e-4)
    with pytest.raises(Refusal, match="yfcc15m"):
        open_backbone("openclip:RN50/mars")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real MobileNetV2 is not beside this checkout")
def test_a_real_network(tmp_path):
    backbone = open_backbone(str(REAL))
    assert (backbone.dim, backbone.size, backbone.mean) == (1280, (224, 224), (0.5, 0.5, 0.5))
    net = transformers.AutoModelForImageClassification.from_pretrained(REAL, dtype=torch.float32).eval()
    weight, bias = (p.detach().numpy() for p in net.classifier.parameters())
    x = pictures(2, 224)
    with torch.no_grad():
        expected = net(pixel_values=(x.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5).logits
    np.testing.assert_allclose(backbone(x).numpy() @ weight.T + bias, expected, atol=1e-3)
