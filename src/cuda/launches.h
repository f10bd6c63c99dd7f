// How a kernel is made ready for a device, once, and launched.
#pragma once

#include <array>
#include <atomic>
#include <utility>

#include "cuda/kernels.h"

namespace fused_ssim::cuda {

constexpr int entry_index(StripKind kind, StripLoader loader) {
  return static_cast<int>(kind) * kStripLoaders + static_cast<int>(loader);
}
template <Schedule kSchedule, template <StripKind, StripLoader, class> class Make, StripKind kKind,
          StripLoader kLoader, class Window>
constexpr auto entry_of() {
  using Made = Make<kKind, kLoader, Window>;
  if constexpr (has_instance(kSchedule, kKind, kLoader, Window::kIsGiven)) {
    return Made::entry();
  } else {
    return decltype(Made::entry()){};
  }
}
template <Schedule kSchedule, template <StripKind, StripLoader, class> class Make, class Window,
          int... kIndex>
constexpr auto make_entries(std::integer_sequence<int, kIndex...>) {
  return std::array{
      entry_of<kSchedule, Make, static_cast<StripKind>(kIndex / kStripLoaders),
               serving_loader(kSchedule, static_cast<StripKind>(kIndex / kStripLoaders),
                              static_cast<StripLoader>(kIndex % kStripLoaders), Window::kIsGiven),
               Window>()...};
}
// What Make<kind, loader, Window>::entry() returns, at entry_index(kind, loader); empty where there is
// no such instance.
template <Schedule kSchedule, template <StripKind, StripLoader, class> class Make, class Window>
constexpr auto make_entries() {
  return make_entries<kSchedule, Make, Window>(
      std::make_integer_sequence<int, kStripKinds * kStripLoaders>());
}

// How many blocks of a kernel a multiprocessor of each device holds; 0 where not yet asked.
struct LaunchCache {
  std::atomic<int> blocks[kMaxKnownDevices];
};

// Allows `found` its shared memory and asks for its blocks, unless `cache` says that this was done.
inline cudaError_t prepare(const DeviceFacts& device, LaunchCache* cache, StripKernel* found) {
  const bool cached = device.index < kMaxKnownDevices;
  found->blocks_per_multiprocessor =
      cached ? cache->blocks[device.index].load(std::memory_order_acquire) : 0;
  if (found->blocks_per_multiprocessor != 0) {
    return cudaSuccess;
  }
  const auto* kernel = reinterpret_cast<const void*>(found->kernel);
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           found->shared_bytes);
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&found->blocks_per_multiprocessor, kernel,
                                                          found->threads, found->shared_bytes);
  }
  if (error == cudaSuccess && found->blocks_per_multiprocessor == 0) {
    error = cudaErrorInvalidConfiguration;
  }
  if (error == cudaSuccess && cached) {
    cache->blocks[device.index].store(found->blocks_per_multiprocessor, std::memory_order_release);
  }
  return error;
}

// Launches a kernel that calls wait_for_previous_launch(), or wait_for_inputs(), before it touches any
// memory, and after whatever it can find out without. Where the device and its driver can, its blocks
// begin while the last of the kernel before are at work. Every thread calls it, so that launches
// finish one after the other.
template <class Params>
cudaError_t launch_kernel(void (*kernel)(const Params), const Params& params, int blocks,
                          int threads, int shared_bytes, const DeviceFacts& device,
                          cudaStream_t stream) {
  if (!device.overlaps_launches) {  // drivers before that of CUDA 11.8 know no attributes
    void* arguments[] = {const_cast<Params*>(&params)};
    return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(blocks), dim3(threads),
                            arguments, static_cast<size_t>(shared_bytes), stream);
  }
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, params);
}

}  // namespace fused_ssim::cuda
