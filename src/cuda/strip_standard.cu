// The strip kernels with the standard window.
#include "cuda/strip.cuh"

namespace fused_ssim::cuda {

template cudaError_t find_strip_kernel<StandardWindow>(const DeviceFacts&, StripKind, StripLoader,
                                                       StripKernel*);

cudaError_t compiled_architecture(int* architecture) {
  cudaFuncAttributes attributes = {};
  const auto* kernel = reinterpret_cast<const void*>(
      MakeStripEntry<StripKind::kValue, StripLoader::kFloatQuads, StandardWindow>::entry().kernel);
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  *architecture = attributes.ptxVersion;
  return error;
}

}  // namespace fused_ssim::cuda
