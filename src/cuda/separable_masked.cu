// The first pass of the separable kernels (separable_kernel.cuh) under a normalized mask.
#include "cuda/separable_kernel.cuh"
#include "cuda/separable_masked_passes.cuh"

namespace fused_ssim::cuda {

// A value alone is that of one gradient: instances of its own would be half as many again.
template <template <class, int> class Pass, class T>
cudaError_t launch_moments(const SeparableParams<T>& params, int images, int blocks,
                           const DeviceFacts& device, cudaStream_t stream) {
  return images == 2 ? separable::launch<T, Pass<T, 2>>(params, blocks, device, stream)
                     : separable::launch<T, Pass<T, 1>>(params, blocks, device, stream);
}

template <class T>
cudaError_t launch_masked_moments(const SeparableParams<T>& params, int images, int blocks,
                                  const DeviceFacts& device, cudaStream_t stream) {
  return params.volume.maps != nullptr
             ? launch_moments<separable::MaskedVolumePass>(params, images, blocks, device, stream)
             : launch_moments<separable::MaskedMomentsPass>(params, images, blocks, device, stream);
}

template cudaError_t launch_masked_moments(const SeparableParams<float>&, int, int,
                                           const DeviceFacts&, cudaStream_t);
template cudaError_t launch_masked_moments(const SeparableParams<double>&, int, int,
                                           const DeviceFacts&, cudaStream_t);

}  // namespace fused_ssim::cuda
