import torch

from counterpoise.nets.attention import attend


def test_both_ways_are_the_formula_with_the_same_slopes():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8, generator=generator) for _ in range(3))
    weight = torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k) / 8**0.5, -1)
    torch.testing.assert_close(attend(q, k, v), torch.einsum("bhqk,bhkd->bhqd", weight, v))
    slopes = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [tensor.to(dtype).requires_grad_() for tensor in (q, k, v)]
        slopes.append(torch.autograd.grad(attend(*inputs).float().square().sum(), inputs))
    for full, half in zip(*slopes, strict=True):
        torch.testing.assert_close(half.float(), full, atol=0.15, rtol=0.05)
