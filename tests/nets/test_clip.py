"""Text-image pairs: small random ones built from their configurations."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pairs import LENGTH, SIZE, saved_pair
from safetensors.torch import load_file, save_file

from counterpoise.nets import miniatures
from counterpoise.nets.backbones import open_backbone, state_of
from counterpoise.nets.clip import open_clip_pair, open_tokens
from counterpoise.types import Refusal

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
BIG = Path(__file__).parents[3] / "shared" / "models" / "clip_tokenizer"
KINDS = pytest.mark.parametrize("kind", ["clip", "siglip"])
TEXTS = ["a photo of an oak tree", "a rose", "a photo of a pickup truck", "an x-ray"]


def pictures(count=5, size=SIZE, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    return {kind: saved_pair(root / kind, kind) for kind in ("clip", "siglip")}


@KINDS
def test_rows_are_unit_and_logits_are_those_of_transformers(folders, kind):
    pair = open_clip_pair(str(folders[kind]))
    said, seen = pair.texts(TEXTS), pair.pictures(pictures())
    for rows, count in ((said, len(TEXTS)), (seen, 5)):
        assert rows.shape[0] == count
        assert rows.dtype == torch.float32
        np.testing.assert_allclose(rows.norm(dim=1), 1, atol=1e-5)
    net = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[kind])
    # CLIP may be filled up to the longest text, SigLIP not.
    filling = {"padding": True} if kind == "clip" else {"padding": "max_length", "max_length": LENGTH}
    x = (
        torch.from_numpy(pictures()).permute(0, 3, 1, 2) / 255 - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    ) / 0.25
    with torch.no_grad():
        expected = net(**tokenizer(TEXTS, return_tensors="pt", **filling), pixel_values=x).logits_per_image
    assert expected.softmax(1).std(0).min() > 0.01, "the pair tells pictures apart"
    found = (pair.scale * seen @ said.T).softmax(1)
    np.testing.assert_allclose(found, expected.softmax(1), atol=1e-5)
    if kind == "siglip":  # and the difference is seen
        with torch.no_grad():
            short = net(
                **tokenizer(TEXTS, return_tensors="pt", padding=True), pixel_values=x
            ).logits_per_image
        assert (short.softmax(1) - found).abs().max() > 0.01


@KINDS
def test_a_row_does_not_depend_on_its_company(folders, kind, monkeypatch):
    pair = open_clip_pair(str(folders[kind]))
    one_by_one = torch.cat([pair.texts([text]) for text in TEXTS])
    np.testing.assert_allclose(pair.texts(TEXTS), one_by_one, atol=1e-5)
    np.testing.assert_allclose(pair.texts(TEXTS[::-1]).flip(0), one_by_one, atol=1e-5)
    whole = pair.pictures(pictures())
    np.testing.assert_allclose(
        whole, torch.cat([pair.pictures(pictures()[i : i + 1]) for i in range(5)]), atol=1e-5
    )
    monkeypatch.setattr("counterpoise.nets.clip.BATCH", {"cpu": 2, "cuda": 2})
    np.testing.assert_allclose(pair.pictures(pictures()), whole, atol=1e-5)
    np.testing.assert_allclose(pair.texts(TEXTS), one_by_one, atol=1e-5)
    assert pair.pictures(pictures(0)).shape == (0, whole.shape[1])


def test_pictures_of_any_size_grey_and_read_only(folders):
    pair = open_clip_pair(str(folders["clip"]))
    grey = np.frombuffer(pictures(3, channels=1).tobytes(), np.uint8).reshape(3, SIZE, SIZE, 1)
    np.testing.assert_array_equal(pair.pictures(grey), pair.pictures(np.repeat(grey, 3, axis=3)))
    flat = np.full((1, 7, 9, 3), 77, np.uint8)
    np.testing.assert_allclose(
        pair.pictures(flat), pair.pictures(np.full((1, SIZE, SIZE, 3), 77, np.uint8)), atol=1e-5
    )


def test_a_class_is_the_mean_of_its_templates(folders):
    pair = open_clip_pair(str(folders["clip"]))
    templates, names = ("a photo of {a}", "{name}"), ["oak_tree", "rose"]
    first, second = pair.texts(["a photo of an oak tree", "oak tree"])
    found = pair.classes(templates, names)
    np.testing.assert_allclose(found[0], F.normalize(first + second, dim=0), atol=1e-5)
    np.testing.assert_allclose(pair.classes(templates, names[::-1]).flip(0), found, atol=1e-5)
    np.testing.assert_allclose(pair.classes(templates[::-1], names), found, atol=1e-5)
    np.testing.assert_allclose(found.norm(dim=1), 1, atol=1e-5)


def test_long_texts_are_cut_and_told_and_must_stay_apart(folders):
    pair = open_clip_pair(str(folders["clip"]))
    long = "tree " * 40
    with pytest.warns(UserWarning, match=rf"1 texts are longer than the {LENGTH} tokens") as told:
        pair.texts(["a rose", long])
    assert len(told) == 1
    with pytest.warns(UserWarning, match="2 texts"), pytest.raises(Refusal, match="alike"):
        pair.texts([long, long + "rose"])
    with pytest.raises(Refusal, match=r"'Rose' and 'rose' alike"):
        pair.texts(["Rose", "rose"])
    assert torch.equal(*pair.texts(["a rose", "a rose"])), "the same text twice is no confusion"


def test_content_follows_weights_preprocessing_and_words_not_place(folders, tmp_path):
    first = open_clip_pair(str(folders["clip"]))
    copy = shutil.copytree(folders["clip"], tmp_path / "copy")
    assert open_clip_pair(str(copy)).content == first.content
    seen = {first.content}
    for file, change in (
        ("merges.txt", lambda text: text.rsplit("\n", 2)[0] + "\n"),
        ("preprocessor_config.json", lambda text: text.replace("0.4", "0.45")),
    ):
        before = state_of(str(copy))
        (copy / file).write_text(change((copy / file).read_text()))
        assert state_of(str(copy)) != before
        seen.add(open_clip_pair(str(copy)).content)
    seen.add(open_clip_pair(str(saved_pair(tmp_path / "other", seed=1))).content)
    assert len(seen) == 4


def test_opening_draws_no_bars_and_leaves_those_of_others(folders, capfd):
    bars = transformers.utils.logging
    mine = lambda bar, args, more: bar(*args, **more)  # noqa: E731
    before = bars.set_tqdm_hook(mine)
    try:
        open_clip_pair(str(folders["clip"]))
        assert capfd.readouterr().err == ""
        assert bars.set_tqdm_hook(None) is mine
        transformers.AutoModel.from_pretrained(folders["clip"])
        assert "Loading weights" in capfd.readouterr().err
    finally:
        bars.set_tqdm_hook(before)


def test_opening_leaves_the_global_generator_alone(folders):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    open_clip_pair(str(folders["clip"])).texts(["a rose"])
    assert torch.equal(torch.rand(3), expected)


def test_the_picture_half_is_the_backbone_of_the_same_name(folders, monkeypatch):
    pair, x = open_clip_pair(str(folders["clip"])), torch.from_numpy(pictures())
    for name in (str(folders["clip"]), f"hf:{folders['clip']}"):
        backbone = open_backbone(name)
        assert backbone.digest == pair.backbone.digest
        np.testing.assert_allclose(F.normalize(backbone(x), dim=1), pair.pictures(pictures()), atol=1e-6)
    monkeypatch.setattr(miniatures, "folder", lambda kind: {"clip": folders["clip"]}[kind])
    for name in ("miniature", "hf:miniature"):
        assert open_backbone(name).digest == pair.backbone.digest
        assert open_clip_pair(name).content == pair.content


@pytest.mark.skipif(not BIG.is_dir(), reason="the tokenizer of OpenAI's CLIP is not beside this checkout")
def test_a_tokenizer_that_belongs_to_another_text_tower_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"49408 words and its text tower knows 2048"):
        open_clip_pair(str(saved_pair(tmp_path, tokenizer=BIG)))


def test_what_is_no_pair_is_refused(folders, tmp_path):
    with pytest.raises(Refusal, match="no tokenizer"):
        open_clip_pair(str(saved_pair(tmp_path / "wordless", tokenizer=None)))
    with pytest.raises(Refusal, match="timm has no text network"):
        open_clip_pair("timm:convnext_tiny")
    with pytest.raises(
        Refusal, match=r"no text-image pair .*: name a folder that exists, hf:OWNER/NAME or mini"
    ):
        open_clip_pair(str(tmp_path / "nothing"))
    vision = transformers.CLIPVisionConfig(
        image_size=SIZE,
        patch_size=8,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    transformers.CLIPVisionModelWithProjection(vision).save_pretrained(tmp_path / "half")
    with pytest.raises(Refusal, match=r"clip_vision_model.*both of its towers"):
        open_clip_pair(str(tmp_path / "half"))


def test_a_tower_without_weights_is_refused_and_not_made_up(folders, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "half")
    state = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in state.items() if not name.startswith("text_")}
    assert 0 < len(kept) < len(state)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Refusal, match=r"no weights for \d+ of its parts, the first text_"):
        open_clip_pair(str(folder))


class Evil:
    def __reduce__(self):
        return (os.mkdir, (f"{os.environ['EVIL']}",))


def test_pickle_only_when_allowed_and_remote_code_never(folders, tmp_path, monkeypatch):
    folder = shutil.copytree(folders["clip"], tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(Refusal, match="--allow-pickle"):
        open_clip_pair(str(folder))
    expected = open_clip_pair(str(folders["clip"])).texts(TEXTS)
    np.testing.assert_allclose(
        open_clip_pair(str(folder), allow_pickle=True).texts(TEXTS), expected, atol=1e-6
    )

    monkeypatch.setenv("EVIL", str(tmp_path / "ran"))
    torch.save({"logit_scale": Evil()}, folder / "pytorch_model.bin")
    for opening in (open_clip_pair, open_backbone):
        with pytest.raises(Refusal, match="cannot open"):
            opening(str(folder), allow_pickle=True)

    folder = shutil.copytree(folders["clip"], tmp_path / "mine")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    try:
        open_clip_pair(str(folder))  # with the tokenizer that belongs to the model type, or not at all
    except Refusal as refusal:
        assert "cannot open" in str(refusal)  # noqa: PT017
    assert not (tmp_path / "ran").exists()


def test_bf16_is_a_matter_of_rounding(folders):
    exact, fast = (open_clip_pair(str(folders["clip"]), bf16=bf16) for bf16 in (False, True))
    assert (exact.content, exact.backbone.digest) == (fast.content, fast.backbone.digest)
    assert torch.equal(exact.texts(TEXTS), fast.texts(TEXTS))
    away = (exact.pictures(pictures()) * fast.pictures(pictures())).sum(1)
    assert 0.99 < away.min() < away.max() < 1.0001
    assert not torch.equal(exact.pictures(pictures()), fast.pictures(pictures()))


class OfOpenClip(torch.nn.Module):
    """The same network as open_clip has it."""

    def __init__(self, net):
        super().__init__()
        self.net, self.logit_scale, self.visual = net, net.logit_scale, SimpleNamespace(image_size=SIZE)

    def encode_image(self, x):
        return self.net.get_image_features(x).pooler_output

    def encode_text(self, ids):
        return self.net.get_text_features(input_ids=ids).pooler_output


class TokenizerOfOpenClip:
    context_length = LENGTH

    def __init__(self, folder):
        self.theirs = transformers.AutoTokenizer.from_pretrained(folder)

    def __call__(self, texts, context_length=None):
        kind = {"padding": "max_length", "truncation": True, "max_length": context_length or LENGTH}
        return self.theirs(texts, return_tensors="pt", **kind).input_ids


@pytest.fixture(name="open_clip")
def _open_clip(folders, monkeypatch):
    """A stand-in for open_clip, which needs torchvision: this tests what is asked of it, by names as of its version 3."""
    folder = folders["clip"]
    settings = {"mean": (0.4, 0.5, 0.6), "std": (0.25, 0.25, 0.25)}
    found = SimpleNamespace(
        get_pretrained_cfg=lambda model, tag: settings if (model, tag) == ("tiny", "ours") else {},
        list_pretrained_tags_by_model=lambda model: ["ours"],
        download_pretrained=lambda settings: str(folder / "model.safetensors"),
        create_model=lambda model, pretrained, require_pretrained: OfOpenClip(
            transformers.AutoModel.from_pretrained(Path(pretrained).parent)
        ),
        get_tokenizer=lambda model: TokenizerOfOpenClip(folder),
    )
    monkeypatch.setitem(sys.modules, "open_clip", found)


@pytest.mark.usefixtures("open_clip")
def test_a_pair_of_open_clip_is_the_same_pair(folders):
    theirs, ours = open_clip_pair("openclip:tiny/ours"), open_clip_pair(str(folders["clip"]))
    np.testing.assert_allclose(theirs.texts(TEXTS), ours.texts(TEXTS), atol=1e-6)
    np.testing.assert_allclose(theirs.pictures(pictures()), ours.pictures(pictures()), atol=1e-6)
    assert theirs.scale == ours.scale
    assert theirs.content != ours.content
    assert open_tokens("openclip:tiny/ours")(["a rose"]).input_ids.shape == (1, LENGTH)
    with pytest.warns(UserWarning, match=rf"1 texts are longer than the {LENGTH} tokens"):
        theirs.texts(["tree " * 40, "a rose"])
    with pytest.raises(Refusal, match="'Rose' and 'rose' alike"):
        theirs.texts(["Rose", "rose"])
    with pytest.raises(Refusal, match="the tags: ours"):
        open_clip_pair("openclip:tiny/theirs")


def test_without_open_clip_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for opening in (open_tokens, open_clip_pair):
        with pytest.raises(Refusal, match=r"counterpoise\[openclip\]"):
            opening("openclip:ViT-B-32/laion2b_s34b_b79k")
