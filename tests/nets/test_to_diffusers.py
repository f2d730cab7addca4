"""The exported folder computes what our network does, and samples without this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from counterpoise.diffusion.denoisers import EDM, Cond, Eps
from counterpoise.diffusion.ladder import discrete, karras
from counterpoise.diffusion.samplers import dpmpp_2m
from counterpoise.nets.to_diffusers import export_pipeline, unet_config, unet_weights
from counterpoise.nets.unet import UNet

CASES = {
    "grey": (UNet(width=8), 1, 8),
    "folded": (UNet(width=8, levels=(1, 2, 2), unshuffle=2), 3, 16),
    "attentive": (UNet(width=8, levels=(1, 2), blocks=2, attention=(0, 1), heads=2), 3, 8),
    "padded": (UNet(width=8, levels=(2, 1, 2)), 1, 9),
    "flat": (UNet(width=16, levels=(1,), unshuffle=3), 3, 12),
}


def trained(part, channels, size, augment=0):
    """A network none of whose weights is zero."""
    net = part(channels, classes=3, size=size, seed=0, augment=augment).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for weight in net.parameters():
        weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return net


@pytest.mark.parametrize("case", CASES)
def test_their_network_computes_ours(case):
    diffusers = pytest.importorskip("diffusers")
    part, channels, size = CASES[case]
    net = trained(part, channels, size, augment=4)
    theirs = diffusers.UNet2DModel(**unet_config(net, size))
    theirs.load_state_dict(unet_weights(net))  # every weight of theirs, and no other
    theirs.eval()
    x, noise = torch.randn(4, channels, size, size), torch.tensor([-1.5, 0.0, 1.1, 700.0])
    ours = net(x, noise, Cond(torch.tensor([0, 2, -1, 1])))
    missing = theirs.config.sample_size * net.unshuffle - size
    folded = F.pixel_unshuffle(F.pad(x, (0, missing, 0, missing)), net.unshuffle)
    with torch.no_grad():
        out = theirs(folded, noise, class_labels=torch.tensor([0, 2, 3, 1])).sample
    out = F.pixel_shuffle(out, net.unshuffle)[..., :size, :size]
    assert ours.std() > 0.05
    torch.testing.assert_close(out, ours, atol=1e-5, rtol=1e-5)


SCRIPT = """
import sys
import numpy as np, torch
from diffusers import DiffusionPipeline
for kind in ("edm", "eps"):
    pipe = DiffusionPipeline.from_pretrained(f"{sys.argv[1]}/{kind}", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.from_numpy(np.load(f"{sys.argv[1]}/noise.npy"))
    for scale in (0, 1, 2.5):
        images = pipe(["ant", "cow", None], 6, scale, noise=noise, output_type="np").images
        np.save(f"{sys.argv[1]}/{kind}-{scale}.npy", images)
    seeded = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    both = pipe([0, "bee"], generator=seeded).images
    alone = pipe(["bee"], generator=[torch.Generator().manual_seed(8)]).images
    assert [picture.size for picture in both] == [(9, 9)] * 2
    assert np.abs(np.asarray(both[1], int) - np.asarray(alone[0], int)).max() <= 1
    try:
        pipe(["wasp"])
    except ValueError as error:
        assert "wasp" in str(error)
    else:
        raise AssertionError("an unknown class")
assert not [name for name in sys.modules if name.startswith("counterpoise")]
"""


def guided(denoise, scale):
    def both(x, sigma, cond):
        unasked = denoise(x, sigma, cond.null())
        return unasked + scale * (denoise(x, sigma, cond) - unasked)

    return both


def test_the_folder_samples_what_we_sample_and_without_us(tmp_path):
    pytest.importorskip("diffusers")
    classes, sigmas = ["ant", "bee", "cow"], {"sigma_data": 0.6, "sigma_min": 0.01, "sigma_max": 20.0}
    betas = {"beta_first": 2e-4, "beta_last": 0.03, "train_steps": 200}
    net = trained(UNet(width=8, unshuffle=2), 3, 9, augment=2)
    for kind, settings in {"edm": sigmas, "eps": betas}.items():
        export_pipeline(
            net, tmp_path / kind, kind=kind, classes=classes, size=9, channels=3, steps=3, **settings
        )
    noise = np.random.default_rng(0).standard_normal((3, 3, 9, 9), np.float32)
    np.save(tmp_path / "noise.npy", noise)
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=offline)
    assert done.returncode == 0, done.stderr
    eps = Eps(schedule={"steps": 200, "beta_first": 2e-4, "beta_last": 0.03})
    ladders = {"edm": karras(6, 0.01, 20.0, 7.0), "eps": discrete(eps.schedule, 6)}
    for kind, parametrisation in {"edm": EDM(**sigmas), "eps": eps}.items():
        ladder, cond = ladders[kind], Cond(torch.tensor([0, 2, -1]))
        for scale in (0, 1, 2.5):
            denoise = guided(parametrisation.denoiser(net), scale)
            start = torch.from_numpy(noise) * float(ladder[0])
            clean = dpmpp_2m(denoise, start, ladder, cond, [0, 1, 2])
            ours = (clean / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
            theirs = np.load(tmp_path / f"{kind}-{scale}.npy")
            assert ours.std() > 0.05
            np.testing.assert_allclose(theirs, ours, atol=1e-4, err_msg=f"{kind}, scale {scale}")


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    pytest.importorskip("diffusers")
    net = trained(UNet(width=8), 1, 8)
    out = tmp_path / "deep" / "pipeline"
    settings = {"kind": "edm", "classes": ["a", "b", "c"], "size": 8, "channels": 1}
    export_pipeline(net, out, **settings)
    files = {"README.md", "model_index.json", "pipeline.py", "unet", "scheduler"}
    assert {path.name for path in out.iterdir()} == files
    assert [path.name for path in out.parent.iterdir()] == ["pipeline"]
    assert json.loads((out / "model_index.json").read_text())["classes"] == ["a", "b", "c"]
    (out / "README.md").write_text("mine")
    export_pipeline(net, out, **settings)
    assert (out / "README.md").read_text() == "mine"
