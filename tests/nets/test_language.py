"""Language models: the miniature, and small random ones built from their configurations."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from text_to_image import t5_tokenizer

from counterpoise.nets import miniatures
from counterpoise.nets.language import LONGEST, Drawn, open_script, open_writer
from counterpoise.types import Refusal

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
SEEDS = range(100, 132)
CHAT = (
    "{% for message in messages %}<|startoftext|>{{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}says:{% endif %}"
)


def copied(folder, *without):
    folder.mkdir()
    for file in miniatures.folder("language").iterdir():
        if file.name not in without:
            shutil.copy(file, folder / file.name)
            (folder / file.name).chmod(0o644)
    return folder


def edited(folder, name="config.json", **changes):
    found = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(found | changes))
    return folder


@pytest.fixture(name="t5", scope="module")
def _t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    t5_tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=98, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2,
        decoder_start_token_id=0, eos_token_id=1, pad_token_id=0, initializer_factor=8.0,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(name="writer", scope="module")
def _writer():
    return open_writer("miniature")


def test_the_miniature_continues_a_name_with_a_scene(writer):
    said = writer("dolphin :", SEEDS)
    assert writer.script.kind == "miniature"
    assert sum("dolphin" in text for text in said) >= 29
    assert len(set(said)) >= 28


@pytest.mark.parametrize("kind", ["miniature", "t5"])
def test_an_answer_is_of_its_seed_wherever_it_stands_and_whoever_is_beside_it(kind, t5, request):
    writer = open_writer(t5) if kind == "t5" else request.getfixturevalue("writer")
    asked = "dolphin" if kind == "t5" else "dolphin :"
    said = writer(asked, SEEDS)
    assert writer(asked, SEEDS) == said
    assert writer(asked, SEEDS[::-1]) == said[::-1]
    assert writer(asked, [*SEEDS[:16], *range(16)])[:16] == said[:16]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    few = writer(asked, SEEDS[:5])  # fewer at once may round differently, and seldom do
    assert sum(map(str.__eq__, few, said)) >= 4
    assert torch.equal(torch.get_rng_state(), state)


def test_colder_is_less_varied_and_a_small_nucleus_is_greedy(writer):
    ids = writer.script.tokens("dolphin :")["input_ids"]
    with torch.no_grad():
        greedy = writer.net.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_length=48)
    expected = writer.script.tokenizer.decode(greedy[0, ids.shape[1] :], skip_special_tokens=True)
    for settings in ({"temperature": 1e-4}, {"top_p": 1e-9}):
        assert set(writer("dolphin :", SEEDS[:8], **settings)) == {expected.strip()}
    cold = set(writer("dolphin :", SEEDS, temperature=0.1))
    assert 1 < len(cold) < len(set(writer("dolphin :", SEEDS)))


def test_what_is_drawn_is_as_probable_as_the_model_says():
    scores = torch.tensor([[2.0, 0.5, 1.0, -1.0, 0.0]]).expand(4000, -1)
    p = scores[0].double().softmax(0).numpy()

    def times(**settings):
        drawn = Drawn(range(4000), **settings)(scores[:, :1], scores)
        assert (drawn.isfinite().sum(1) == 1).all()
        return np.bincount(drawn.argmax(1).numpy(), minlength=5)

    assert chisquare(times(temperature=1.0, top_p=1.0), 4000 * p).pvalue > 1e-3
    hot = np.sqrt(p) / np.sqrt(p).sum()
    assert chisquare(times(temperature=2.0, top_p=1.0), 4000 * hot).pvalue > 1e-3
    some = times(temperature=1.0, top_p=float(p[0] + p[2] / 2))
    assert some[[1, 3, 4]].sum() == 0, "the two most probable have that share together"
    assert chisquare(some[[0, 2]], 4000 * p[[0, 2]] / p[[0, 2]].sum()).pvalue > 1e-3


def test_an_answer_that_is_begun_is_gone_on_with(writer):
    said = writer("dolphin :", SEEDS[:4], begun=" a photo of a dolphin")
    assert all(text.startswith("a photo of a dolphin") for text in said)
    assert len(set(said)) > 1


def test_a_model_that_talks_is_asked_in_its_own_way(tmp_path):
    folder = edited(copied(tmp_path / "chat"), "tokenizer_config.json", chat_template=CHAT)
    script = open_script(str(folder))
    assert script.kind == "chat"
    ids = script.tokens("a fox", " the")["input_ids"][0]
    said = script.tokenizer.decode(ids).replace("<|startoftext|>", "<|startoftext|> ").split()
    assert said == ["<|startoftext|>", "a", "fox", "says", ":", "the"]
    assert len(open_writer(str(folder))("a fox", SEEDS[:3])) == 3


def test_a_plain_one_is_asked_plainly_and_no_end_is_read(tmp_path):
    script = open_script(str(copied(tmp_path / "plain")))
    assert script.kind == "causal"
    ids = script.tokens("a fox")["input_ids"][0].tolist()
    assert script.tokenizer.eos_token_id not in ids
    assert script.tokenizer.decode(ids).endswith("a fox") or script.tokenizer.decode(ids).endswith("a fox ")


def test_text_to_text_models_read_to_the_end_and_begin_themselves(t5):
    script = open_script(t5)
    assert script.kind == "text2text"
    assert script.tokens("dog")["input_ids"][0, -1] == script.tokenizer.eos_token_id
    assert script.room(torch.zeros(1, 500)) == LONGEST
    with pytest.raises(Refusal, match=r"begins its answers itself: ask without '\|'"):
        script.tokens("dog", "a photo of a dog")


def test_there_has_to_be_room_for_an_answer(writer):
    assert len(writer("a " * 36, SEEDS[:2])) == 2
    with pytest.raises(Refusal, match=r"miniature reads 48 tokens, and 4\d are asked.*shorten"):
        writer("a " * 42, SEEDS[:2])


def test_what_is_no_language_model_is_refused_before_it_is_opened(tmp_path, t5):
    with pytest.raises(Refusal, match="is a clip model, which writes no texts"):
        open_script(str(miniatures.folder("clip")))
    with pytest.raises(Refusal, match=r"no language model './nowhere': name a folder that exists"):
        open_script("./nowhere")
    with pytest.raises(Refusal, match="HF_HUB_OFFLINE is set, and it was never fetched"):
        open_script("nobody/nothing-of-the-kind")
    with pytest.raises(Refusal, match="has no tokenizer"):
        open_script(str(copied(tmp_path / "mute", "tokenizer.json", "tokenizer_config.json")))
    with pytest.raises(Refusal, match="has no safetensors weights"):
        open_script(str(copied(tmp_path / "empty", "model.safetensors")))
    with pytest.raises(Refusal, match=r"tokenizer has 2048 words and its network knows 100"):
        open_script(str(edited(copied(tmp_path / "foreign"), vocab_size=100)))
    (copied(tmp_path / "broken") / "config.json").write_text("{")
    with pytest.raises(Refusal, match="transformers cannot open"):
        open_script(str(tmp_path / "broken"))


def test_weights_that_are_not_all_there_are_refused(tmp_path):
    folder = copied(tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if "mlp" in name)
    save_file(
        {name: value for name, value in weights.items() if name != gone},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(Refusal, match=r"no weights for 1 of its parts.*mlp.*trained to write"):
        open_writer(str(folder))
