"""The command line: `fused-ssim info | check | compare | demo`.

main.py parses and reports errors; check.py, compare.py, demo.py and info.py are the commands; the rest serves
them. Pillow, tqdm, PyAV and scikit-image are extras, so the modules that need them are imported when
a command runs, never by `import fused_ssim.cli`.
"""

from fused_ssim.cli.main import main

__all__ = ["main"]
