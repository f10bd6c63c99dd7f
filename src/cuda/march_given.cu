// The marching kernels with given windows.
#include "cuda/march.cuh"

namespace fused_ssim::cuda {

template cudaError_t find_march_kernel<GivenWindow>(const DeviceFacts&, StripKind, StripLoader,
                                                    bool, StripKernel*);

}  // namespace fused_ssim::cuda
