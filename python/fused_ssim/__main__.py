"""`python -m fused_ssim` is the same program as `fused-ssim`."""

import sys

from fused_ssim.cli import main

if __name__ == "__main__":
    sys.exit(main())
