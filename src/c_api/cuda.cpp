// libfused_ssim_cuda_kernels: the CUDA kernels behind the public C interface.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

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

FusedSsimStatus status_of(cudaError_t error, const char* what, const int64_t* sizes) {
  if (error == cudaSuccess) {
    return FUSED_SSIM_OK;
  }
  cudaGetLastError();  // not left behind for the next caller, where it can be cleared
  return guarded([&] {
    std::ostringstream message;
    message << what;
    if (error == cudaErrorNoKernelImageForDevice) {
      message << ": this GPU's architecture is not in the build (" << cuda::architectures() << ")";
      return failure(FUSED_SSIM_NO_GPU_CODE, message.str().c_str());
    }
    message << " failed for images " << c_api::text_of(sizes) << ": " << cudaGetErrorString(error);
    return failure(FUSED_SSIM_CUDA_ERROR, message.str().c_str());
  });
}

// A request that was checked, which is done once a call, and its scratch memory.
struct Job {
  Problem problem;
  Request request;
  int64_t workspace_bytes = 0;
  void* workspace = nullptr;
};

// All but the workspace.
FusedSsimStatus check_job(const FusedSsimProblem* problem, const FusedSsimRequest* request,
                          Job* job) {
  return guarded([&] {
    job->problem = c_api::problem_of(problem);
    job->request = c_api::request_of(request, job->problem);
    if (const char* reason = cuda::not_served(job->problem, job->request)) {
      throw c_api::NotServed(reason);
    }
    return status_of(cuda::workspace_bytes(job->problem, job->request, &job->workspace_bytes),
                     "asking for the GPU's properties", job->problem.sizes);
  });
}

// `workspace_of(bytes)`: so many bytes of scratch memory, or null where there are not as many.
template <class WorkspaceOf>
FusedSsimStatus make_job(const FusedSsimProblem* problem, const FusedSsimRequest* request,
                         const WorkspaceOf& workspace_of, Job* job) {
  const FusedSsimStatus status = check_job(problem, request, job);
  if (status != FUSED_SSIM_OK) {
    return status;
  }
  return guarded([&] {
    job->workspace = job->workspace_bytes > 0 ? workspace_of(job->workspace_bytes) : nullptr;
    if ((job->workspace == nullptr && job->workspace_bytes > 0) ||
        reinterpret_cast<std::uintptr_t>(job->workspace) % kWorkspaceAlignment != 0) {
      std::ostringstream message;
      message << "expected a workspace of at least " << job->workspace_bytes
              << " bytes, aligned to " << kWorkspaceAlignment << ", got ";
      if (job->workspace == nullptr) {
        message << "none, or a smaller one; fused_ssim_cuda_workspace_bytes() tells its size";
      } else {
        message << "one at " << job->workspace << "; cudaMalloc() aligns to as much";
      }
      throw std::invalid_argument(message.str());
    }
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
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
  if (bytes == nullptr) {
    return failure(FUSED_SSIM_INVALID_ARGUMENT, "expected a place for bytes, got a null pointer");
  }
  Job job;
  const FusedSsimStatus status = check_job(problem, request, &job);
  *bytes = job.workspace_bytes;
  return status;
}

FusedSsimStatus fused_ssim_cuda_run(const FusedSsimProblem* problem,
                                    const FusedSsimRequest* request, void* workspace,
                                    int64_t workspace_bytes, struct CUstream_st* stream) {
  Job job;
  const auto given = [&](int64_t bytes) { return workspace_bytes < bytes ? nullptr : workspace; };
  const FusedSsimStatus status = make_job(problem, request, given, &job);
  return status != FUSED_SSIM_OK
             ? status
             : status_of(cuda::run(job.problem, job.request, job.workspace, stream),
                         "the SSIM kernel", job.problem.sizes);
}

FusedSsimStatus fused_ssim_cuda_run_allocating(const FusedSsimProblem* problem,
                                               const FusedSsimRequest* request,
                                               FusedSsimCudaAllocate allocate, void* context,
                                               struct CUstream_st* stream) {
  Job job;
  const auto allocated = [&](int64_t bytes) {
    return allocate == nullptr ? nullptr : allocate(context, bytes);
  };
  const FusedSsimStatus status = make_job(problem, request, allocated, &job);
  return status != FUSED_SSIM_OK
             ? status
             : status_of(cuda::run(job.problem, job.request, job.workspace, stream),
                         "the SSIM kernel", job.problem.sizes);
}

FusedSsimStatus fused_ssim_cuda_scale(const FusedSsimScaleRequest* request,
                                      struct CUstream_st* stream) {
  ScaleRequest scale;
  const FusedSsimStatus status = guarded([&] {
    scale = c_api::scale_request_of(request);
    return FUSED_SSIM_OK;
  });
  return status != FUSED_SSIM_OK
             ? status
             : status_of(cuda::scale(scale, stream), "the gradient's scaling", scale.sizes);
}
