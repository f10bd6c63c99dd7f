// The marching kernels with the standard window.
#include "cuda/march.cuh"

namespace fused_ssim::cuda {

template cudaError_t find_march_kernel<StandardWindow>(const DeviceFacts&, StripKind, StripLoader,
                                                       bool, StripKernel*);

}  // namespace fused_ssim::cuda
