// The two passes of the separable kernels (separable_kernel.cuh).
#include "cuda/separable_kernel.cuh"

namespace fused_ssim::cuda {

// A value alone is that of one gradient, but of images with float32 sums: that one has most users.
template <class T>
cudaError_t launch_separable_moments(const SeparableParams<T>& params, int images, int blocks,
                                     const DeviceFacts& device, cudaStream_t stream) {
  using separable::launch, separable::MomentsPass, separable::VolumeMomentsPass;
  if (params.volume.maps != nullptr) {
    return images == 2 ? launch<T, VolumeMomentsPass<T, 2>>(params, blocks, device, stream)
                       : launch<T, VolumeMomentsPass<T, 1>>(params, blocks, device, stream);
  }
  if constexpr (sizeof(T) == sizeof(float)) {
    if (images == 0) {
      return launch<T, MomentsPass<T, 0>>(params, blocks, device, stream);
    }
  }
  return images == 2 ? launch<T, MomentsPass<T, 2>>(params, blocks, device, stream)
                     : launch<T, MomentsPass<T, 1>>(params, blocks, device, stream);
}

template <class T>
cudaError_t launch_separable_gradient(const SeparableParams<T>& params, int images, int blocks,
                                      const DeviceFacts& device, cudaStream_t stream) {
  return images == 2
             ? separable::launch<T, separable::GradientPass<T, 2>>(params, blocks, device, stream)
             : separable::launch<T, separable::GradientPass<T, 1>>(params, blocks, device, stream);
}

template cudaError_t launch_separable_moments(const SeparableParams<float>&, int, int,
                                              const DeviceFacts&, cudaStream_t);
template cudaError_t launch_separable_moments(const SeparableParams<double>&, int, int,
                                              const DeviceFacts&, cudaStream_t);
template cudaError_t launch_separable_gradient(const SeparableParams<float>&, int, int,
                                               const DeviceFacts&, cudaStream_t);
template cudaError_t launch_separable_gradient(const SeparableParams<double>&, int, int,
                                               const DeviceFacts&, cudaStream_t);

}  // namespace fused_ssim::cuda
