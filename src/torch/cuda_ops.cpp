// The CUDA backend behind the operators: device, stream and workspace.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cuda/ssim_cuda.h"
#include "torch/operators.h"

namespace fused_ssim::torch_ops {
namespace {

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

void check_launch(cudaError_t error, const char* what, const Shape& shape) {
  if (error == cudaSuccess) {
    return;
  }
  cudaGetLastError();  // not left behind for the next caller, where it can be cleared
  if (error == cudaErrorNoKernelImageForDevice) {
    fail(what, ": this GPU's architecture is not in the build (", cuda::architectures(),
         "); `python -m fused_ssim info` says what to do");
  }
  fail(what, " failed for images [", shape.batch, ", ", shape.channels, ", ", shape.height, ", ",
       shape.width, "]: ", cudaGetErrorString(error));
}

struct CudaBackend {
  static void run(const Problem& problem, const Request& request, const Tensor& on_device) {
    const torch::stable::accelerator::DeviceGuard guard(on_device.get_device_index());
    const int64_t bytes = cuda::workspace_bytes(problem, request);
    const Tensor workspace = new_empty(on_device, {bytes}, ScalarType::Byte);
    check_launch(
        cuda::run(problem, request, workspace.mutable_data_ptr(), current_stream(on_device)),
        "the SSIM kernel", problem.shape);
  }

  static void scale(const ScaleRequest& request, const Tensor& on_device) {
    const torch::stable::accelerator::DeviceGuard guard(on_device.get_device_index());
    check_launch(cuda::scale(request, current_stream(on_device)), "the gradient's scaling",
                 request.shape);
  }
};

}  // namespace
}  // namespace fused_ssim::torch_ops

STABLE_TORCH_LIBRARY_IMPL(fused_ssim, CUDA, library) {
  fused_ssim::torch_ops::register_operators<fused_ssim::torch_ops::CudaBackend>(library);
}
