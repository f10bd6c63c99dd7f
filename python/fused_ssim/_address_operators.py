"""The operators as Python functions over the C interface, which takes tensors by their addresses.

For a torch that libfused_ssim can't be loaded beside, 2.1 to 2.9: the same schemas, and the same
kernels behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
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
from fused_ssim._parameters import REDUCTIONS, Definition, axis_taps
from fused_ssim._pixels import sum_dtype
from fused_ssim._windows import STANDARD_TAPS

# As fused_ssim/kernels.h numbers them; a mask of bools is one of bytes.
_DTYPES = {
    torch.bool: 0,
    torch.uint8: 0,
    torch.float16: 1,
    torch.bfloat16: 2,
    torch.float32: 3,
    torch.float64: 4,
}


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


def _axes(numbers: Iterable[int], missing: int) -> tuple[int, ...]:
    """Those of [B, C, (D,) (H,) W], with `missing` for the axes that are not there."""
    batch, channel, *spatial = numbers
    return batch, channel, *[missing] * (3 - len(spatial)), *spatial


def _image(tensor: Tensor) -> tuple[int, tuple[int, ...], int]:
    return tensor.data_ptr(), _axes(tensor.stride(), 0), _DTYPES[tensor.dtype]


def _gradient(tensor: Tensor) -> tuple[int, tuple[int, ...], int] | None:
    return _image(tensor) if tensor.numel() else None


def _problem(call: SimpleNamespace) -> dict[str, Any]:
    """The images and the definition of SSIM, as arguments of `_C.run`."""
    img1, img2 = call.img1, call.img2
    _validation.check_images(img1, img2, spatial_dims=img1.dim() - 2)
    definition = Definition(
        tuple(call.taps) or STANDARD_TAPS,
        tuple(call.window_sizes),
        call.c1,
        call.c2,
        call.valid,
        call.statistic,
        call.uint8_divisor,
    )
    problem = {
        "sizes": _axes(img1.shape, 1),
        "img1": _image(img1),
        "img2": _image(img2),
        "windows": [taps if len(taps) > 1 else None for taps in axis_taps(definition)],
        "c1": call.c1,
        "c2": call.c2,
        "padding": int(call.valid),
        "statistic": call.statistic,
        "uint8_divisor": call.uint8_divisor,
    }
    if call.stabilizers is not None:
        _check_fits("stabilizers", call.stabilizers, (img1.shape[0], 2), sum_dtype(img1, img2))
        problem["stabilizers"] = call.stabilizers.data_ptr()
    return problem


def _check_fits(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != dtype or not tensor.is_contiguous():
        raise ValueError(
            f"fused_ssim: expected {name} contiguous, {list(shape)} of {dtype}, got "
            f"{list(tensor.shape)} of {tensor.dtype}"
        )


def _on_device(function: Callable[..., None], like: Tensor, **arguments: Any) -> None:
    """Calls a function of `_C` on the device and the current stream of `like`."""
    if not like.is_cuda:
        return function(**arguments)
    with torch.cuda.device(like.device):
        return function(**arguments, stream=torch.cuda.current_stream().cuda_stream)


def _run(call: SimpleNamespace, **request: Any) -> None:
    # torch's allocator keeps the memory for the stream's later work when the tensors are gone.
    workspaces = []

    def allocate(size: int) -> int:
        workspaces.append(torch.empty(size, dtype=torch.uint8, device=call.img1.device))
        return workspaces[-1].data_ptr()

    if call.img1.is_cuda:
        request["allocate"] = allocate
    else:
        request["threads"] = torch.get_num_threads()
    _on_device(_C.run, call.img1, **_problem(call), **request)


def _ssim(call: SimpleNamespace) -> tuple[Tensor, Tensor, Tensor]:
    value, gradient1, gradient2 = results = _results.ssim(call)
    request = {
        "reduction": call.reduction,
        "statistic_weight": call.statistic_weight,
        "l1_weight": call.l1_weight,
        "l2_weight": call.l2_weight,
        "offset": call.offset,
    }
    gradients = {"grad1": _gradient(gradient1), "grad2": _gradient(gradient2)}
    of_sum = [_is_of_sum(image) for image in (call.img1, call.img2)]
    if None not in gradients.values() and of_sum[0] != of_sum[1]:
        # Two passes: one gradient is that of the mean, the other that of the sum.
        _run(call, grad2=gradients.pop("grad2"), gradient_of_sum=of_sum[1], **request)
    wanted = [gradients.get(name) is not None for name in ("grad1", "grad2")]
    _run(
        call,
        value=value.data_ptr(),
        gradient_of_sum=any(both and wants for both, wants in zip(of_sum, wanted, strict=True)),
        **gradients,
        **request,
    )
    return results


def _is_of_sum(image: Tensor) -> bool:
    """Whether its gradients are those of a sum: those of a mean are below what float16 can hold."""
    return image.dtype == torch.float16


def _ssim_and_mse(call: SimpleNamespace) -> tuple[Tensor, Tensor]:
    value, mse = _results.ssim_and_mse(call)
    channel = REDUCTIONS.index("channel")
    _run(call, value=value.data_ptr(), mse=mse.data_ptr(), reduction=channel)
    return value, mse


def _ssim_map(call: SimpleNamespace) -> Tensor:
    result = _results.ssim_map(call)
    _run(call, map=result.data_ptr())
    return result


def _ssim_map_backward(call: SimpleNamespace) -> tuple[Tensor, Tensor]:
    gradient1, gradient2 = _results.ssim_map_backward(call)
    shape, dtype = _results.map_shape(call), sum_dtype(call.img1, call.img2)
    upstream = call.map_gradient
    if list(upstream.shape) != shape or upstream.dtype != dtype:
        raise ValueError(
            f"fused_ssim: expected map_gradient of shape {shape} and {dtype}, got "
            f"{list(upstream.shape)} and {upstream.dtype}"
        )
    if call.wants_gradient1 or call.wants_gradient2:
        grad1, grad2 = _gradient(gradient1), _gradient(gradient2)
        _run(call, map_gradient=_image(upstream), grad1=grad1, grad2=grad2)
    return gradient1, gradient2


def _scale_gradient(call: SimpleNamespace) -> Tensor:
    result = torch.empty_like(call.gradient)
    _scale_into(call, result)
    return result


def _scale_into(call: SimpleNamespace, result: Tensor) -> None:
    gradient = call.gradient
    if gradient.numel() == 0:
        return
    sizes = _axes(gradient.shape, 1)
    windows = call.window_sizes if call.valid else (1, 1, 1)
    map_sizes = (
        *sizes[:2],
        *[size - taps + 1 for size, taps in zip(sizes[2:], windows, strict=True)],
    )
    values, divisor = _C.reduction(map_sizes, call.reduction)
    dtype = sum_dtype(gradient, gradient)
    if call.upstream.numel() != values or call.upstream.device != gradient.device:
        raise ValueError(
            f"fused_ssim: expected an upstream gradient of {values} elements on {gradient.device}, "
            f"got {list(call.upstream.shape)} on {call.upstream.device}"
        )
    _check_fits("upstream", call.upstream, tuple(call.upstream.shape), dtype)
    _on_device(
        _C.scale,
        gradient,
        sizes=sizes,
        gradient=_image(gradient),
        out=_image(result),
        upstream=call.upstream.data_ptr(),
        reduction=call.reduction,
        factor=1.0 / divisor if _is_of_sum(gradient) else 1.0,
    )


_OPERATORS: dict[str, Callable[[SimpleNamespace], Any]] = {
    "ssim": _ssim,
    "ssim_and_mse": _ssim_and_mse,
    "ssim_map": _ssim_map,
    "ssim_map_backward": _ssim_map_backward,
    "scale_gradient": _scale_gradient,
    "scale_gradient_": lambda call: _scale_into(call, call.gradient),
}


def _register(library: torch.library.Library, schema: str, devices: list[str]) -> None:
    name = schema.partition("(")[0]
    library.define(schema)
    operator = getattr(torch.ops.fused_ssim, name).default
    compute = _OPERATORS[name]

    def by_position(*arguments: Any) -> Any:
        return compute(_results.named(operator, arguments))

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
_library = torch.library.Library("fused_ssim", "DEF")
for _schema in _C.operator_schemas():
    _register(_library, _schema, ["CPU", "CUDA"] if cuda_library.loaded else ["CPU"])
