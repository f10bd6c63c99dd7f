// Tiles with given windows.
#include "cuda/tile.cuh"

namespace fused_ssim::cuda {

template cudaError_t find_tile_kernel<GivenWindow>(const DeviceFacts&, StripKind, StripLoader, int,
                                                   StripKernel*);

}  // namespace fused_ssim::cuda
