// How many blocks of a kernel a device holds, asked once per device; and launches that need the answer.
#pragma once

#include <array>
#include <atomic>
#include <utility>

#include "cuda/kernels.h"

namespace fused_ssim::cuda {

struct KernelEntry {
  void (*kernel)(const StripParams);
  int threads;
  int (*shared_bytes)(int architecture);
};

// Kernels of all kinds and loaders.
constexpr StripLoader instance_loader(StripKind kind, StripLoader loader) {
  return loader != StripLoader::kFloatQuads && !has_half_instances(kind) ? StripLoader::kWords
                                                                         : loader;
}
constexpr int entry_index(StripKind kind, StripLoader loader) {
  return static_cast<int>(kind) * kStripLoaders + static_cast<int>(loader);
}
template <template <StripKind, StripLoader> class Make, int... kIndex>
constexpr auto make_entries(std::integer_sequence<int, kIndex...>) {
  return std::array{
      Make<static_cast<StripKind>(kIndex / kStripLoaders),
           instance_loader(static_cast<StripKind>(kIndex / kStripLoaders),
                           static_cast<StripLoader>(kIndex % kStripLoaders))>::entry()...};
}
// What Make<kind, loader>::entry() returns, at entry_index(kind, loader).
template <template <StripKind, StripLoader> class Make>
constexpr auto make_entries() {
  return make_entries<Make>(std::make_integer_sequence<int, kStripKinds * kStripLoaders>());
}

// How an entry runs on each device: blocks in the upper half, bytes of shared memory in the lower; 0 where
// not yet asked.
struct LaunchCache {
  static constexpr int kMaxDevices = 64;
  std::atomic<uint64_t> known[kMaxDevices];
};

struct Launch {
  int blocks_per_multiprocessor = 0;
  int shared_bytes = 0;
};

// Launches a kernel that calls wait_for_previous_launch() before it touches any memory, and after whatever it can
// find out without. Where the device and its driver can, its blocks begin while the last of the kernel before are at
// work. Every thread calls it, so that launches finish one after the other.
template <class Params>
cudaError_t launch_kernel(void (*kernel)(const Params), const Params& params, int blocks,
                          int threads, int shared_bytes, const DeviceFacts& device,
                          cudaStream_t stream) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = device.overlaps_launches ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, params);
}

inline cudaError_t find_launch(const KernelEntry& entry, const DeviceFacts& device,
                               LaunchCache* cache, Launch* launch) {
  const bool cached = device.index < LaunchCache::kMaxDevices;
  if (cached) {
    const uint64_t packed = cache->known[device.index].load(std::memory_order_acquire);
    if (packed != 0) {
      launch->blocks_per_multiprocessor = static_cast<int>(packed >> 32);
      launch->shared_bytes = static_cast<int>(packed & 0xffffffffu);
      return cudaSuccess;
    }
  }
  const auto* kernel = reinterpret_cast<const void*>(entry.kernel);
  launch->shared_bytes = entry.shared_bytes(device.architecture);
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           launch->shared_bytes);
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        &launch->blocks_per_multiprocessor, kernel, entry.threads, launch->shared_bytes);
  }
  if (error == cudaSuccess && launch->blocks_per_multiprocessor == 0) {
    error = cudaErrorInvalidConfiguration;
  }
  if (error == cudaSuccess && cached) {
    cache->known[device.index].store(static_cast<uint64_t>(launch->blocks_per_multiprocessor)
                                             << 32 |
                                         static_cast<uint64_t>(launch->shared_bytes),
                                     std::memory_order_release);
  }
  return error;
}

inline cudaError_t capacity_of(const KernelEntry& entry, const DeviceFacts& device,
                               LaunchCache* cache, int* blocks) {
  Launch launch;
  const cudaError_t error = find_launch(entry, device, cache, &launch);
  *blocks = launch.blocks_per_multiprocessor * device.multiprocessors;
  return error;
}

inline cudaError_t launch_entry(const KernelEntry& entry, const StripParams& params,
                                const DeviceFacts& device, LaunchCache* cache, int blocks,
                                cudaStream_t stream) {
  Launch launch;
  const cudaError_t error = find_launch(entry, device, cache, &launch);
  if (error != cudaSuccess) {
    return error;
  }
  return launch_kernel(entry.kernel, params, blocks, entry.threads, launch.shared_bytes, device,
                       stream);
}

}  // namespace fused_ssim::cuda
