"""Drop-ins: modules with the names, signatures and numbers of other packages.

    from fused_ssim.compat.pytorch_msssim import ssim, ms_ssim, SSIM, MS_SSIM

None of them needs the package that it stands in for.
"""


class ArgumentError(ValueError, AssertionError, RuntimeError):
    """What the other packages assert, or leave to torch to refuse."""
