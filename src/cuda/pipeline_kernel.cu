// Instantiates and launches the pipeline kernels.
#include "cuda/launches.h"
#include "cuda/pipeline_kernel.cuh"

namespace fused_ssim::cuda {
namespace {

template <StripKind kKind, StripLoader kLoader, int kResident>
constexpr KernelEntry entry_for() {
  using Traits = PipelineTraits<pipeline_columns(kKind), kKind, kLoader, kResident>;
  return {pipeline_kernel<Traits>, Traits::kThreads, [](int) { return Traits::shared_bytes(); }};
}
template <StripKind kKind, StripLoader kLoader>
struct PipelineEntry {
  static constexpr KernelEntry entry() {
    // 16-bit quads come in boxes or by words, or through registers where boxes are not for that kind.
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
constexpr KernelEntry kLoneEntries[] = {
    entry_for<StripKind::kValue, StripLoader::kFloatQuads, 1>(),
    entry_for<StripKind::kValue, StripLoader::kHalfBoxes, 1>(),
};
LaunchCache lone_caches[2];

}  // namespace

cudaError_t pipeline_capacity(const DeviceFacts& device, StripKind kind, StripLoader loader,
                              int* blocks) {
  const int index = entry_index(kind, loader);
  return capacity_of(kEntries[index], device, &cache[index], blocks);
}

cudaError_t launch_pipeline(const StripParams& params, const DeviceFacts& device, StripKind kind,
                            StripLoader loader, int blocks, cudaStream_t stream) {
  if (has_lone_instance(kind, loader) && blocks <= device.multiprocessors) {
    const int lone = loader == StripLoader::kHalfBoxes ? 1 : 0;
    return launch_entry(kLoneEntries[lone], params, device, &lone_caches[lone], blocks, stream);
  }
  const int index = entry_index(kind, loader);
  return launch_entry(kEntries[index], params, device, &cache[index], blocks, stream);
}

}  // namespace fused_ssim::cuda
