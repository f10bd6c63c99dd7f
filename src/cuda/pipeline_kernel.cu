// Instantiates and launches the pipeline kernels.
#include "cuda/launches.h"
#include "cuda/pipeline_kernel.cuh"

namespace fused_ssim::cuda {
namespace {

template <StripKind kKind, StripLoader kLoader, int kResident>
constexpr StripKernel entry_for() {
  using Traits = PipelineTraits<pipeline_columns(kKind), kKind, kLoader, kResident>;
  return {pipeline_kernel<Traits>, Traits::kThreads, Traits::shared_bytes()};
}
template <StripKind kKind, StripLoader kLoader>
struct PipelineEntry {
  static constexpr StripKernel entry() {
    // 16-bit quads come in boxes or by words, or through registers where boxes are not for that
    // kind.
    constexpr bool kBoxes = has_half_strip_boxes(kKind);
    constexpr StripLoader kServes =
        kLoader == StripLoader::kHalfBoxes && !kBoxes  ? StripLoader::kHalfQuads
        : kLoader == StripLoader::kHalfQuads && kBoxes ? StripLoader::kHalfWords
                                                       : kLoader;
    return entry_for<kKind, kServes, pipeline_blocks_per_multiprocessor(kKind, kServes)>();
  }
};

constexpr auto kEntries = make_entries<PipelineEntry>();
LaunchCache cache[kEntries.size()];
// For one block a multiprocessor, where that has an instance of its own.
constexpr StripKernel kSingleBlockEntries[] = {
    entry_for<StripKind::kValue, StripLoader::kFloatQuads, 1>(),
    entry_for<StripKind::kValue, StripLoader::kHalfBoxes, 1>(),
};
LaunchCache single_block_caches[2];

}  // namespace

cudaError_t find_pipeline_kernel(const DeviceFacts& device, StripKind kind, StripLoader loader,
                                 bool single_block, StripKernel* found) {
  if (single_block && has_single_block_instance(kind, loader)) {
    const int index = loader == StripLoader::kHalfBoxes ? 1 : 0;
    *found = kSingleBlockEntries[index];
    return prepare(device, &single_block_caches[index], found);
  }
  const int index = entry_index(kind, loader);
  *found = kEntries[index];
  return prepare(device, &cache[index], found);
}

}  // namespace fused_ssim::cuda
