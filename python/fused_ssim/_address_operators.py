"""The operators as Python functions over the C interface, which takes tensors by their addresses.

For a torch that libfused_ssim can't be loaded beside, 2.1 to 2.9: the same schemas, and the same
kernels behind them.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_ssim import _C, _results, _validation
from fused_ssim._library import (
    BuildFacts,
    CudaLibrary,
    cpu_info,
    cuda_does_not_load,
    library_path,
)
from fused_ssim._parameters import REDUCTIONS, STATISTICS, Definition, axis_taps
from fused_ssim._pixels import sum_dtype
from fused_ssim._results import Call
from fused_ssim._torch_private import Library, cuda_stream, sees_operators
from fused_ssim._windows import STANDARD_TAPS


class _DTypes(dict[torch.dtype, int]):
    def __missing__(self, dtype: torch.dtype) -> int:
        raise TypeError(
            "fused_ssim: expected dtype uint8, float16, bfloat16, float32 or float64, got "
            f"{dtype}; convert with .float()"
        )


# As fused_ssim/kernels.h numbers them; a mask of bools is one of bytes.
_DTYPES = _DTypes(
    {
        torch.bool: 0,
        torch.uint8: 0,
        torch.float16: 1,
        torch.bfloat16: 2,
        torch.float32: 3,
        torch.float64: 4,
    }
)
_CHANNEL = REDUCTIONS.index("channel")
_SUM = REDUCTIONS.index("sum")

_Image = tuple[int, tuple[int, ...], int]


def _load_cuda_kernels() -> tuple[CudaLibrary, _C.CudaInfo | None]:
    path = library_path("fused_ssim_cuda_kernels")
    if not path.exists():
        return CudaLibrary(False, "this installation of fused_ssim was built without CUDA"), None
    try:
        info = _C.load_cuda_kernels(str(path))
    except OSError as error:
        return cuda_does_not_load(path, error), None
    if torch.version.cuda is None:
        return CudaLibrary(False, f"torch {torch.__version__} has no CUDA"), info
    return CudaLibrary(True, "loaded"), info


# ---- what the C interface takes -----------------------------------------------------------------


def _axes(numbers: Sequence[int], missing: int) -> tuple[int, ...]:
    """Those of [B, C, (D,) (H,) W], with `missing` for the axes that are not there."""
    return (*numbers[:2], *(missing,) * (5 - len(numbers)), *numbers[2:])


def _image(tensor: Tensor) -> _Image:
    return tensor.data_ptr(), _axes(tensor.stride(), 0), _DTYPES[tensor.dtype]


def _gradient(tensor: Tensor) -> _Image | None:
    return _image(tensor) if tensor.numel() else None


def _check_sizes(window_sizes: tuple[int, ...]) -> None:
    if len(window_sizes) != 3 or not all(1 <= size < 1 << 31 for size in window_sizes):
        raise ValueError(
            f"fused_ssim: expected window_sizes of depth, height and width, got {window_sizes}"
        )


@functools.lru_cache(maxsize=256)
def _windows(taps: tuple[float, ...], sizes: tuple[int, ...]) -> Any:
    """The taps of each axis, None where it is not filtered."""
    _check_sizes(sizes)
    filtered = [size for size in sizes if size > 1]
    if sum(filtered) != len(taps) and any(size != len(taps) for size in filtered):
        raise ValueError(
            f"fused_ssim: expected taps of every window, got {len(taps)} for windows of {sizes}"
        )
    depth, height, width = sizes
    by_axis = axis_taps(Definition(taps, (depth, height, width), 0.0, 0.0, False, 0, 0))
    return tuple(of_axis if len(of_axis) > 1 else None for of_axis in by_axis)


def _windows_of(call: Call) -> Any:
    return _windows(tuple(call.taps) or STANDARD_TAPS, tuple(call.window_sizes))


def _geometry(call: Call) -> dict[str, Any]:
    """Images, windows and mask, as arguments of functions of `_C`."""
    return {
        "sizes": _axes(call.img1.shape, 1),
        "img1": _image(call.img1),
        "img2": _image(call.img2),
        "windows": _windows_of(call),
        "padding": int(call.valid),
        "mask": None if call.mask is None else _image(call.mask),
    }


def _on_device(function: Callable[..., None], like: Tensor, **arguments: Any) -> None:
    """Calls a function of `_C` on the device of `like`, and on its current stream."""
    if not like.is_cuda:
        return function(**arguments)
    index = like.get_device()
    with (
        contextlib.nullcontext()
        if index == torch.cuda.current_device()
        else torch.cuda.device(index)
    ):
        return function(**arguments, stream=cuda_stream(index))


def _run(call: Call, **request: Any) -> None:
    img1 = call.img1
    # torch's allocator keeps the memory for the stream's later work when the tensors are gone.
    workspaces = []

    def allocate(size: int) -> int:
        workspaces.append(torch.empty(size, dtype=torch.uint8, device=img1.device))
        return workspaces[-1].data_ptr()

    if img1.is_cuda:
        request["allocate"] = allocate
    if call.stabilizers is not None:
        request["stabilizers"] = call.stabilizers.data_ptr()
    _on_device(
        _C.run,
        img1,
        **_geometry(call),
        c1=call.c1,
        c2=call.c2,
        statistic=request.pop("statistic", call.statistic),
        uint8_divisor=call.uint8_divisor,
        mask_mode=call.mask_mode,
        threads=torch.get_num_threads(),
        **request,
    )


def _mask_sums(call: Call, reduction: int) -> Tensor | None:
    """What means under a mask are divided by."""
    # On CUDA masks are refused by run() itself.
    if call.mask is None or reduction == _SUM or call.img1.is_cuda:
        return None
    sums = _results.value(call, call.img1.shape[: _results.leading_axes(reduction)])
    _C.mask_sums(**_geometry(call), sums=sums.data_ptr(), reduction=reduction)
    return sums


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


# ---- the operators ------------------------------------------------------------------------------


def _ssim(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    value, gradient1, gradient2 = results = _results.ssim(call)
    sums = _mask_sums(call, call.reduction)
    request = {
        "reduction": call.reduction,
        "statistic_weight": call.statistic_weight,
        "l1_weight": call.l1_weight,
        "l2_weight": call.l2_weight,
        "offset": call.offset,
        "mask_sums": _address(sums),
    }
    grad1, grad2 = _gradient(gradient1), _gradient(gradient2)
    of_sum1, of_sum2 = _is_of_sum(call.img1), _is_of_sum(call.img2)
    if grad1 is not None and grad2 is not None and of_sum1 != of_sum2:
        # Two passes: one gradient is that of the mean, the other that of the sum.
        _run(call, grad2=grad2, gradient_of_sum=of_sum2, **request)
        grad2 = None
    _run(
        call,
        value=value.data_ptr(),
        gradient_of_sum=of_sum2 if grad1 is None else of_sum1,
        grad1=grad1,
        grad2=grad2,
        **request,
    )
    return results


def _is_of_sum(image: Tensor) -> bool:
    """Whether its gradients are those of a sum: those of a mean are below what float16 can hold."""
    return image.dtype == torch.float16


def _ssim_and_mse(call: Call) -> tuple[Tensor, Tensor]:
    value, mse = _results.ssim_and_mse(call)
    sums = _mask_sums(call, _CHANNEL)
    _run(
        call,
        value=value.data_ptr(),
        mse=mse.data_ptr(),
        reduction=_CHANNEL,
        mask_sums=_address(sums),
    )
    return value, mse


def _ssim_map(call: Call) -> Tensor:
    result = _results.ssim_map(call)
    _run(call, map=result.data_ptr())
    return result


def _ssim_map_backward(call: Call) -> tuple[Tensor, Tensor]:
    gradient1, gradient2 = _results.ssim_map_backward(call)
    upstream = call.map_gradient
    shape = _results.map_shape(call.img1.shape, call.window_sizes, call.valid)
    if list(upstream.shape) != shape or upstream.device != call.img1.device:
        raise ValueError(
            f"fused_ssim: expected map_gradient of shape {shape} on {call.img1.device}, got "
            f"{list(upstream.shape)} on {upstream.device}"
        )
    if call.wants_gradient1 or call.wants_gradient2:
        grad1, grad2 = _gradient(gradient1), _gradient(gradient2)
        _run(call, map_gradient=_image(upstream), grad1=grad1, grad2=grad2)
    return gradient1, gradient2


def _check_fits(
    name: str, tensor: Tensor, elements: int, dtype: torch.dtype, device: torch.device
) -> None:
    if (
        tensor.numel() != elements
        or tensor.dtype != dtype
        or tensor.device != device
        or not tensor.is_contiguous()
    ):
        raise ValueError(
            f"fused_ssim: expected contiguous {name} of {elements} elements of {dtype} on "
            f"{device}, got shape {list(tensor.shape)} of {tensor.dtype} on {tensor.device}"
        )


@functools.lru_cache(maxsize=256)
def _reduction(
    shape: tuple[int, ...], reduction: int, window_sizes: tuple[int, ...], valid: bool
) -> tuple[int, int]:
    _results.leading_axes(reduction)  # checks it
    _check_sizes(window_sizes)
    return _C.reduction(_axes(_results.map_shape(shape, window_sizes, valid), 1), reduction)


def _scale_gradient(call: Call) -> Tensor:
    result = torch.empty_like(call.gradient)
    _scale_into(call, result)
    return result


def _scale_into(call: Call, result: Tensor) -> None:
    gradient, upstream = call.gradient, call.upstream
    if gradient.numel() == 0:
        return
    shape = gradient.shape
    values, divisor = _reduction(shape, call.reduction, tuple(call.window_sizes), call.valid)
    _check_fits("upstream", upstream, values, sum_dtype(gradient, gradient), gradient.device)
    _on_device(
        _C.scale,
        gradient,
        sizes=_axes(shape, 1),
        gradient=_image(gradient),
        out=_image(result),
        upstream=upstream.data_ptr(),
        reduction=call.reduction,
        factor=1.0 / divisor if _is_of_sum(gradient) else 1.0,
        threads=torch.get_num_threads(),
    )


# ---- MS-SSIM ------------------------------------------------------------------------------------


def _split(coarser: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The gradients of all scales but the finest, which lie one behind the other."""
    if coarser.numel() == 0:
        return [coarser] * len(shapes)
    parts = torch.split(coarser, [math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _ms_ssim(call: Call) -> tuple[Tensor, ...]:
    if call.mask is not None:
        raise ValueError("fused_ssim: expected no mask with several scales, got one")
    if not call.exponents:
        raise ValueError("fused_ssim: expected an exponent for each scale, got none")
    results = _results.ms_ssim(call)
    product, derivatives, gradient1, coarser1, gradient2, coarser2 = results
    scales = len(call.exponents)
    shapes = _results.scale_shapes(call.img1.shape, scales, call.odd_sizes)
    means = _results.value(call, [scales, *shapes[0][:2]])
    units = [
        [gradient, *_split(coarser, shapes[1:])]
        for gradient, coarser in ((gradient1, coarser1), (gradient2, coarser2))
    ]
    # Gradients are those of sums, which float16 can hold; the derivatives are divided instead.
    pixels = []
    for scale, shape in enumerate(shapes):
        coarsest = scale + 1 == scales
        grad1, grad2 = (_gradient(of_image[scale]) for of_image in units)
        _run(
            call,
            statistic=call.statistic if coarsest else STATISTICS.index("contrast"),
            reduction=_CHANNEL,
            gradient_of_sum=True,
            value=means[scale].data_ptr(),
            grad1=grad1,
            grad2=grad2,
        )
        cropped = _results.map_shape(shape, call.window_sizes, call.valid)
        pixels.append(float(math.prod(cropped[2:])))
        if not coarsest:
            call = _halved(call, shapes[scale + 1])
    _enqueue_factors(call, pixels, means, product, derivatives)
    return results


def _halved(call: Call, shape: Sequence[int]) -> Call:
    """The same call of images of half the size."""
    halves = _results.value(call, [2, *shape])
    _on_device(
        _C.halve,
        call.img1,
        sizes=_axes(call.img1.shape, 1),
        images=(_image(call.img1), _image(call.img2)),
        halves=[half.data_ptr() for half in halves],
        spatial_dims=len(shape) - 2,
        odd_sizes=call.odd_sizes,
        uint8_divisor=call.uint8_divisor,
        dtype=_DTYPES[halves.dtype],
        threads=torch.get_num_threads(),
    )
    return call._replace(img1=halves[0], img2=halves[1])


def _enqueue_factors(
    call: Call, pixels: list[float], means: Tensor, product: Tensor, derivatives: Tensor
) -> None:
    _on_device(
        _C.factors,
        call.img1,
        exponents=list(call.exponents),
        divisors=pixels,
        planes=product.numel(),
        means=means.data_ptr(),
        products=product.data_ptr(),
        derivatives=derivatives.data_ptr() if derivatives.numel() else 0,
        dtype=_DTYPES[means.dtype],
        negative=call.negative,
    )


def _ms_ssim_backward(call: Call) -> Tensor:
    result = torch.empty_like(call.gradient)
    _accumulate_into(call, result, torch.empty_like(call.coarser))
    return result


def _accumulate_into(call: Call, result: Tensor, coarser_result: Tensor) -> None:
    """From the coarsest scale to the finest; what is written may be what is read."""
    gradient = call.gradient
    if gradient.numel() == 0:
        return
    device, dtype = gradient.device, sum_dtype(gradient, gradient)
    planes = math.prod(gradient.shape[:2])
    scales = call.derivatives.numel() // planes
    shapes = _results.scale_shapes(gradient.shape, scales, call.odd_sizes)
    _check_fits("upstream", call.upstream, planes, dtype, device)
    _check_fits("derivatives", call.derivatives, max(1, scales) * planes, torch.float64, device)
    _check_fits("coarser", call.coarser, sum(map(math.prod, shapes[1:])), dtype, device)
    units = [gradient, *_split(call.coarser, shapes[1:])]
    results = [result, *_split(coarser_result, shapes[1:])]
    coarser = 0
    for scale in reversed(range(scales)):
        unit, out = units[scale], results[scale]
        _on_device(
            _C.accumulate,
            gradient,
            sizes=_axes(shapes[scale], 1),
            gradient=_image(unit),
            out=_image(out),
            upstream=call.upstream.data_ptr(),
            derivatives=call.derivatives[scale].data_ptr(),
            coarser=coarser,
            spatial_dims=gradient.dim() - 2,
            odd_sizes=call.odd_sizes,
            threads=torch.get_num_threads(),
        )
        coarser = out.data_ptr()


# ---- registration -------------------------------------------------------------------------------

_OPERATORS: dict[str, Callable[[Call], Any]] = {
    "ssim": _ssim,
    "ssim_and_mse": _ssim_and_mse,
    "ssim_map": _ssim_map,
    "ssim_map_backward": _ssim_map_backward,
    "scale_gradient": _scale_gradient,
    "scale_gradient_": lambda call: _scale_into(call, call.gradient),
    "ms_ssim": _ms_ssim,
    "ms_ssim_backward": _ms_ssim_backward,
    "ms_ssim_backward_": lambda call: _accumulate_into(call, call.gradient, call.coarser),
}


def eager(operator: Any) -> Callable[..., Any]:
    """The operator without the dispatcher where nobody else wants to see it.

    It takes checked arguments, below autograd.
    """
    call, compute = _results.call_type(operator), _OPERATORS[_results.name_of(operator)]

    def directly(*arguments: Any) -> Any:
        if sees_operators(arguments):
            return operator(*arguments)
        return compute(call(*arguments))

    return directly


def _register(library: Any, schema: str, devices: list[str]) -> None:
    name = schema.partition("(")[0]
    library.define(schema)
    operator = getattr(torch.ops.fused_ssim, name).default
    compute = _OPERATORS[name]

    def by_position(*arguments: Any) -> Any:
        call = _results.call_type(operator)(*arguments)
        _check(call)
        return compute(call)

    for device in devices:
        library.impl(name, by_position, device)


def _check(call: Call) -> None:
    """What public functions check before, for all other callers."""
    if not hasattr(call, "img1"):
        return
    img1, img2 = call.img1, call.img2
    _validation.check_images(img1, img2, spatial_dims=min(max(img1.dim() - 2, 1), 3))
    _windows_of(call)
    if call.stabilizers is not None:
        dtype = sum_dtype(img1, img2)
        _check_fits("stabilizers", call.stabilizers, 2 * img1.shape[0], dtype, img1.device)
    if call.mask is not None and (call.mask.shape != img1.shape or call.mask.device != img1.device):
        raise ValueError(
            f"fused_ssim: expected mask of shape {list(img1.shape)} on {img1.device}, got "
            f"{list(call.mask.shape)} on {call.mask.device}"
        )


cuda_library, _cuda_info = _load_cuda_kernels()
build_facts = BuildFacts(
    compiler=cpu_info["compiler"],
    torch_version=None,
    cuda_toolkit=None if _cuda_info is None else _cuda_info["toolkit"],
    cuda_architectures=None if _cuda_info is None else _cuda_info["architectures"],
)
# Kept: the operators live as long as this object.
_library = Library("fused_ssim", "DEF")
for _schema in _C.operator_schemas():
    _register(_library, _schema, ["CPU", "CUDA"] if cuda_library.loaded else ["CPU"])
