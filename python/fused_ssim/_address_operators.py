"""The operators as Python functions over the C interface, which takes tensors by their addresses.

For a torch that libfused_ssim can't be loaded beside, 2.1 to 2.9: the same schemas, and the same
kernels behind them.
"""

from __future__ import annotations

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


def _image(tensor: Tensor) -> _Image:
    return tensor.data_ptr(), tensor.stride(), _DTYPES[tensor.dtype]


def _image_or_none(tensor: Tensor | None) -> _Image | None:
    return None if tensor is None or tensor.numel() == 0 else _image(tensor)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


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
    sizes = _results.window_sizes(call.window_sizes, call.img1.dim())
    return _windows(tuple(call.taps) or STANDARD_TAPS, tuple(sizes))


def _on_device(function: Callable[..., None], like: Tensor, *arguments: Any) -> None:
    """Calls a function of `_C` on the device of `like`, and on its current stream."""
    if not like.is_cuda:
        return function(*arguments)
    index = like.get_device()
    if index == torch.cuda.current_device():
        return function(*arguments, cuda_stream(index))
    with torch.cuda.device(index):
        return function(*arguments, cuda_stream(index))


def _run(
    call: Call,
    *,
    statistic: int | None = None,
    reduction: int = 0,
    mask_sums: Tensor | None = None,
    gradient_of_sum: bool = False,
    weights: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0),
    value: Tensor | None = None,
    mse: Tensor | None = None,
    map: Tensor | None = None,
    grad1: _Image | None = None,
    grad2: _Image | None = None,
    map_gradient: Tensor | None = None,
) -> None:
    """`weights`: those of the statistic, of L1 and L2, and the offset."""
    img1 = call.img1
    # torch's allocator keeps the memory for the stream's later work when the tensors are gone.
    workspaces = []

    def allocate(size: int) -> int:
        workspaces.append(torch.empty(size, dtype=torch.uint8, device=img1.device))
        return workspaces[-1].data_ptr()

    _on_device(
        _C.run,
        img1,
        img1.shape,
        _image(img1),
        _image(call.img2),
        _windows_of(call),
        call.c1,
        call.c2,
        call.valid,
        call.statistic if statistic is None else statistic,
        call.uint8_divisor,
        _address(call.stabilizers),
        _image_or_none(call.mask),
        call.mask_mode,
        _address(mask_sums),
        reduction,
        gradient_of_sum,
        *weights,
        _address(value),
        _address(mse),
        _address(map),
        grad1,
        grad2,
        _image_or_none(map_gradient),
        allocate,
        torch.get_num_threads(),
    )


def _mask_sums(call: Call, reduction: int) -> Tensor | None:
    """What means under a mask are divided by."""
    # On CUDA run() adds them up itself.
    if call.mask is None or reduction == _SUM or call.img1.is_cuda:
        return None
    sums = _results.reduced(call, reduction)
    _C.mask_sums(
        call.img1.shape,
        _image(call.img1),
        _image(call.img2),
        sums.data_ptr(),
        mask=_image(call.mask),
        windows=_windows_of(call),
        padding=call.valid,
        reduction=reduction,
    )
    return sums


# ---- the operators ------------------------------------------------------------------------------


def _ssim(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    value, gradient1, gradient2 = results = _results.ssim(call)
    sums = _mask_sums(call, call.reduction)
    weights = call.statistic_weight, call.l1_weight, call.l2_weight, call.offset
    grad1, grad2 = _image_or_none(gradient1), _image_or_none(gradient2)
    of_sum1, of_sum2 = _is_of_sum(call.img1), _is_of_sum(call.img2)
    if grad1 is not None and grad2 is not None and of_sum1 != of_sum2:
        # Two passes: one gradient is that of the mean, the other that of the sum.
        _run(
            call,
            reduction=call.reduction,
            mask_sums=sums,
            gradient_of_sum=of_sum2,
            weights=weights,
            grad2=grad2,
        )
        grad2 = None
    _run(
        call,
        reduction=call.reduction,
        mask_sums=sums,
        gradient_of_sum=of_sum2 if grad1 is None else of_sum1,
        weights=weights,
        value=value,
        grad1=grad1,
        grad2=grad2,
    )
    return results


def _is_of_sum(image: Tensor) -> bool:
    """Whether its gradients are those of a sum: those of a mean are below what float16 can hold."""
    return image.dtype == torch.float16


def _ssim_and_mse(call: Call) -> tuple[Tensor, Tensor]:
    value, mse = _results.ssim_and_mse(call)
    sums = _mask_sums(call, _CHANNEL)
    _run(call, value=value, mse=mse, reduction=_CHANNEL, mask_sums=sums)
    return value, mse


def _ssim_map(call: Call) -> Tensor:
    result = _results.ssim_map(call)
    _run(call, map=result)
    return result


def _ssim_map_backward(call: Call) -> tuple[Tensor, Tensor]:
    gradient1, gradient2 = _results.ssim_map_backward(call)
    if call.wants_gradient1 or call.wants_gradient2:
        _run(
            call,
            map_gradient=call.map_gradient,
            grad1=_image_or_none(gradient1),
            grad2=_image_or_none(gradient2),
        )
    return gradient1, gradient2


def _divisor(call: Call) -> int:
    """How many pixels each value is the mean of, whose gradient this is."""
    _results.leading_axes(call.reduction)  # refuses numbers that stand for none
    _check_sizes(tuple(_results.window_sizes(call.window_sizes, call.gradient.dim())))
    if call.gradient.numel() == 0:
        return 1
    shape = _results.map_shape(call.gradient.shape, call.window_sizes, call.valid)
    return _C.reduction(shape, call.reduction)[1]


def _check_fits(
    name: str, tensor: Tensor, elements: int, image: Tensor, dtype: torch.dtype | None = None
) -> None:
    """A tensor beside an image, and in the dtype of its sums where no other is given."""
    dtype = sum_dtype(image, image) if dtype is None else dtype
    if (
        tensor.numel() != elements
        or tensor.dtype != dtype
        or tensor.device != image.device
        or not tensor.is_contiguous()
    ):
        raise ValueError(
            f"fused_ssim: expected contiguous {name} of {elements} elements of {dtype} on "
            f"{image.device}, got shape {list(tensor.shape)} of {tensor.dtype} on {tensor.device}"
        )


def _scale_gradient(call: Call) -> Tensor:
    result = torch.empty_like(call.gradient)
    _scale_into(call, result)
    return result


def _scale_into(call: Call, result: Tensor) -> None:
    gradient, upstream = call.gradient, call.upstream
    if gradient.numel() == 0:
        return
    shape, image = gradient.shape, _image(gradient)
    axes = _results.leading_axes(call.reduction)
    _check_fits("upstream", upstream, math.prod(shape[:axes]) if axes else 1, gradient)
    _on_device(
        _C.scale,
        gradient,
        shape,
        image,
        image if result is gradient else _image(result),
        upstream.data_ptr(),
        call.reduction,
        1.0 / _divisor(call) if _is_of_sum(gradient) else 1.0,
        torch.get_num_threads(),
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
        grad1, grad2 = (_image_or_none(of_image[scale]) for of_image in units)
        _run(
            call,
            statistic=call.statistic if coarsest else STATISTICS.index("contrast"),
            reduction=_CHANNEL,
            gradient_of_sum=True,
            value=means[scale],
            grad1=grad1,
            grad2=grad2,
        )
        cropped = _results.map_shape(shape, call.window_sizes, call.valid)
        pixels.append(float(math.prod(cropped[2:])))
        if not coarsest:
            call = _halved(call, shapes[scale + 1])
    _on_device(
        _C.factors,
        call.img1,
        list(call.exponents),
        pixels,
        product.numel(),
        means.data_ptr(),
        product.data_ptr(),
        derivatives.data_ptr() if derivatives.numel() else 0,
        _DTYPES[means.dtype],
        call.negative,
    )
    return results


def _halved(call: Call, shape: Sequence[int]) -> Call:
    """The same call of images of half the size."""
    halves = _results.value(call, [2, *shape])
    _on_device(
        _C.halve,
        call.img1,
        call.img1.shape,
        (_image(call.img1), _image(call.img2)),
        [half.data_ptr() for half in halves],
        len(shape) - 2,
        call.odd_sizes,
        call.uint8_divisor,
        _DTYPES[halves.dtype],
        torch.get_num_threads(),
    )
    return call._replace(img1=halves[0], img2=halves[1])


def _ms_ssim_backward(call: Call) -> Tensor:
    result = torch.empty_like(call.gradient)
    _accumulate_into(call, result, torch.empty_like(call.coarser))
    return result


def _accumulate_into(call: Call, result: Tensor, coarser_result: Tensor) -> None:
    """From the coarsest scale to the finest; what is written may be what is read."""
    gradient = call.gradient
    if gradient.numel() == 0:
        return
    planes = math.prod(gradient.shape[:2])
    scales = max(1, call.derivatives.numel() // planes)
    shapes = _results.scale_shapes(gradient.shape, scales, call.odd_sizes)
    _check_fits("upstream", call.upstream, planes, gradient)
    _check_fits("coarser", call.coarser, sum(map(math.prod, shapes[1:])), gradient)
    _check_fits("derivatives", call.derivatives, scales * planes, gradient, torch.float64)
    derivatives = call.derivatives.view(scales, planes)
    units = [gradient, *_split(call.coarser, shapes[1:])]
    results = [result, *_split(coarser_result, shapes[1:])]
    coarser = 0
    for scale in reversed(range(scales)):
        _on_device(
            _C.accumulate,
            gradient,
            shapes[scale],
            _image(units[scale]),
            _image(results[scale]),
            call.upstream.data_ptr(),
            derivatives[scale].data_ptr(),
            coarser,
            gradient.dim() - 2,
            call.odd_sizes,
            torch.get_num_threads(),
        )
        coarser = results[scale].data_ptr()


# ---- checks of calls that come from elsewhere ---------------------------------------------------


def _check_images(call: Call) -> None:
    img1, img2 = call.img1, call.img2
    _validation.check_images(img1, img2, spatial_dims=min(max(img1.dim() - 2, 1), 3))
    _windows_of(call)
    if call.stabilizers is not None:
        dtype = sum_dtype(img1, img2)
        _check_fits("stabilizers", call.stabilizers, 2 * img1.shape[0], img1, dtype)
    if call.mask is not None:
        _check_shape("mask", call.mask, img1.shape, img1.device)


def _check_shape(name: str, tensor: Tensor, shape: Sequence[int], device: torch.device) -> None:
    if list(tensor.shape) != list(shape) or tensor.device != device:
        raise ValueError(
            f"fused_ssim: expected {name} of shape {list(shape)} on {device}, got "
            f"{list(tensor.shape)} on {tensor.device}"
        )


def _check_map_gradient(call: Call) -> None:
    _check_images(call)
    shape = _results.map_shape(call.img1.shape, call.window_sizes, call.valid)
    _check_shape("map_gradient", call.map_gradient, shape, call.img1.device)


# ---- registration -------------------------------------------------------------------------------


def _nothing_more(call: Call) -> None:
    """What computes it has all checks."""


_OPERATORS: dict[str, tuple[Callable[[Call], object], Callable[[Call], Any]]] = {
    "ssim": (_check_images, _ssim),
    "ssim_and_mse": (_check_images, _ssim_and_mse),
    "ssim_map": (_check_images, _ssim_map),
    "ssim_map_backward": (_check_map_gradient, _ssim_map_backward),
    "scale_gradient": (_divisor, _scale_gradient),
    "scale_gradient_": (_divisor, lambda call: _scale_into(call, call.gradient)),
    "ms_ssim": (_check_images, _ms_ssim),
    "ms_ssim_backward": (_nothing_more, _ms_ssim_backward),
    "ms_ssim_backward_": (
        _nothing_more,
        lambda call: _accumulate_into(call, call.gradient, call.coarser),
    ),
}
"""What checks a call, which eager mode has done before, and what computes it."""


def ask_for_lacking_memory(error: RuntimeError) -> None:
    """Nothing to be done: these operators allocate in Python, where torch's own error comes out."""


def eager(operator: Any) -> Callable[..., Any]:
    """The operator without the dispatcher where nobody else wants to see it.

    It takes checked arguments, below autograd.
    """
    call_type = _results.call_type(operator)
    _, compute = _OPERATORS[_results.name_of(operator)]
    tensors = sum(str(argument.type) == "Tensor" for argument in operator._schema.arguments)

    def directly(*arguments: Any) -> Any:
        if sees_operators(arguments) or arguments[0].is_meta:
            return operator(*arguments)
        for tensor in arguments[:tensors]:
            if tensor.is_neg():  # the dispatcher resolves that
                return operator(*arguments)
        return compute(call_type(*arguments))

    return directly


def _register(library: Any, schema: str, devices: list[str]) -> None:
    name = schema.partition("(")[0]
    library.define(schema)
    operator = getattr(torch.ops.fused_ssim, name).default
    check, compute = _OPERATORS[name]

    def by_position(*arguments: Any) -> Any:
        call = _results.call_type(operator)(*arguments)
        check(call)
        return compute(call)

    for device in devices:
        library.impl(name, by_position, device)


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
