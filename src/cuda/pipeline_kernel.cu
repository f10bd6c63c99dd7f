// Instantiates and launches the pipeline kernels.
#include "cuda/launches.h"
#include "cuda/pipeline_kernel.cuh"

namespace fused_ssim::cuda {
namespace {

template <StripKind kKind, StripLoader kLoader>
struct PipelineEntry {
  using Traits = PipelineTraits<pipeline_columns(kKind), kKind, kLoader>;
  static constexpr KernelEntry entry() {
    return {pipeline_kernel<Traits>, Traits::kThreads, [](int) { return Traits::shared_bytes(); }};
  }
};

constexpr auto kEntries = make_entries<PipelineEntry>();
LaunchCache cache[kEntries.size()];

}  // namespace

cudaError_t pipeline_capacity(const DeviceFacts& device, StripKind kind, StripLoader loader,
                              int* blocks) {
  const int index = entry_index(kind, loader);
  return capacity_of(kEntries[index], device, &cache[index], blocks);
}

cudaError_t launch_pipeline(const StripParams& params, const DeviceFacts& device, StripKind kind,
                            StripLoader loader, int blocks, cudaStream_t stream) {
  const int index = entry_index(kind, loader);
  return launch_entry(kEntries[index], params, device, &cache[index], blocks, stream);
}

}  // namespace fused_ssim::cuda
