// The strip kernels with given windows.
#include "cuda/strip.cuh"

namespace fused_ssim::cuda {

template cudaError_t find_strip_kernel<GivenWindow>(const DeviceFacts&, StripKind, StripLoader,
                                                    StripKernel*);

}  // namespace fused_ssim::cuda
