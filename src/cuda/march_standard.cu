// The marching kernels with the standard window.
#include "cuda/march.cuh"

namespace fused_ssim::cuda {

template cudaError_t find_march_kernel<StandardWindow>(const DeviceFacts&, StripKind, StripLoader,
                                                       bool, StripKernel*);

cudaError_t compiled_architecture(int* architecture) {
  cudaFuncAttributes attributes = {};
  const auto* kernel =
      reinterpret_cast<const void*>(march_entry<MarchLayout::kCompact, StripKind::kValue,
                                                StripLoader::kWords, StandardWindow, 2>()
                                        .kernel);
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  *architecture = attributes.ptxVersion;
  return error;
}

}  // namespace fused_ssim::cuda
