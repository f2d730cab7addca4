from __future__ import annotations

import pytest

from counterpoise.nets import folders
from counterpoise.types import Refusal

pytest.importorskip("huggingface_hub", reason="the hf extra is not installed")


def named(name, **more):
    return folders.folder_of(name, "clip", "horse", None, (["a"], ["b"]), lambda path: False, **more)


def test_what_is_not_there_is_called_what_was_asked_for():
    with pytest.raises(
        Refusal, match=r"no horse '/nope': name a folder that exists, hf:OWNER/NAME, or:NAME or"
    ):
        named("/nope", allow_pickle=False, more=", or:NAME")


def test_offline_it_is_said_why_and_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        Refusal, match=r"HF_HUB_OFFLINE is set, and it was never fetched .* name a local folder"
    ):
        folders.download("nobody/has-this-model", None, ["config.json"])
    with pytest.raises(Refusal, match="check the name"):
        folders.download("no body/at..all", None, ["config.json"])


def test_the_hub_is_asked_once_and_for_pickle_only_when_it_is_allowed(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        folders, "download", lambda name, revision, files: asked.append(list(files)) or tmp_path
    )
    monkeypatch.setattr(folders, "_fetched", folders._fetched.__wrapped__)
    assert named("some/horse", allow_pickle=False) == tmp_path
    assert asked == [["a"]]
    named("some/horse", allow_pickle=True)
    assert asked == [["a"], ["a"], ["b"]]
