// Instantiates and launches the strip kernels.
#include "cuda/launches.h"
#include "cuda/strip_kernel.cuh"
#include "cuda/tuning.h"

namespace fused_ssim::cuda {
namespace {

struct StripEntry {
  StripKind kind;
  StripLoader loader;
  void (*kernel)(const StripParams);
  int (*shared_bytes)(int architecture);
};

template <StripKind kKind, StripLoader kLoader>
constexpr StripEntry entry() {
  using Traits = StripTraits<kStripThreads, kKind, kLoader>;
  return {kKind, kLoader, strip_kernel<Traits, strip_blocks_per_multiprocessor(kKind)>,
          [](int architecture) {
            return static_cast<int>(sizeof(StripShared<Traits>)) +
                   Traits::staged_bytes(architecture);
          }};
}

constexpr StripEntry kEntries[] = {
    entry<StripKind::kValue, StripLoader::kFloatQuads>(),
    entry<StripKind::kValue, StripLoader::kHalfQuads>(),
    entry<StripKind::kValue, StripLoader::kWords>(),
    entry<StripKind::kMap, StripLoader::kFloatQuads>(),
    entry<StripKind::kMap, StripLoader::kWords>(),
    entry<StripKind::kOneGradient, StripLoader::kFloatQuads>(),
    entry<StripKind::kOneGradient, StripLoader::kWords>(),
    entry<StripKind::kTwoGradients, StripLoader::kFloatQuads>(),
    entry<StripKind::kTwoGradients, StripLoader::kWords>(),
    entry<StripKind::kWeighted, StripLoader::kFloatQuads>(),
    entry<StripKind::kWeighted, StripLoader::kWords>(),
};
constexpr int kEntryCount = sizeof(kEntries) / sizeof(kEntries[0]);

// Where a kind has no instance of its own for a loader, the one for words serves.
int find_entry(StripKind kind, StripLoader loader) {
  int words = -1;
  for (int i = 0; i < kEntryCount; ++i) {
    if (kEntries[i].kind == kind) {
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

LaunchCache cache[kEntryCount];

}  // namespace

cudaError_t compiled_architecture(int* architecture) {
  cudaFuncAttributes attributes = {};
  const cudaError_t error =
      cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kEntries[0].kernel));
  *architecture = attributes.ptxVersion;
  return error;
}

cudaError_t find_strip_kernel(const DeviceFacts& device, StripKind kind, StripLoader loader,
                              StripKernel* found) {
  const int index = find_entry(kind, loader);
  if (index < 0) {
    return cudaErrorInvalidValue;
  }
  const StripEntry& entry = kEntries[index];
  *found = {entry.kernel, kStripThreads, entry.shared_bytes(device.architecture)};
  return prepare(device, &cache[index], found);
}

}  // namespace fused_ssim::cuda
