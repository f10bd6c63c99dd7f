"""Whether a device can be used. Needs torch alone: `fused-ssim check` works without the extra [cli]."""

from __future__ import annotations

import torch

from fused_ssim.cli.errors import CliError, first_line


def check_device(name: str) -> None:
    """Refuse a device that is not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CliError(f"unknown device {name!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CliError(f"device {name!r} is not available: torch sees no CUDA GPU")
    try:
        torch.zeros(1, device=device)
    except NotImplementedError:  # its message lists all of torch's backends
        raise CliError(f"device {name!r} is not available: this torch has none") from None
    except (RuntimeError, AssertionError) as error:
        raise CliError(f"device {name!r} is not available: {first_line(error)}") from None
