// libfused_ssim_cuda_kernels: the CUDA kernels behind the public C interface.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>

#include "c_api/requests.h"
#include "c_api/status.h"
#include "cuda/ssim_cuda.h"
#include "fused_ssim/kernels.h"
#include "fused_ssim/version.h"

using namespace fused_ssim;
using fused_ssim::c_api::failure;
using fused_ssim::c_api::guarded;

namespace {

constexpr std::uintptr_t kWorkspaceAlignment = 256;

FusedSsimStatus status_of(cudaError_t error, const char* what, const Shape& shape) {
  if (error == cudaSuccess) {
    return FUSED_SSIM_OK;
  }
  cudaGetLastError();  // not left behind for the next caller, where it can be cleared
  std::ostringstream message;
  message << what;
  if (error == cudaErrorNoKernelImageForDevice) {
    message << ": this GPU's architecture is not in the build (" << cuda::architectures() << ")";
    return failure(FUSED_SSIM_NO_GPU_CODE, message.str().c_str());
  }
  message << " failed for images [" << shape.batch << ", " << shape.channels << ", " << shape.height
          << ", " << shape.width << "]: " << cudaGetErrorString(error);
  return failure(FUSED_SSIM_CUDA_ERROR, message.str().c_str());
}

}  // namespace

int32_t fused_ssim_cuda_kernels_abi() { return FUSED_SSIM_KERNELS_ABI; }

const char* fused_ssim_cuda_last_error() { return c_api::last_error().c_str(); }

const FusedSsimCudaInfo* fused_ssim_cuda_info() {
  static const FusedSsimCudaInfo info = {FUSED_SSIM_VERSION, FUSED_SSIM_CUDA_TOOLKIT,
                                         cuda::architectures()};
  return &info;
}

FusedSsimStatus fused_ssim_cuda_workspace_bytes(const FusedSsimProblem* problem,
                                                const FusedSsimRequest* request, int64_t* bytes) {
  return guarded([&] {
    const Problem checked = c_api::checked_problem(problem);
    const Request checked_request = c_api::request_of(request, checked);
    if (bytes == nullptr) {
      return failure(FUSED_SSIM_INVALID_ARGUMENT, "expected a place for bytes, got a null pointer");
    }
    return status_of(cuda::workspace_bytes(checked, checked_request, bytes),
                     "asking for the GPU's properties", checked.shape);
  });
}

FusedSsimStatus fused_ssim_cuda_run(const FusedSsimProblem* problem,
                                    const FusedSsimRequest* request, void* workspace,
                                    int64_t workspace_bytes, struct CUstream_st* stream) {
  return guarded([&] {
    const Problem checked = c_api::problem_of(problem);
    const Request checked_request = c_api::request_of(request, checked);
    int64_t needed = 0;
    const cudaError_t error = cuda::workspace_bytes(checked, checked_request, &needed);
    if (error != cudaSuccess) {
      return status_of(error, "asking for the GPU's properties", checked.shape);
    }
    if (workspace_bytes < needed || (needed > 0 && workspace == nullptr) ||
        reinterpret_cast<std::uintptr_t>(workspace) % kWorkspaceAlignment != 0) {
      std::ostringstream message;
      message << "expected a workspace of at least " << needed << " bytes, aligned to "
              << kWorkspaceAlignment << ", got " << workspace_bytes << " at " << workspace
              << "; ask fused_ssim_cuda_workspace_bytes() for its size";
      throw std::invalid_argument(message.str());
    }
    return status_of(cuda::run(checked, checked_request, workspace, stream), "the SSIM kernel",
                     checked.shape);
  });
}

FusedSsimStatus fused_ssim_cuda_scale(const FusedSsimScaleRequest* request,
                                      struct CUstream_st* stream) {
  return guarded([&] {
    const ScaleRequest scale = c_api::scale_request_of(request);
    return status_of(cuda::scale(scale, stream), "the gradient's scaling", scale.shape);
  });
}
