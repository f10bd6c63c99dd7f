// Instantiates and launches the strip kernels.
#include "cuda/strip_kernel.cuh"

#include <atomic>

#include "cuda/tuning.h"

namespace fused_ssim::cuda {
namespace {

struct StripEntry {
  StripKind kind;
  int threads;
  void (*kernel)(const StripParams);
  int (*shared_bytes)(int staged_rows);
};

template <int kThreads, StripKind kKind>
constexpr StripEntry entry() {
  using Traits = StripTraits<kThreads, kKind>;
  return {kKind, kThreads, strip_kernel<Traits, strip_blocks_per_multiprocessor(kKind, kThreads)>,
          Traits::shared_bytes};
}

constexpr StripEntry kEntries[] = {
    entry<256, StripKind::kValue>(),        entry<128, StripKind::kValue>(),
    entry<256, StripKind::kMap>(),          entry<256, StripKind::kOneGradient>(),
    entry<128, StripKind::kOneGradient>(),  entry<128, StripKind::kTwoGradients>(),
    entry<128, StripKind::kWeighted>(),
};
constexpr int kEntryCount = sizeof(kEntries) / sizeof(kEntries[0]);

int find_entry(StripKind kind, int threads) {
  for (int i = 0; i < kEntryCount; ++i) {
    if (kEntries[i].kind == kind && kEntries[i].threads == threads) {
      return i;
    }
  }
  return -1;
}

constexpr int kMaxDevices = 64;

}  // namespace

cudaError_t strip_capacity(const DeviceFacts& device, StripKind kind, int threads, int staged_rows,
                           int* blocks) {
  // 0: not yet asked. One set for rows kept, one for rows reloaded.
  static std::atomic<int> cache[kMaxDevices][kEntryCount][2];
  const int index = find_entry(kind, threads);
  if (index < 0) {
    return cudaErrorInvalidValue;
  }
  std::atomic<int>* known = device.index < kMaxDevices
                                ? &cache[device.index][index][staged_rows > 8 ? 1 : 0]
                                : nullptr;
  int per_multiprocessor = known != nullptr ? known->load(std::memory_order_relaxed) : 0;
  if (per_multiprocessor == 0) {
    const StripEntry& entry = kEntries[index];
    const auto* kernel = reinterpret_cast<const void*>(entry.kernel);
    const int bytes = entry.shared_bytes(staged_rows);
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error == cudaSuccess) {
      error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel,
                                                            entry.threads, bytes);
    }
    if (error != cudaSuccess) {
      return error;
    }
    if (per_multiprocessor == 0) {
      return cudaErrorInvalidConfiguration;
    }
    if (known != nullptr) {
      known->store(per_multiprocessor, std::memory_order_relaxed);
    }
  }
  *blocks = per_multiprocessor * device.multiprocessors;
  return cudaSuccess;
}

cudaError_t launch_strips(const StripParams& params, StripKind kind, int threads, int blocks,
                          cudaStream_t stream) {
  const int index = find_entry(kind, threads);
  if (index < 0) {
    return cudaErrorInvalidValue;
  }
  const StripEntry& entry = kEntries[index];
  entry.kernel<<<blocks, threads, entry.shared_bytes(params.staged_rows), stream>>>(params);
  return cudaGetLastError();
}

}  // namespace fused_ssim::cuda
