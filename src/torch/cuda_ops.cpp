// The CUDA backend behind the operators: device, stream and workspace.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "fused_ssim/kernels.h"
#include "torch/operators.h"

namespace fused_ssim::torch_ops {
namespace {

CUstream_st* current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<CUstream_st*>(stream);
}

void check_launch(FusedSsimStatus status) {
  if (status == FUSED_SSIM_NO_GPU_CODE) {
    fail(fused_ssim_cuda_last_error(), "; `python -m fused_ssim info` says what to do");
  }
  kernels::check_cuda(status);
}

struct CudaBackend {
  static void run(const FusedSsimProblem& problem, const FusedSsimRequest& request,
                  const Tensor& on_device) {
    const torch::stable::accelerator::DeviceGuard guard(on_device.get_device_index());
    int64_t bytes = 0;
    check_launch(fused_ssim_cuda_workspace_bytes(&problem, &request, &bytes));
    const Tensor workspace = new_empty(on_device, {bytes}, ScalarType::Byte);
    check_launch(fused_ssim_cuda_run(&problem, &request, workspace.mutable_data_ptr(), bytes,
                                     current_stream(on_device)));
  }

  static void scale(const FusedSsimScaleRequest& request, const Tensor& on_device) {
    const torch::stable::accelerator::DeviceGuard guard(on_device.get_device_index());
    check_launch(fused_ssim_cuda_scale(&request, current_stream(on_device)));
  }
};

}  // namespace
}  // namespace fused_ssim::torch_ops

STABLE_TORCH_LIBRARY_IMPL(fused_ssim, CUDA, library) {
  fused_ssim::torch_ops::register_operators<fused_ssim::torch_ops::CudaBackend>(library);
}
