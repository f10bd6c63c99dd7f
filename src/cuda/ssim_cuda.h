// The CUDA backend: raw pointers and a stream in, cudaError_t out. No allocation, no
// synchronisation, no default stream: capturable in a CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/problem.h"

namespace fused_ssim::cuda {

// Bytes of device memory that `run` needs beside the request's outputs, on the current device.
int64_t workspace_bytes(const Problem& problem, const Request& request);

// Enqueues the request on `stream` of the current device. Pointers are device pointers of it.
cudaError_t run(const Problem& problem, const Request& request, void* workspace,
                cudaStream_t stream);

cudaError_t scale(const ScaleRequest& request, cudaStream_t stream);

// The architectures in this library, for messages and build_info: "sm_75 sm_80 ... compute_90".
const char* architectures();

}  // namespace fused_ssim::cuda
