"""`fused-ssim info`: what was built, and what this machine can run."""

from __future__ import annotations

import json

import fused_ssim


def run(*, as_json: bool) -> int:
    """Print `fused_ssim.build_info()`."""
    facts = fused_ssim.build_info()
    print(json.dumps(facts.as_dict(), indent=2) if as_json else facts)
    return 0
