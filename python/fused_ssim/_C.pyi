from collections.abc import Callable, Sequence
from typing import TypeAlias, TypedDict

from fused_ssim._library import CpuInfo

_Image: TypeAlias = tuple[int, Sequence[int], int] | None

class CudaInfo(TypedDict):
    toolkit: str
    architectures: str

def cpu_info() -> CpuInfo: ...
def gaussian_taps(size: int, sigma: float) -> list[float]: ...
def load_cuda_kernels(path: str) -> CudaInfo: ...
def operator_schemas() -> tuple[str, ...]: ...
def reduction(map_sizes: Sequence[int], reduction: int) -> tuple[int, int]: ...
def run(
    sizes: Sequence[int],
    img1: _Image,
    img2: _Image,
    windows: Sequence[Sequence[float] | None],
    c1: float,
    c2: float,
    padding: int = 0,
    statistic: int = 0,
    uint8_divisor: int = 255,
    stabilizers: int = 0,
    mask: _Image = None,
    mask_mode: int = 0,
    mask_sums: int = 0,
    reduction: int = 0,
    gradient_of_sum: bool = False,
    statistic_weight: float = 1.0,
    l1_weight: float = 0.0,
    l2_weight: float = 0.0,
    offset: float = 0.0,
    value: int = 0,
    mse: int = 0,
    map: int = 0,
    grad1: _Image = None,
    grad2: _Image = None,
    map_gradient: _Image = None,
    allocate: Callable[[int], int] | None = None,
    threads: int = 0,
    stream: int | None = None,
) -> None: ...
def mask_sums(
    sizes: Sequence[int],
    img1: _Image,
    img2: _Image,
    sums: int,
    *,
    mask: _Image,
    windows: Sequence[Sequence[float] | None],
    padding: int = 0,
    reduction: int = 0,
) -> None: ...
def scale(
    sizes: Sequence[int],
    gradient: _Image,
    out: _Image,
    upstream: int,
    reduction: int = 0,
    factor: float = 1.0,
    threads: int = 1,
    stream: int | None = None,
) -> None: ...
def halve(
    sizes: Sequence[int],
    images: Sequence[_Image],
    halves: Sequence[int],
    spatial_dims: int,
    odd_sizes: int,
    uint8_divisor: int,
    dtype: int,
    threads: int = 1,
    stream: int | None = None,
) -> None: ...
def accumulate(
    sizes: Sequence[int],
    gradient: _Image,
    out: _Image,
    upstream: int,
    derivatives: int,
    coarser: int,
    spatial_dims: int,
    odd_sizes: int,
    threads: int = 1,
    stream: int | None = None,
) -> None: ...
def factors(
    exponents: Sequence[float],
    divisors: Sequence[float],
    planes: int,
    means: int,
    products: int,
    derivatives: int,
    dtype: int,
    negative: int,
    stream: int | None = None,
) -> None: ...
