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
// thread computes 8 slices (float64: 4) of a pixel, or twice as many of partial derivatives; inputs stay
// in registers.
//
// Global memory per voxel of accumulation type T, beside images and gradients: 4 T of maps, and
// with a gradient twice 3 T (4 T for both) of partial derivatives. Each is written and read once, but
// along depth pixels are read 1 + 2 r / 8 times and partial derivatives 1 + 2 r / 16 times, from the L1
// and L2 caches where these hold them.
#include <algorithm>

#include "cuda/launches.h"
#include "cuda/separable.h"
#include "cuda/separable_masked_passes.cuh"

namespace fused_ssim::cuda {
namespace separable {

// A pixel of both images, slice by slice. A block of slices is loaded at once, so that its loads are
// under way together.
template <class T>
struct DepthColumn {
  static constexpr int kBlock = kSeparableOutputs<T>;
  const SeparableParams<T>& p;
  const char* x;  // of slice `slice`
  const char* y;
  int slice;  // the first of the block
  int end;    // of the slices that are needed
  T xs[kBlock];
  T ys[kBlock];

  // From slice `first` on what the windows of a block of outputs see.
  __device__ __forceinline__ DepthColumn(const SeparableParams<T>& params, int64_t row,
                                         int64_t column, int first)
      : p(params),
        x(place(p.img1, row, column, first)),
        y(place(p.img2, row, column, first)),
        slice(first),
        end(min(first + p.volume.window + kBlock - 1, static_cast<int>(p.volume.slices))) {
    load();
  }
  static __device__ __forceinline__ const char* place(const InputImage& image, int64_t row,
                                                      int64_t column, int slice) {
    return image.data + slice * image.channel + row * image.row + column * image.column;
  }
  __device__ __forceinline__ void load() {
    load_pixels(p.img1, x, p.img1.channel, Between{-slice, end - slice}, xs);
    load_pixels(p.img2, y, p.img2.channel, Between{-slice, end - slice}, ys);
  }
  __device__ __forceinline__ void next_block() {
    slice += kBlock;
    x += kBlock * p.img1.channel;
    y += kBlock * p.img2.channel;
    load();
  }
};

// Its s, d, s^2, d^2.
template <class T>
struct DepthPixels : DepthColumn<T> {
  Shift<T> shift;

  __device__ __forceinline__ void read(int i, T (&input)[kSeparableMaps]) const {
    const T shifted_x = this->xs[i] - shift.x;
    const T shifted_y = this->ys[i] - shift.y;
    input[0] = shifted_x + shifted_y;
    input[1] = shifted_x - shifted_y;
    input[2] = input[0] * input[0];
    input[3] = input[1] * input[1];
  }
};

// Its m, s, d under a normalized mask.
template <class T>
struct DepthMaskedPixels : DepthColumn<T> {
  using Base = DepthColumn<T>;
  const char* mask;  // of slice `slice`
  T numbers[Base::kBlock];

  __device__ __forceinline__ DepthMaskedPixels(const SeparableParams<T>& params, int64_t row,
                                               int64_t column, int first)
      : Base(params, row, column, first), mask(Base::place(params.mask, row, column, first)) {
    load_numbers();
  }
  __device__ __forceinline__ void load_numbers() {
    const bool is_masked = this->p.mask_is_normalized;
    if (is_masked) {
      load_mask_numbers(this->p.mask, mask, this->p.mask.channel,
                        Between{-this->slice, this->end - this->slice}, numbers);
    }
#pragma unroll
    for (int i = 0; i < Base::kBlock; ++i) {  // 1 outside the volume
      const int z = this->slice + i;
      numbers[i] = is_masked && z >= 0 && z < this->p.volume.slices ? numbers[i] : T(1);
    }
  }
  __device__ __forceinline__ void read(int i, T (&input)[kMaskedImages]) const {
    input[0] = numbers[i];
    input[1] = select_positive(numbers[i], this->xs[i] + this->ys[i], T(0));
    input[2] = select_positive(numbers[i], this->xs[i] - this->ys[i], T(0));
  }
  __device__ __forceinline__ void next_block() {
    Base::next_block();
    mask += Base::kBlock * this->p.mask.channel;
    load_numbers();
  }
};

// Elements of the partial derivatives' planes that a thread filters together, and slices of its
// outputs: more than of pixels, because the L2 cache bounds this filter, and each slice is loaded
// 1 + 2 r / outputs times.
template <class T>
struct alignas(8) DepthElements {
  static constexpr int kCount = 8 / static_cast<int>(sizeof(T));
  static constexpr int kSlices = 2 * kSeparableOutputs<T>;
  T of[kCount];
};

// Such elements, slice by slice; zeros where slices have no value.
template <class T>
struct DepthPartials {
  static constexpr int kCount = DepthElements<T>::kCount;
  static constexpr int kSlices = DepthElements<T>::kSlices;
  static constexpr int kAtOnce = 8;
  const SeparableParams<T>& p;
  const T* element;  // of the ring's first slice
  int index;         // of the slice, among those that have a value
  int slot;          // of that slice in the ring, which has room for a block
  int end;           // of the slices that are needed
  DepthElements<T> loaded[kAtOnce] = {};

  __device__ __forceinline__ void read(int i, T (&input)[kCount]) {
    if (i % kAtOnce == 0) {
      const auto ring_slices = static_cast<int>(p.volume.ring_slices);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        int at = slot + i + k;
        at -= at >= ring_slices ? ring_slices : 0;
        loaded[k] = {};
        if (index + i + k >= 0 && index + i + k < end) {
          loaded[k] = *reinterpret_cast<const DepthElements<T>*>(element + at * p.partials_plane);
        }
      }
    }
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      input[e] = loaded[i % kAtOnce].of[e];
    }
  }
  __device__ __forceinline__ void next_block() {
    const auto ring_slices = static_cast<int>(p.volume.ring_slices);
    index += kSlices;
    slot += kSlices;
    slot -= slot >= ring_slices ? ring_slices : 0;
  }
};

// Blocks of threads for `elements` of a slice, times as many groups of slices.
struct DepthWork {
  int64_t blocks_per_slice;
  int64_t blocks;

  template <class T>
  __host__ __device__ DepthWork(const SeparableParams<T>& p, int64_t elements, int group_slices)
      : blocks_per_slice((elements + kThreads - 1) / kThreads),
        blocks(blocks_per_slice * ((p.volume.slice_count + group_slices - 1) / group_slices)) {}
};

// body(element of a slice, first slice of a group), for all of this block.
template <int kGroupSlices, class T, class Body>
__device__ __forceinline__ void for_elements(const SeparableParams<T>& p, int64_t elements,
                                             const Body& body) {
  const DepthWork work(p, elements, kGroupSlices);
#pragma unroll 1
  for (int64_t block = blockIdx.x; block < work.blocks; block += gridDim.x) {
    const int64_t group = quotient(block, work.blocks_per_slice);
    const int64_t element = (block - group * work.blocks_per_slice) * kThreads + thread_index();
    if (element < elements) {
      body(element, group * kGroupSlices);
    }
  }
}

// Registers for 16 warps, and four times as many blocks, which do not all end at the same time: then
// the next launch begins meanwhile. H200, us of a value and of a step at 1x1x128x256x256: 208, 452; as
// many blocks as fit 236, 476.
constexpr int kDepthBlocksPerMultiprocessor = 4;
constexpr int kDepthRounds = 4;

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
__global__ void __launch_bounds__(kThreads, kMasked ? kMaskedBlocksPerMultiprocessor
                                                    : kDepthBlocksPerMultiprocessor)
    depth_moments_kernel(const __grid_constant__ SeparableParams<T> p) {
  constexpr int kMaps = kMasked ? kMaskedMaps : kSeparableMaps;
  const T* taps = depth_taps(p);
  allow_next_launch();
  wait_for_previous_launch();
  const Shift<T> shift = kMasked ? Shift<T>{} : sampled_shift(p, Piece{}, /*whole=*/true);
  const int64_t map = p.image.rows * p.volume.pitch;
  const int64_t pixels = p.image.rows * p.image.columns;
  for_elements<kSeparableOutputs<T>>(p, pixels, [&](int64_t pixel, int64_t first) {
    const int64_t row = quotient(pixel, p.image.columns);
    const int64_t column = pixel - row * p.image.columns;
    const auto slice = static_cast<int>(p.volume.first_slice + first) - p.volume.window / 2;
    T filtered[kMaps][kSeparableOutputs<T>];
    if constexpr (kMasked) {
      const DepthMaskedPixels<T> pixels(p, row, column, slice);
      filter_masked<kMaskedImages>(taps, p.volume.window, pixels, pixels, filtered);
    } else {
      filter(taps, p.volume.window, DepthPixels<T>{{p, row, column, slice}, shift}, filtered);
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
__global__ void __launch_bounds__(kThreads, kDepthBlocksPerMultiprocessor)
    depth_partials_kernel(const __grid_constant__ SeparableParams<T> p) {
  const T* taps = depth_taps(p);
  allow_next_launch();
  wait_for_previous_launch();
  constexpr int kCount = DepthElements<T>::kCount;
  constexpr int kSlices = DepthElements<T>::kSlices;
  for_elements<kSlices>(p, p.partials_plane / kCount, [&](int64_t pair, int64_t first) {
    const int64_t element = pair * kCount;
    const auto index =
        static_cast<int>(p.volume.first_slice + first - p.volume.value_front) - p.volume.window / 2;
    const int remainder = index % static_cast<int>(p.volume.ring_slices);
    // The ring may not hold what nobody stores sums of.
    const auto outputs =
        static_cast<int>(min(static_cast<int64_t>(kSlices), p.volume.slice_count - first));
    const int end =
        min(index + p.volume.window - 1 + outputs, static_cast<int>(p.volume.value_slices));
    const DepthPartials<T> partials = {
        p, p.volume.ring + element, index,
        remainder + (remainder < 0 ? static_cast<int>(p.volume.ring_slices) : 0), end};
    T filtered[kCount][kSlices];
    filter(taps, p.volume.window, partials, filtered);
    T* to = p.partials + first * p.partials_plane + element;
#pragma unroll
    for (int o = 0; o < kSlices; ++o) {
      if (first + o < p.volume.slice_count) {
        DepthElements<T> sums;
#pragma unroll
        for (int e = 0; e < kCount; ++e) {
          sums.of[e] = filtered[e][o];
        }
        *reinterpret_cast<DepthElements<T>*>(to + o * p.partials_plane) = sums;
      }
    }
  });
}

template <class T>
cudaError_t launch_along_depth(void (*kernel)(const SeparableParams<T>),
                               const SeparableParams<T>& params, int64_t elements, int group_slices,
                               const DeviceFacts& device, cudaStream_t stream) {
  const int64_t blocks = std::min<int64_t>(
      DepthWork(params, elements, group_slices).blocks,
      int64_t{device.multiprocessors} * kDepthBlocksPerMultiprocessor * kDepthRounds);
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
      params, params.image.rows * params.image.columns, kSeparableOutputs<T>, device, stream);
}

template <class T>
cudaError_t launch_depth_partials(const SeparableParams<T>& params, const DeviceFacts& device,
                                  cudaStream_t stream) {
  using Elements = separable::DepthElements<T>;
  return separable::launch_along_depth(separable::depth_partials_kernel<T>, params,
                                       params.partials_plane / Elements::kCount, Elements::kSlices,
                                       device, stream);
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
