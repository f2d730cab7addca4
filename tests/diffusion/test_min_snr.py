import pytest
import torch

from counterpoise.diffusion.denoisers import Eps, Velocity
from counterpoise.diffusion.losses import UniformTime
from counterpoise.diffusion.min_snr import MinSNR


@pytest.mark.parametrize("read", [Eps(), Velocity()], ids=repr)
def test_errors_cost_what_the_paper_says_for_each_target(read):
    """Hang et al.: min(SNR, g) for x0, min(SNR, g) / SNR for eps, min(SNR, g) / (SNR + 1) for v."""
    sigma, gamma = torch.tensor([0.02, 0.2, 0.447, 1.0, 10.0]), 5.0
    snr = 1 / sigma**2
    clean_error, noise_error = 1.0, snr  # ||x0 - D||^2 as one, in units of the noise
    found = MinSNR(read, gamma).weight(sigma) * noise_error
    torch.testing.assert_close(found, snr.clamp(max=gamma) * clean_error)
    own = UniformTime(read).weight(sigma) * noise_error  # the plain error of the network's own target
    of_target = snr.clamp(max=gamma) / (snr + 1 if isinstance(read, Velocity) else snr)
    torch.testing.assert_close(found, of_target * own)


def test_noise_levels_are_those_of_plain_training():
    draws = [objective.draw(50, torch.Generator().manual_seed(1)) for objective in (MinSNR(), UniformTime())]
    assert torch.equal(*draws)
