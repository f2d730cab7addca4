import json

import numpy as np
import pytest
import torch
from torch import nn

from counterpoise.data.nonleaky import NonLeaky
from counterpoise.diffusion.batches import Batches, Material
from counterpoise.diffusion.checkpoints import Folder
from counterpoise.diffusion.denoisers import NO_LABEL
from counterpoise.diffusion.losses import ClassBalancing, LogNormal
from counterpoise.diffusion.training import Schooling, train_denoiser
from counterpoise.nets.mlp import MLP
from counterpoise.types import Refusal

RNG = np.random.default_rng(0)
PIXELS = torch.from_numpy(RNG.uniform(-1, 1, (30, 1, 8, 8)).astype(np.float32))
LABELS = np.repeat([0, 1, 2], [20, 8, 2])


def material(pool: int = 0) -> Material:
    extra = torch.full((max(pool, 1), 1, 8, 8), 0.25)
    return Material(lambda r: PIXELS[r], LABELS, 3, (lambda r: extra[r]) if pool else None, pool)


def net(seed: int = 0) -> nn.Module:
    return MLP(width=16, depth=1, dropout=0.2)(1, 3, 8, seed, 9)


class Often(Folder):
    """Saves after every step that a test names, and dies at another."""

    die_at = 10**9
    at: tuple[int, ...] = ()
    steps = 0

    def due(self) -> bool:
        self.steps += 1
        if self.steps == self.die_at:
            raise KeyboardInterrupt
        return self.steps in self.at


def train(folder: Folder, steps: int = 24, **more) -> dict[str, torch.Tensor]:
    settings = Schooling(steps=steps, batch=8, pool_share=0.25 if more.get("pool") else 0.0)
    made = train_denoiser(
        net(), LogNormal(), material(more.get("pool", 0)), settings, 7, folder, ClassBalancing(), NonLeaky()
    )
    return made.state_dict()


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_that_was_stopped_goes_on_exactly(tmp_path):
    whole = train(Folder(tmp_path / "whole", "x"))
    folder = Often(tmp_path / "cut", "x")
    folder.at, folder.die_at = (5, 9, 13), 15
    with pytest.raises(KeyboardInterrupt):
        train(folder)
    states = sorted(path.name for path in (tmp_path / "cut").glob("state-*"))
    assert states == ["state-00000009.safetensors", "state-00000013.safetensors"]
    assert same(whole, train(Folder(tmp_path / "cut", "x")))


def test_a_state_cut_short_is_passed_over_for_the_one_before(tmp_path):
    whole = train(Folder(tmp_path, "x"))
    folder = Often(tmp_path, "x")
    folder.at, folder.die_at = (5, 9), 12
    with pytest.raises(KeyboardInterrupt):
        train(folder)
    last = tmp_path / "state-00000009.safetensors"
    last.write_bytes(last.read_bytes()[:-100])
    again = Folder(tmp_path, "x")
    assert again.resume()[0] == 5
    assert last.with_suffix(".broken").exists()  # out of the way, and not lost
    assert same(whole, train(again))


def test_the_state_of_another_training_is_refused(tmp_path):
    folder = Often(tmp_path, "one")
    folder.at, folder.die_at = (3,), 4
    with pytest.raises(KeyboardInterrupt):
        train(folder)
    with pytest.raises(Refusal, match=r"another training \(one, this one is two\)"):
        train(Folder(tmp_path, "two"))


def test_a_full_disk_is_a_refusal_and_the_last_state_stays(tmp_path, monkeypatch):
    import errno

    from counterpoise.diffusion import checkpoints

    folder = Often(tmp_path, "x")
    folder.at = (3, 6)
    real = checkpoints.commit

    def full(path, write, scratch=None):
        if "00000006" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, write, scratch)

    monkeypatch.setattr(checkpoints, "commit", full)
    with pytest.raises(Refusal, match=r"disk is full.*state-00000003.safetensors is whole and kept"):
        train(folder)
    monkeypatch.undo()
    assert same(train(Folder(tmp_path, "x")), train(Folder(tmp_path / "fresh", "x")))


def test_nan_stops_with_advice_and_the_last_good_state(tmp_path):
    bad = Material(
        lambda r: torch.where(torch.from_numpy(r)[:, None, None, None] == 3, torch.nan, PIXELS[r]), LABELS, 3
    )
    folder = Often(tmp_path, "x")
    folder.at = (1,)
    settings = Schooling(steps=40, batch=4)
    with pytest.raises(Refusal, match=r"the loss or a weight is nan.*Lower the learning rate"):
        train_denoiser(net(), LogNormal(), bad, settings, 7, folder)
    for path in tmp_path.glob("state-*"):
        from safetensors.torch import load_file

        assert all(value.isfinite().all() for value in load_file(path).values())


def test_the_log_tells_loss_by_noise_level(tmp_path):
    heard = []
    train(Folder(tmp_path, "x", hear=heard.append))
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert row["step"] == row["of"] == 24
    assert row["loss"] > 0
    assert row["balance"] > 0
    assert set(row["by_sigma"]) <= {"below_0.1", "below_0.3", "below_1", "below_3", "above_3"}
    assert heard == [1.0]


def test_a_preview_that_takes_longer_than_a_save_is_due_is_not_repeated_at_every_step(tmp_path):
    import time

    drawn = []

    def slow(step, net):
        drawn.append(step)
        time.sleep(0.5)
        return b"png"

    train(Folder(tmp_path, "x", draw=slow, every_s=0.4), steps=60)
    assert len(drawn) < 20


def test_a_batch_that_processes_cannot_share_evenly_is_refused(tmp_path):
    from counterpoise.diffusion.ranks import Ranks

    three = Ranks(0, 3, torch.device("cpu"))
    with pytest.raises(Refusal, match=r"batch of 8 cannot be shared evenly by 3 processes: use 6"):
        train_denoiser(
            net(), LogNormal(), material(), Schooling(batch=8), 7, Folder(tmp_path, "x"), ranks=three
        )


# --- batches -------------------------------------------------------------------------------------------------


def batches(**settings) -> Batches:
    return Batches(
        material(settings.pop("pool", 0)), Schooling(batch=10, **settings), 3, None, ClassBalancing()
    )


def test_every_row_is_seen_once_in_every_pass():
    found = np.concatenate([batches()._rows("rows", 30, step, 10) for step in range(6)])
    assert (np.bincount(found[:30]) == 1).all()
    assert (np.bincount(found[30:]) == 1).all()
    assert (found[:30] != found[30:]).any()


def test_a_batch_depends_on_its_step_alone():
    one, other = batches()(4, LogNormal()), batches()(4, LogNormal())
    assert torch.equal(one.x0, other.x0)
    assert torch.equal(one.noise, other.noise)
    assert not torch.equal(one.noise, batches()(5, LogNormal()).noise)


def test_processes_share_one_batch():
    whole = batches()(2, LogNormal())
    parts = [whole.share(rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat([part.x0 for part in parts]), whole.x0)
    assert torch.equal(torch.cat([part.cond.label for part in parts]), whole.cond.label)


def test_labels_are_dropped_row_by_row_at_the_asked_rate():
    dropped = np.mean(
        [(batches(unlabelled=0.3)(k, LogNormal()).cond.label == NO_LABEL).float().mean() for k in range(200)]
    )
    assert abs(dropped - 0.3) < 0.04


def test_a_pool_comes_first_alone_and_then_as_a_share_without_labels():
    made = batches(pool=5, pretrain=0.5, pool_share=0.4, steps=10, unlabelled=0.0)
    early, late = made(4, LogNormal()), made(5, LogNormal())
    assert (early.cond.label == NO_LABEL).all()
    assert (early.x0 == 0.25).all()
    assert (late.cond.label[:6] != NO_LABEL).all()
    assert (late.cond.label[6:] == NO_LABEL).all()
