// libfused_ssim_cuda_kernels: the CUDA kernels behind the public C interface.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

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

// The sizes for a message, where a request has some.
template <class Request>
std::string images_of(const Request& request) {
  return " for images " + c_api::text_of(request.sizes);
}
std::string images_of(const FactorsRequest&) { return ""; }

template <class Request>
FusedSsimStatus status_of(cudaError_t error, const char* what, const Request& request) {
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
    message << " failed" << images_of(request) << ": ";
    if (error == cuda::kTooManyCapturedLaunches) {
      message << "CUDA graphs that are alive hold as many launches as they can; destroy those that "
                 "are not replayed any more";
    } else {
      message << cudaGetErrorString(error);
    }
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
                     "asking for the GPU's properties", job->problem);
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

// Checks what was given and enqueues it.
template <class Given, class Check, class Run>
FusedSsimStatus enqueue(const Given* given, const Check& check, const Run& run, const char* what,
                        struct CUstream_st* stream) {
  Given request;
  const FusedSsimStatus status = guarded([&] {
    request = check(given);
    return FUSED_SSIM_OK;
  });
  return status != FUSED_SSIM_OK ? status : status_of(run(request, stream), what, request);
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
                         "the SSIM kernel", job.problem);
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
                         "the SSIM kernel", job.problem);
}

FusedSsimStatus fused_ssim_cuda_scale(const FusedSsimScaleRequest* request,
                                      struct CUstream_st* stream) {
  return enqueue(request, c_api::scale_request_of, cuda::scale, "the gradient's scaling", stream);
}

FusedSsimStatus fused_ssim_cuda_halve(const FusedSsimHalveRequest* requests, int32_t count,
                                      struct CUstream_st* stream) {
  std::vector<HalveRequest> checked;
  const FusedSsimStatus status = guarded([&] {
    if (requests == nullptr || count < 1) {
      throw std::invalid_argument("expected at least one request to halve, got none");
    }
    for (int32_t i = 0; i < count; ++i) {
      checked.push_back(c_api::halve_request_of(requests + i));
    }
    return FUSED_SSIM_OK;
  });
  return status != FUSED_SSIM_OK
             ? status
             : status_of(cuda::halve(checked.data(), count, stream), "halving", checked[0]);
}

FusedSsimStatus fused_ssim_cuda_accumulate(const FusedSsimAccumulateRequest* request,
                                           struct CUstream_st* stream) {
  return enqueue(request, c_api::accumulate_request_of, cuda::accumulate,
                 "the way back from a coarser scale", stream);
}

FusedSsimStatus fused_ssim_cuda_factors(const FusedSsimFactorsRequest* request,
                                        struct CUstream_st* stream) {
  const auto checked = [](const FusedSsimFactorsRequest* given) {
    const FactorsRequest factors = c_api::factors_request_of(given);
    if (factors.scales > cuda::kMaxScales) {
      std::ostringstream message;
      message << "expected at most " << cuda::kMaxScales << " scales on CUDA, got "
              << factors.scales;
      throw c_api::NotServed(message.str());
    }
    return factors;
  };
  return enqueue(request, checked, cuda::factors, "the product over scales", stream);
}
