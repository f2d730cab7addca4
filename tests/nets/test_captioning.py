"""Models that say what pictures show: small random ones built from their configurations."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoise.nets import captioning, miniatures
from counterpoise.nets.captioning import captioner_folder, open_captioner
from counterpoise.types import Refusal

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] <image> a the dog cat beach grass photo of in , sleeping running"


def tokenizer(folder):
    folder.mkdir()
    (folder / "vocab.txt").write_text(WORDS.replace(" ", "\n"))
    return transformers.BertTokenizer.from_pretrained(folder)


def noisy(net, spread=0.4):
    """Fresh weights say the same of every picture."""
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.data += spread * torch.randn(parameter.shape)
    return net


def pictures(count=5, size=12, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)


@pytest.fixture(name="blip", scope="module")
def _blip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "blip"
    words = tokenizer(folder)
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {
        "vocab_size": len(WORDS.split()), "encoder_hidden_size": 16, "max_position_embeddings": 64, "bos_token_id": 2,
        "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    vision = small | {"image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=8)
    noisy(transformers.BlipForConditionalGeneration(config)).save_pretrained(folder)
    seen = BlipImageProcessorPil(size={"height": 16, "width": 16})
    transformers.BlipProcessor(seen, words).save_pretrained(folder)
    return folder


def test_each_picture_has_its_caption_as_transformers_has_it(blip):
    said = open_captioner(str(blip))(pictures())
    assert len(set(said)) > 1
    net = transformers.BlipForConditionalGeneration.from_pretrained(blip)
    processor = transformers.AutoProcessor.from_pretrained(blip)
    for text, pixels in zip(said, pictures(), strict=True):
        given = processor(images=Image.fromarray(pixels), return_tensors="pt")
        expected = net.generate(**given, max_new_tokens=48, do_sample=False, num_beams=1)
        assert text == processor.batch_decode(expected, skip_special_tokens=True)[0].strip()


def test_neither_company_nor_grey_nor_read_only_pictures_matter(blip, monkeypatch):
    captioner = open_captioner(str(blip))
    whole = captioner(pictures())
    monkeypatch.setattr(captioning, "BATCH", 2)
    assert captioner(pictures()) == whole
    assert captioner(pictures(0)) == []
    grey = np.frombuffer(pictures(3, channels=1).tobytes(), np.uint8).reshape(3, 12, 12, 1)
    assert captioner(grey) == captioner(np.repeat(grey, 3, axis=3))


def test_one_that_talks_is_asked_and_only_its_answer_counts(tmp_path):
    folder = tmp_path / "llava"
    words = tokenizer(folder)
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
    )  # fmt: skip
    text = transformers.LlamaConfig(
        vocab_size=len(WORDS.split()), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=5)
    noisy(transformers.LlavaForConditionalGeneration(config), 0.8).save_pretrained(folder)
    seen = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    template = "{% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    processor = transformers.LlavaProcessor(
        seen, words, patch_size=8, vision_feature_select_strategy="default", chat_template=template, num_additional_image_tokens=1,
    )  # fmt: skip
    processor.save_pretrained(folder)
    captioner = open_captioner(str(folder))
    assert captioner._talks
    said = captioner(pictures())
    assert len(said) == 5
    question = words.decode(words(captioning.QUESTION).input_ids, skip_special_tokens=True)
    assert question == "in,, in", "as much of it as this tokenizer knows"
    assert len(set(said)) > 1
    assert not any(text.startswith(question) for text in said)


def test_what_captions_nothing_is_refused(blip, tmp_path):
    assert captioner_folder(str(blip)) == blip
    for name in ("miniature", str(miniatures.folder("language"))):
        with pytest.raises(
            Refusal, match="which does not say what a picture shows: name one that does, such as BLIP"
        ):
            captioner_folder(name)
    with pytest.raises(Refusal, match=r"no captioning model './nowhere'"):
        captioner_folder("./nowhere")
    half = tmp_path / "half"
    half.mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        (half / file).write_bytes((blip / file).read_bytes())
    with pytest.raises(
        Refusal,
        match=r"says nothing of how it sees pictures: put its tokenizer\.json and preprocessor_config",
    ):
        captioner_folder(str(half))
    (half / "config.json").write_text(json.dumps({"model_type": "no such"}))
    with pytest.raises(Refusal, match="transformers cannot open"):
        captioner_folder(str(half))
