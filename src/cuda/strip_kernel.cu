// Instantiates and launches the strip kernels.
#include <atomic>

#include "cuda/strip_kernel.cuh"
#include "cuda/tuning.h"

namespace fused_ssim::cuda {
namespace {

struct StripEntry {
  StripKind kind;
  StripLoader loader;
  int threads;
  void (*kernel)(const StripParams);
  int (*shared_bytes)(int architecture);
};

template <int kThreads, StripKind kKind, StripLoader kLoader>
constexpr StripEntry entry() {
  using Traits = StripTraits<kThreads, kKind, kLoader>;
  return {
      kKind, kLoader, kThreads,
      strip_kernel<Traits, strip_blocks_per_multiprocessor(kKind, kThreads)>, [](int architecture) {
        return static_cast<int>(sizeof(StripShared<Traits>)) + Traits::staged_bytes(architecture);
      }};
}

constexpr StripEntry kEntries[] = {
    entry<128, StripKind::kValue, StripLoader::kFloatQuads>(),
    entry<128, StripKind::kValue, StripLoader::kHalfQuads>(),
    entry<128, StripKind::kValue, StripLoader::kWords>(),
    entry<128, StripKind::kMap, StripLoader::kFloatQuads>(),
    entry<128, StripKind::kMap, StripLoader::kWords>(),
    entry<256, StripKind::kOneGradient, StripLoader::kFloatQuads>(),
    entry<256, StripKind::kOneGradient, StripLoader::kHalfQuads>(),
    entry<256, StripKind::kOneGradient, StripLoader::kWords>(),
    entry<128, StripKind::kOneGradient, StripLoader::kFloatQuads>(),
    entry<128, StripKind::kOneGradient, StripLoader::kWords>(),
    entry<128, StripKind::kTwoGradients, StripLoader::kFloatQuads>(),
    entry<128, StripKind::kTwoGradients, StripLoader::kWords>(),
    entry<128, StripKind::kWeighted, StripLoader::kFloatQuads>(),
    entry<128, StripKind::kWeighted, StripLoader::kWords>(),
};
constexpr int kEntryCount = sizeof(kEntries) / sizeof(kEntries[0]);

// Where a kind has no instance of its own for a loader, the one for words serves.
int find_entry(StripKind kind, StripLoader loader, int threads) {
  int words = -1;
  for (int i = 0; i < kEntryCount; ++i) {
    if (kEntries[i].kind == kind && kEntries[i].threads == threads) {
      if (kEntries[i].loader == loader) {
        return i;
      }
      if (kEntries[i].loader == StripLoader::kWords) {
        words = i;
      }
    }
  }
  return words;
}

constexpr int kMaxDevices = 64;

// How an entry runs on a device.
struct Launch {
  int blocks_per_multiprocessor = 0;
  int shared_bytes = 0;
};

cudaError_t prepare(const StripEntry& entry, int architecture, Launch* launch) {
  const auto* kernel = reinterpret_cast<const void*>(entry.kernel);
  launch->shared_bytes = entry.shared_bytes(architecture);
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           launch->shared_bytes);
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        &launch->blocks_per_multiprocessor, kernel, entry.threads, launch->shared_bytes);
  }
  if (error == cudaSuccess && launch->blocks_per_multiprocessor == 0) {
    error = cudaErrorInvalidConfiguration;
  }
  return error;
}

cudaError_t find_launch(const DeviceFacts& device, int index, Launch* launch) {
  // Blocks in the upper half, bytes in the lower; 0: not yet asked.
  static std::atomic<uint64_t> known[kMaxDevices][kEntryCount];
  const bool cached = device.index < kMaxDevices;
  if (cached) {
    const uint64_t packed = known[device.index][index].load(std::memory_order_acquire);
    if (packed != 0) {
      launch->blocks_per_multiprocessor = static_cast<int>(packed >> 32);
      launch->shared_bytes = static_cast<int>(packed & 0xffffffffu);
      return cudaSuccess;
    }
  }
  const cudaError_t error = prepare(kEntries[index], device.architecture, launch);
  if (error == cudaSuccess && cached) {
    known[device.index][index].store(static_cast<uint64_t>(launch->blocks_per_multiprocessor)
                                             << 32 |
                                         static_cast<uint64_t>(launch->shared_bytes),
                                     std::memory_order_release);
  }
  return error;
}

}  // namespace

cudaError_t compiled_architecture(int* architecture) {
  cudaFuncAttributes attributes = {};
  const cudaError_t error =
      cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kEntries[0].kernel));
  *architecture = attributes.ptxVersion;
  return error;
}

cudaError_t strip_capacity(const DeviceFacts& device, StripKind kind, StripLoader loader,
                           int threads, int* blocks) {
  const int index = find_entry(kind, loader, threads);
  if (index < 0) {
    return cudaErrorInvalidValue;
  }
  Launch launch;
  const cudaError_t error = find_launch(device, index, &launch);
  *blocks = launch.blocks_per_multiprocessor * device.multiprocessors;
  return error;
}

cudaError_t launch_strips(const StripParams& params, const DeviceFacts& device, StripKind kind,
                          StripLoader loader, int threads, int blocks, cudaStream_t stream) {
  const int index = find_entry(kind, loader, threads);
  if (index < 0) {
    return cudaErrorInvalidValue;
  }
  Launch launch;
  const cudaError_t error = find_launch(device, index, &launch);
  if (error != cudaSuccess) {
    return error;
  }
  kEntries[index].kernel<<<blocks, threads, launch.shared_bytes, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace fused_ssim::cuda
