// The CUDA backend: raw pointers and a stream in, cudaError_t out. No allocation, no
// synchronisation, no default stream: capturable in a CUDA graph. Nothing here throws.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/problem.h"

namespace fused_ssim::cuda {

struct StripChoice;

// What run() returns where graphs that are alive hold all counters of captured launches.
inline constexpr cudaError_t kTooManyCapturedLaunches = cudaErrorUnsupportedLimit;

// Null where the functions below serve this valid request; else why not: "expected ..., got ...".
const char* not_served(const Problem& problem, const Request& request);

// Bytes of device memory that `run` needs beside the request's outputs, on the current device: a
// few kilobytes of partial sums; for a gradient under a mask of bytes a bit for each of its pixels;
// for a gradient by the separable kernels also maps of the accumulation type, three or four, of as
// many pixels as keep the device busy, as a rule at most 256 MB.
cudaError_t workspace_bytes(const Problem& problem, const Request& request, int64_t* bytes);

// Enqueues the request on `stream` of the current device, in one launch (two where a map is wanted
// beside a gradient, or two gradients under a mask; by the separable kernels two or more for a
// gradient; one more ahead for the sums of a mask without mask_sums and for its bits, and behind a map
// under a mask). Pointers are device pointers of it; `workspace` is aligned to 256 bytes. A request for
// nothing does nothing. One of FUSED_SSIM_GROUP_NEXT overlaps with what is ahead where it is one launch
// of marching or tile kernels. `choice`: how the 11-tap kernels run; null: as the tuning table says.
cudaError_t run(const Problem& problem, const Request& request, void* workspace,
                cudaStream_t stream, const StripChoice* choice = nullptr);

cudaError_t scale(const ScaleRequest& request, cudaStream_t stream);

// MS-SSIM's own kernels. Of a FactorsRequest at most kMaxScales scales.
inline constexpr int kMaxScales = 32;
// Of `count` requests each may halve the halves of the one before: images of three scales in one pass.
cudaError_t halve(const HalveRequest* requests, int count, cudaStream_t stream);
cudaError_t accumulate(const AccumulateRequest& request, cudaStream_t stream);
cudaError_t factors(const FactorsRequest& request, cudaStream_t stream);

// The architectures in this library, for messages and build_info: "sm_75 sm_80 ... compute_120".
const char* architectures();

}  // namespace fused_ssim::cuda
