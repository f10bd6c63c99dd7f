// Instantiates and launches the pipeline kernels.
#include "cuda/launches.h"
#include "cuda/pipeline_kernel.cuh"

namespace fused_ssim::cuda {
namespace {

template <StripKind kKind, StripLoader kLoader>
constexpr KernelEntry entry() {
  using Traits = PipelineTraits<pipeline_columns(kKind), kKind, kLoader>;
  return {pipeline_kernel<Traits>, Traits::kThreads, [](int) { return Traits::shared_bytes(); }};
}

// In the order of StripKind and of StripLoader.
constexpr KernelEntry kEntries[kStripKinds][kStripLoaders] = {
    {entry<StripKind::kValue, StripLoader::kFloatQuads>(),
     entry<StripKind::kValue, StripLoader::kHalfQuads>(),
     entry<StripKind::kValue, StripLoader::kWords>()},
    {entry<StripKind::kMap, StripLoader::kFloatQuads>(),
     entry<StripKind::kMap, StripLoader::kWords>(), entry<StripKind::kMap, StripLoader::kWords>()},
    {entry<StripKind::kOneGradient, StripLoader::kFloatQuads>(),
     entry<StripKind::kOneGradient, StripLoader::kHalfQuads>(),
     entry<StripKind::kOneGradient, StripLoader::kWords>()},
    {entry<StripKind::kTwoGradients, StripLoader::kFloatQuads>(),
     entry<StripKind::kTwoGradients, StripLoader::kWords>(),
     entry<StripKind::kTwoGradients, StripLoader::kWords>()},
    {entry<StripKind::kWeighted, StripLoader::kFloatQuads>(),
     entry<StripKind::kWeighted, StripLoader::kWords>(),
     entry<StripKind::kWeighted, StripLoader::kWords>()},
};

LaunchCache cache[kStripKinds][kStripLoaders];

}  // namespace

cudaError_t pipeline_capacity(const DeviceFacts& device, StripKind kind, StripLoader loader,
                              int* blocks) {
  const auto k = static_cast<int>(kind);
  const auto l = static_cast<int>(loader);
  return capacity_of(kEntries[k][l], device, &cache[k][l], blocks);
}

cudaError_t launch_pipeline(const StripParams& params, const DeviceFacts& device, StripKind kind,
                            StripLoader loader, int blocks, cudaStream_t stream) {
  const auto k = static_cast<int>(kind);
  const auto l = static_cast<int>(loader);
  return launch_entry(kEntries[k][l], params, device, &cache[k][l], blocks, stream);
}

}  // namespace fused_ssim::cuda
