"""Class-balancing diffusion with the published settings (Qin et al. 2023): for comparisons, on an accelerator.

What differs: 8 groups in the normalisations (32), scale and shift by what is asked (an added embedding), a learned null
label (none), labels dropped row by row (whole batches); with --fit-steps the warm-up shrinks alike. Guidance is written as a scale here, one more than the published omega. Batches, steps and omegas differ between the
published variants, as they do in the paper's repository; `fit_steps` is how long each was trained there.
"""

from __future__ import annotations

from counterpoise.data.nonleaky import Mirror, NonLeaky
from counterpoise.diffusion.guides import CFG
from counterpoise.diffusion.losses import ClassBalancing, UniformTime
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.pixel_diffusion import PixelDiffusion
from counterpoise.nets.unet import UNet

WARMUP_STEPS = 5000
NETWORK = UNet(width=128, levels=(1, 2, 2, 2), blocks=2, attention=(1,), dropout=0.1, unshuffle=1)


def _made(omega: float, batch: int, fit_steps: int, tau: float, law: str, ada: bool) -> PixelDiffusion:
    return PixelDiffusion(
        network=NETWORK,
        objective=UniformTime(),
        schooling=Schooling(
            steps=fit_steps,
            batch=batch,
            lr=2e-4,
            warmup=WARMUP_STEPS / fit_steps,
            decay="none",
            ema=0.9999,
            unlabelled=0.1,
            bf16=False,
        ),
        balance=ClassBalancing(tau=tau, law=law) if tau else None,  # type: ignore[arg-type]
        augment=NonLeaky() if ada else Mirror(),
        sampler="ancestral",
        steps=1000,
        guides=(CFG(scale=1 + omega),),
    )


PUBLISHED = {
    "ddpm": _made(omega=0.8, batch=64, fit_steps=300_000, tau=0.0, law="train", ada=False),
    "cbdm": _made(omega=1.6, batch=48, fit_steps=300_000, tau=1.0, law="train", ada=False),
    "cbdm_ada": _made(omega=1.4, batch=48, fit_steps=500_000, tau=1.0, law="train", ada=True),
    "cbdm_finetune": _made(omega=2.0, batch=48, fit_steps=50_000, tau=1.0, law="uniform", ada=False),
}
