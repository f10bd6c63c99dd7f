// The filters along depth of the separable schedule (separable.cu), for volumes. Around its two
// passes, which see slices as planes:
//
//   depth      pixels of slices z - r .. z + r  ->  s, d, s^2, d^2 of slice z, in memory; under a
//              normalized mask what separable_masked_passes.cuh merges
//   moments    these along rows and columns: sums, map, partial derivatives, which go to a ring
//   depth      partial derivatives of slices z - r .. z + r  ->  those of slice z
//   gradient   these along rows and columns
//
// A slab of slices at a time, so that what lies between the launches is mostly in the L2 cache. A
// thread computes 8 slices (float64: 4) of a pixel, whose inputs stay in registers.
//
// Global memory per voxel of accumulation type T, beside images and gradients: 4 T of maps, and
// with a gradient twice 3 T (4 T for both) of partial derivatives. Each is written once and read
// once, or along depth 1 + 2 r / 8 times, from the L1 and L2 caches where they hold it.
#include <algorithm>

#include "cuda/launches.h"
#include "cuda/separable.h"
#include "cuda/separable_masked_passes.cuh"

namespace fused_ssim::cuda {
namespace separable {

// A pixel's s, d, s^2, d^2, slice by slice.
template <class T>
struct DepthPixels {
  const SeparableParams<T>& p;
  const char* x;  // of the volume's first slice
  const char* y;
  int64_t slice;
  Shift<T> shift;

  __device__ __forceinline__ void read(int i, T (&input)[kSeparableMaps]) const {
    const int64_t z = slice + i;
    const bool inside = z >= 0 && z < p.volume.slices;
    const T shifted_x = (inside ? load_pixel<T>(x + z * p.img1.channel, p.img1) : T(0)) - shift.x;
    const T shifted_y = (inside ? load_pixel<T>(y + z * p.img2.channel, p.img2) : T(0)) - shift.y;
    const T s = shifted_x + shifted_y;
    const T d = shifted_x - shifted_y;
    input[0] = s;
    input[1] = d;
    input[2] = s * s;
    input[3] = d * d;
  }
  __device__ __forceinline__ void next_block() { slice += kSeparableOutputs<T>; }
};

// A pixel's m, s, d under a normalized mask, slice by slice.
template <class T>
struct DepthMaskedPixels {
  const SeparableParams<T>& p;
  const char* x;  // of the volume's first slice
  const char* y;
  const char* mask;
  int64_t slice;

  __device__ __forceinline__ void read(int i, T (&input)[kMaskedImages]) const {
    const int64_t z = slice + i;
    input[0] = T(1);
    input[1] = T(0);
    input[2] = T(0);
    if (z >= 0 && z < p.volume.slices) {
      const T a = load_pixel<T>(x + z * p.img1.channel, p.img1);
      const T b = load_pixel<T>(y + z * p.img2.channel, p.img2);
      if (p.mask_is_normalized) {
        input[0] = load_mask_number<T>(mask + z * p.mask.channel, p.mask);
      }
      input[1] = select_positive(input[0], a + b, T(0));
      input[2] = select_positive(input[0], a - b, T(0));
    }
  }
  __device__ __forceinline__ void next_block() { slice += kSeparableOutputs<T>; }
};

// An element of the partial derivatives' planes, slice by slice; zeros where slices have no value.
template <class T>
struct DepthPartials {
  const SeparableParams<T>& p;
  const T* element;  // of the ring's first slice
  int64_t index;     // of the slice, among those that have a value
  int64_t slot;      // of that slice in the ring, which has room for a block

  __device__ __forceinline__ void read(int i, T (&input)[1]) const {
    const bool inside = index + i >= 0 && index + i < p.volume.value_slices;
    int64_t at = slot + i;
    at -= at >= p.volume.ring_slices ? p.volume.ring_slices : 0;
    input[0] = inside ? element[at * p.partials_plane] : T(0);
  }
  __device__ __forceinline__ void next_block() {
    index += kSeparableOutputs<T>;
    slot += kSeparableOutputs<T>;
    slot -= slot >= p.volume.ring_slices ? p.volume.ring_slices : 0;
  }
};

// Blocks of threads for `elements` of a slice, times as many groups of slices.
template <class T>
struct DepthWork {
  int64_t blocks_per_slice;
  int64_t blocks;

  __host__ __device__ DepthWork(const SeparableParams<T>& p, int64_t elements)
      : blocks_per_slice((elements + kThreads - 1) / kThreads),
        blocks(blocks_per_slice *
               ((p.volume.slice_count + kSeparableOutputs<T> - 1) / kSeparableOutputs<T>)) {}
};

// body(element of a slice, first slice), for all of this block.
template <class T, class Body>
__device__ __forceinline__ void for_elements(const SeparableParams<T>& p, int64_t elements,
                                             const Body& body) {
  const DepthWork<T> work(p, elements);
#pragma unroll 1
  for (int64_t block = blockIdx.x; block < work.blocks; block += gridDim.x) {
    const int64_t group = quotient(block, work.blocks_per_slice);
    const int64_t element = (block - group * work.blocks_per_slice) * kThreads + thread_index();
    if (element < elements) {
      body(element, group * kSeparableOutputs<T>);
    }
  }
}

template <class T>
__device__ __forceinline__ const T* depth_taps(const SeparableParams<T>& p) {
  extern __shared__ float4 shared_memory[];
  T* taps = reinterpret_cast<T*>(shared_memory);
  for (int i = thread_index(); i < p.volume.window; i += kThreads) {
    taps[i] = p.taps[p.volume.taps + i];
  }
  __syncthreads();
  return taps;
}

template <class T, bool kMasked>
__global__ void __launch_bounds__(kThreads)
    depth_moments_kernel(const __grid_constant__ SeparableParams<T> p) {
  constexpr int kMaps = kMasked ? kMaskedMaps : kSeparableMaps;
  const T* taps = depth_taps(p);
  allow_next_launch();
  wait_for_previous_launch();
  const Shift<T> shift = kMasked ? Shift<T>{} : sampled_shift(p, Piece{}, /*whole=*/true);
  const int64_t map = p.image.rows * p.volume.pitch;
  for_elements(p, p.image.rows * p.image.columns, [&](int64_t pixel, int64_t first) {
    const int64_t row = quotient(pixel, p.image.columns);
    const int64_t column = pixel - row * p.image.columns;
    const auto place = [&](const InputImage& image) {
      return image.data + row * image.row + column * image.column;
    };
    const int64_t slice = p.volume.first_slice + first - p.volume.window / 2;
    T filtered[kMaps][kSeparableOutputs<T>];
    if constexpr (kMasked) {
      const DepthMaskedPixels<T> pixels = {p, place(p.img1), place(p.img2), place(p.mask), slice};
      filter_masked<kMaskedImages>(taps, p.volume.window, pixels, pixels, filtered);
    } else {
      const DepthPixels<T> pixels = {p, place(p.img1), place(p.img2), slice, shift};
      filter(taps, p.volume.window, pixels, filtered);
    }
    T* to = p.volume.maps + first * kMaps * map + row * p.volume.pitch + column;
#pragma unroll
    for (int o = 0; o < kSeparableOutputs<T>; ++o) {
      if (first + o < p.volume.slice_count) {
#pragma unroll
        for (int m = 0; m < kMaps; ++m) {
          to[(o * kMaps + m) * map] = filtered[m][o];
        }
      }
    }
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    depth_partials_kernel(const __grid_constant__ SeparableParams<T> p) {
  const T* taps = depth_taps(p);
  allow_next_launch();
  wait_for_previous_launch();
  for_elements(p, p.partials_plane, [&](int64_t element, int64_t first) {
    const int64_t index = p.volume.first_slice + first - p.volume.window / 2 - p.volume.value_front;
    const int64_t remainder = index % p.volume.ring_slices;
    const DepthPartials<T> partials = {p, p.volume.ring + element, index,
                                       remainder + (remainder < 0 ? p.volume.ring_slices : 0)};
    T filtered[1][kSeparableOutputs<T>];
    filter(taps, p.volume.window, partials, filtered);
    T* to = p.partials + first * p.partials_plane + element;
#pragma unroll
    for (int o = 0; o < kSeparableOutputs<T>; ++o) {
      if (first + o < p.volume.slice_count) {
        to[o * p.partials_plane] = filtered[0][o];
      }
    }
  });
}

template <class T>
cudaError_t launch_along_depth(void (*kernel)(const SeparableParams<T>),
                               const SeparableParams<T>& params, int64_t elements,
                               const DeviceFacts& device, cudaStream_t stream) {
  constexpr int kBlocksPerMultiprocessor = 16;
  const int64_t blocks =
      std::min<int64_t>(DepthWork<T>(params, elements).blocks,
                        int64_t{device.multiprocessors} * kBlocksPerMultiprocessor);
  const int taps = params.volume.window + kSeparableVector<T>;  // the last vector is read whole
  return launch_kernel(kernel, params, static_cast<int>(blocks), kThreads,
                       taps * static_cast<int>(sizeof(T)), device, stream);
}

}  // namespace separable

template <class T>
cudaError_t launch_depth_moments(const SeparableParams<T>& params, const DeviceFacts& device,
                                 cudaStream_t stream) {
  return separable::launch_along_depth(
      params.merges_variances ? separable::depth_moments_kernel<T, true>
                              : separable::depth_moments_kernel<T, false>,
      params, params.image.rows * params.image.columns, device, stream);
}

template <class T>
cudaError_t launch_depth_partials(const SeparableParams<T>& params, const DeviceFacts& device,
                                  cudaStream_t stream) {
  return separable::launch_along_depth(separable::depth_partials_kernel<T>, params,
                                       params.partials_plane, device, stream);
}

template cudaError_t launch_depth_moments(const SeparableParams<float>&, const DeviceFacts&,
                                          cudaStream_t);
template cudaError_t launch_depth_moments(const SeparableParams<double>&, const DeviceFacts&,
                                          cudaStream_t);
template cudaError_t launch_depth_partials(const SeparableParams<float>&, const DeviceFacts&,
                                           cudaStream_t);
template cudaError_t launch_depth_partials(const SeparableParams<double>&, const DeviceFacts&,
                                           cudaStream_t);

}  // namespace fused_ssim::cuda
