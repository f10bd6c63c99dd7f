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
    constexpr StripLoader kServes =
        kLoader == StripLoader::kHalfBoxes ? StripLoader::kHalfQuads : kLoader;
    return entry_for<kKind, kServes, pipeline_blocks_per_multiprocessor(kKind, kServes)>();
  }
};

constexpr auto kEntries = make_entries<PipelineEntry>();
LaunchCache cache[kEntries.size()];
// For one block a multiprocessor, where that has an instance of its own.
constexpr KernelEntry kLoneEntry = entry_for<StripKind::kValue, StripLoader::kFloatQuads, 1>();
LaunchCache lone_cache;

}  // namespace

cudaError_t pipeline_capacity(const DeviceFacts& device, StripKind kind, StripLoader loader,
                              int* blocks) {
  const int index = entry_index(kind, loader);
  return capacity_of(kEntries[index], device, &cache[index], blocks);
}

cudaError_t launch_pipeline(const StripParams& params, const DeviceFacts& device, StripKind kind,
                            StripLoader loader, int blocks, cudaStream_t stream) {
  if (has_lone_instance(kind, loader) && blocks <= device.multiprocessors) {
    return launch_entry(kLoneEntry, params, device, &lone_cache, blocks, stream);
  }
  const int index = entry_index(kind, loader);
  return launch_entry(kEntries[index], params, device, &cache[index], blocks, stream);
}

}  // namespace fused_ssim::cuda
