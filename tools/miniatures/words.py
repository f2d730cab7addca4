"""A byte-pair tokenizer of our own in the layout of CLIP's: any English word can be spelt, most take one or two pieces."""

from __future__ import annotations

import hashlib
import json
import pydoc_data.topics
import re
from collections.abc import Iterable
from pathlib import Path

from miniatures.captions import KIND_OF, captions, kind_captions
from miniatures.grammar import sentences

VOCABULARY = 2048
LENGTH = 32  # tokens a text may have; longer ones are cut
PROSE = (
    "c2e0fc2aeb709349"  # fingerprint of the texts that the shipped one was made of: other Pythons have others
)
START, END = "<|startoftext|>", "<|endoftext|>"


def corpus() -> Iterable[str]:
    """Captions and sentences as often as prose; the prose is the language reference that comes with Python."""
    for _ in range(20):
        for name in KIND_OF:
            yield from captions(name)
        for kind in set(KIND_OF.values()):
            yield from kind_captions(kind)
    yield from sentences(5000)
    for text in pydoc_data.topics.topics.values():
        yield from re.findall(r"[a-z][a-z ,']+", text.lower())


def prose() -> str:
    """Of the language reference here."""
    return hashlib.blake2b("".join(pydoc_data.topics.topics.values()).encode(), digest_size=8).hexdigest()


def train(out: Path) -> None:
    """Write vocab.json, merges.txt and the configuration that CLIPTokenizer.from_pretrained reads."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_pattern(), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * VOCABULARY,  # more than fit: what is left over is cut below
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    # CLIP's order: every byte, every byte that ends a word, the merges, the two marks.
    pieces = letters + [f"{letter}</w>" for letter in letters]
    known = set(pieces)
    kept: list[tuple[str, str]] = []
    for left, right in (merge if isinstance(merge, list) else merge.split(" ") for merge in merges):
        if left + right not in known and len(pieces) < VOCABULARY - 2:
            kept.append((left, right))
            pieces.append(left + right)
            known.add(left + right)
    vocabulary = {piece: number for number, piece in enumerate([*pieces, START, END])}
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (out / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(merge) for merge in kept) + "\n", encoding="utf-8"
    )
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "model_max_length": LENGTH,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _pattern():  # type: ignore[no-untyped-def]
    """CLIP's way of cutting a text into words, numbers and signs."""
    from tokenizers import Regex

    return Regex(r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""")
