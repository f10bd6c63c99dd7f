// The two passes of the separable kernels (separable_kernel.cuh).
#include "cuda/separable_kernel.cuh"

namespace fused_ssim::cuda {

template <template <class, int> class Pass, class T>
cudaError_t launch_moments(const SeparableParams<T>& params, int images, int blocks,
                           const DeviceFacts& device, cudaStream_t stream) {
  return images == 2   ? separable::launch<T, Pass<T, 2>>(params, blocks, device, stream)
         : images == 1 ? separable::launch<T, Pass<T, 1>>(params, blocks, device, stream)
                       : separable::launch<T, Pass<T, 0>>(params, blocks, device, stream);
}

template <class T>
cudaError_t launch_separable_moments(const SeparableParams<T>& params, int images, int blocks,
                                     const DeviceFacts& device, cudaStream_t stream) {
  return params.volume.maps != nullptr
             ? launch_moments<separable::VolumeMomentsPass>(params, images, blocks, device, stream)
             : launch_moments<separable::MomentsPass>(params, images, blocks, device, stream);
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
