// The CUDA backend behind the operators: device, stream and workspace.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "fused_ssim/kernels.h"
#include "torch/operators.h"
#include "torch/scales.h"

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
  static Tensor workspace(const FusedSsimProblem& problem, const FusedSsimRequest& request,
                          const Tensor& on_device) {
    const torch::stable::accelerator::DeviceGuard guard(on_device.get_device_index());
    int64_t bytes = 0;
    check_launch(fused_ssim_cuda_workspace_bytes(&problem, &request, &bytes));
    return new_empty(on_device, &bytes, 1, FUSED_SSIM_UINT8);
  }
  static void run_in(const Tensor& workspace, const FusedSsimProblem& problem,
                     const FusedSsimRequest& request, const Tensor& on_device) {
    const torch::stable::accelerator::DeviceGuard guard(on_device.get_device_index());
    check_launch(fused_ssim_cuda_run(&problem, &request, workspace.mutable_data_ptr(),
                                     workspace.numel(), current_stream(on_device)));
  }
  static void run(const FusedSsimProblem& problem, const FusedSsimRequest& request,
                  const Tensor& on_device) {
    const torch::stable::accelerator::DeviceGuard guard(on_device.get_device_index());
    // torch's allocator keeps the memory for the stream's later work when the tensor is gone.
    struct Workspace {
      const Tensor& on_device;
      Tensor memory;
    } workspace = {on_device, Tensor()};
    const auto allocate = [](void* context, int64_t bytes) {
      auto& given = *static_cast<Workspace*>(context);
      given.memory = new_empty(given.on_device, &bytes, 1, FUSED_SSIM_UINT8);
      return given.memory.mutable_data_ptr();
    };
    check_launch(fused_ssim_cuda_run_allocating(&problem, &request, allocate, &workspace,
                                                current_stream(on_device)));
  }

  static constexpr bool kRunSumsMasks = true;

  static void scale(const FusedSsimScaleRequest& request, const Tensor& on_device) {
    enqueue(fused_ssim_cuda_scale, request, on_device);
  }
  static void halve(const std::vector<FusedSsimHalveRequest>& requests, const Tensor& on_device) {
    const torch::stable::accelerator::DeviceGuard guard(on_device.get_device_index());
    check_launch(fused_ssim_cuda_halve(requests.data(), static_cast<int32_t>(requests.size()),
                                       current_stream(on_device)));
  }
  static void accumulate(const FusedSsimAccumulateRequest& request, const Tensor& on_device) {
    enqueue(fused_ssim_cuda_accumulate, request, on_device);
  }
  static void factors(const FusedSsimFactorsRequest& request, const Tensor& on_device) {
    enqueue(fused_ssim_cuda_factors, request, on_device);
  }

 private:
  template <class Request>
  static void enqueue(FusedSsimStatus (*function)(const Request*, CUstream_st*),
                      const Request& request, const Tensor& on_device) {
    const torch::stable::accelerator::DeviceGuard guard(on_device.get_device_index());
    check_launch(function(&request, current_stream(on_device)));
  }
};

}  // namespace
}  // namespace fused_ssim::torch_ops

STABLE_TORCH_LIBRARY_IMPL(fused_ssim, CUDA, library) {
  fused_ssim::torch_ops::register_operators<fused_ssim::torch_ops::CudaBackend>(library);
  fused_ssim::torch_ops::register_scale_operators<fused_ssim::torch_ops::CudaBackend>(library);
}
