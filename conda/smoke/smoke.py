"""Value and gradient on the CPU, and on the GPU where the build serves one."""

import torch

import fused_ssim

for device in fused_ssim.build_info().backends:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 33, 47, device=device, requires_grad=True)
    other = torch.rand(1, 3, 33, 47, device=device)
    assert fused_ssim.fused_ssim(image, image.detach()).item() == 1
    before = fused_ssim.fused_ssim(image, other)
    before.backward()
    with torch.no_grad():
        after = fused_ssim.fused_ssim(image + 10 * image.grad, other)  # uphill
    assert before < after < 1, (before, after)
    print(f"fused_ssim {fused_ssim.__version__} on {device}: {before:.4f} then {after:.4f}")
