// SSIM for any window and any data type, float64 included: the plain, separable way, in two passes.
//
//   moments   a block takes a tile of 32 x 8 pixels, filters s, d, s^2, d^2 along the rows it needs
//             (global, through L1, to shared), then down the columns, and has the moments of each
//             pixel: value, map, and the partial derivatives, which go to memory.
//   gradient  the same two filters over the partial derivatives, combined with s and d.
//
// Global memory per pixel of accumulation type T: pass one reads both images and writes 4 T of
// partials; pass two reads 4 T and both images and writes the gradients. With the window of the
// fast kernels this costs several times their time; it is there for the windows and types that they
// lack.
#include "core/formula.h"
#include "cuda/image_access.cuh"
#include "cuda/kernels.h"
#include "cuda/reduction.cuh"
#include "cuda/shift.cuh"

namespace fused_ssim::cuda {
namespace {

constexpr int kTileColumns = 32;
constexpr int kTileRows = 8;
constexpr int kThreads = kTileColumns * kTileRows;
constexpr int kMaps = 4;

constexpr int shared_bytes(int radius, int element) {
  return kMaps * (kTileRows + 2 * radius) * kTileColumns * element;
}
static_assert(shared_bytes(kMaxMomentTaps / 2, 8) <= 48 * 1024, "no opt-in to more shared memory");

struct Tile {
  int64_t plane;
  int64_t left;
  int64_t top;
};

__device__ __forceinline__ Tile tile_at(const MomentParams& p, int64_t unit) {
  const int64_t per_plane = p.tiles_x * p.tiles_y;
  Tile tile;
  tile.plane = unit / per_plane;
  const int64_t in_plane = unit - tile.plane * per_plane;
  tile.top = in_plane / p.tiles_x * kTileRows;
  tile.left = in_plane % p.tiles_x * kTileColumns;
  return tile;
}

__device__ __forceinline__ bool in_image(const MomentParams& p, int64_t x, int64_t y) {
  return x >= 0 && x < p.width && y >= 0 && y < p.height;
}

template <class T>
__device__ __forceinline__ Shift<T> plane_shift(const MomentParams& p, const char* plane1,
                                                const char* plane2) {
  return sample_shift<T>(plane1, plane2, p.img1, p.img2, 0, p.height, 0, p.width);
}

template <class T>
struct SharedTaps {
  T tap[kMaxMomentTaps];
};

template <class T>
__device__ __forceinline__ void load_taps(const MomentParams& p, SharedTaps<T>* taps) {
  if (threadIdx.x <= 2 * p.radius) {
    taps->tap[threadIdx.x] = static_cast<T>(p.taps[threadIdx.x]);
  }
}

template <class T>
__device__ __forceinline__ void filter_column(const MomentParams& p, const SharedTaps<T>& taps,
                                              const T* rows, T (&out)[kMaps]) {
  const int pitch = (kTileRows + 2 * p.radius) * kTileColumns;
#pragma unroll
  for (int i = 0; i < kMaps; ++i) {
    out[i] = T(0);
  }
  const T* first = rows + threadIdx.x;  // row threadIdx.x / 32, column threadIdx.x % 32
#pragma unroll 1
  for (int k = 0; k <= 2 * p.radius; ++k) {
#pragma unroll
    for (int i = 0; i < kMaps; ++i) {
      out[i] = multiply_add(first[i * pitch + k * kTileColumns], taps.tap[k], out[i]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) moment_kernel(const __grid_constant__ MomentParams p) {
  extern __shared__ double shared_words[];
  __shared__ SharedTaps<T> taps;
  T* rows = reinterpret_cast<T*>(shared_words);
  const int pitch = (kTileRows + 2 * p.radius) * kTileColumns;
  load_taps(p, &taps);
  __syncthreads();

  const ReductionPlan& plan = p.reduction;
  int64_t unit = unit_begin(plan, blockIdx.x);
  const int64_t end = unit_begin(plan, blockIdx.x + 1);
  int64_t value_index = unit / plan.units_per_value;
  double sum = 0.0;
#pragma unroll 1
  for (; unit < end; ++unit) {
    const Tile tile = tile_at(p, unit);
    const char* plane1 = plane_of(p.img1, tile.plane, p.channels);
    const char* plane2 = plane_of(p.img2, tile.plane, p.channels);
    const Shift<T> shift = plane_shift<T>(p, plane1, plane2);

#pragma unroll 1
    for (int item = threadIdx.x; item < pitch; item += kThreads) {
      const int64_t y = tile.top - p.radius + item / kTileColumns;
      const int64_t x = tile.left + item % kTileColumns - p.radius;
      const bool row_inside = y >= 0 && y < p.height;
      const char* row1 = plane1 + y * p.img1.row;
      const char* row2 = plane2 + y * p.img2.row;
      T sum_s = T(0), sum_d = T(0), sum_s2 = T(0), sum_d2 = T(0);
#pragma unroll 1
      for (int k = 0; k <= 2 * p.radius; ++k) {
        T px = T(0);
        T py = T(0);
        if (row_inside && x + k >= 0 && x + k < p.width) {
          px = load_element<T>(row1 + (x + k) * p.img1.column, p.img1);
          py = load_element<T>(row2 + (x + k) * p.img2.column, p.img2);
        }
        px -= shift.x;
        py -= shift.y;
        const T s = px + py;
        const T d = px - py;
        const T tap = taps.tap[k];
        sum_s = multiply_add(s, tap, sum_s);
        sum_d = multiply_add(d, tap, sum_d);
        sum_s2 = multiply_add(s * s, tap, sum_s2);
        sum_d2 = multiply_add(d * d, tap, sum_d2);
      }
      rows[item] = sum_s;
      rows[item + pitch] = sum_d;
      rows[item + 2 * pitch] = sum_s2;
      rows[item + 3 * pitch] = sum_d2;
    }
    __syncthreads();

    const int64_t x = tile.left + threadIdx.x % kTileColumns;
    const int64_t y = tile.top + threadIdx.x / kTileColumns;
    const bool has_value =
        x >= p.value_left && x < p.value_right && y >= p.value_top && y < p.value_bottom;
    T filtered[kMaps];
    filter_column(p, taps, rows, filtered);
    const Moments<T> moments = {filtered[0], filtered[1], filtered[2], filtered[3]};
    const DoubledStabilizers<T> stabilizers = {static_cast<T>(2.0 * p.c1),
                                               static_cast<T>(2.0 * p.c2)};
    const SsimTerms<T> terms =
        ssim_terms(moments, shift.x + shift.y, shift.x - shift.y, stabilizers);
    const T ssim = ssim_value(terms);
    const int64_t map_columns = p.value_right - p.value_left;
    const int64_t map_rows = p.value_bottom - p.value_top;
    if (has_value) {
      if (p.map != nullptr) {
        const int64_t at = (tile.plane * map_rows + (y - p.value_top)) * map_columns;
        static_cast<T*>(p.map)[at + (x - p.value_left)] = ssim;
      }
      sum += p.statistic_weight * static_cast<double>(ssim);
      if (p.l1_weight != 0.0) {
        const T a = load_element<T>(plane1 + y * p.img1.row + x * p.img1.column, p.img1);
        const T b = load_element<T>(plane2 + y * p.img2.row + x * p.img2.column, p.img2);
        sum += p.l1_weight * fabs(static_cast<double>(a - b));
      }
    }
    if (p.partial_maps != nullptr && in_image(p, x, y)) {
      SquarePartials<T> by_squares = square_partials(terms);
      T by_mean1 = mean_partial(moments, terms, by_squares, stabilizers, T(1));
      T by_mean2 = mean_partial(moments, terms, by_squares, stabilizers, T(-1));
      if (p.map_gradient.data != nullptr && has_value) {
        const char* weights = plane_of(p.map_gradient, tile.plane, p.channels);
        const T weight =
            *reinterpret_cast<const T*>(weights + (y - p.value_top) * p.map_gradient.row +
                                        (x - p.value_left) * p.map_gradient.column);
        by_mean1 *= weight;
        by_mean2 *= weight;
        by_squares.by_mean_s2 *= weight;
        by_squares.by_mean_d2 *= weight;
      }
      const int64_t map_size = p.planes * p.height * p.width;
      T* out = static_cast<T*>(p.partial_maps) + (tile.plane * p.height + y) * p.width + x;
      out[0] = has_value ? by_mean1 : T(0);
      out[map_size] = has_value ? by_mean2 : T(0);
      out[2 * map_size] = has_value ? by_squares.by_mean_s2 : T(0);
      out[3 * map_size] = has_value ? by_squares.by_mean_d2 : T(0);
    }
    __syncthreads();

    const int64_t next = (unit + 1) / plan.units_per_value;
    if (plan.value != nullptr && (next != value_index || unit + 1 == end)) {
      store_partial<kThreads>(plan.partials, value_index, sum);
      sum = 0.0;
      value_index = next;
    }
  }
  if (plan.value != nullptr) {
    finish_reduction<kThreads, T>(plan);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(const __grid_constant__ MomentParams p) {
  extern __shared__ double shared_words[];
  __shared__ SharedTaps<T> taps;
  T* rows = reinterpret_cast<T*>(shared_words);
  const int pitch = (kTileRows + 2 * p.radius) * kTileColumns;
  load_taps(p, &taps);
  __syncthreads();

  const ReductionPlan& plan = p.reduction;
  const int64_t map_size = p.planes * p.height * p.width;
  const int64_t end = unit_begin(plan, blockIdx.x + 1);
#pragma unroll 1
  for (int64_t unit = unit_begin(plan, blockIdx.x); unit < end; ++unit) {
    const Tile tile = tile_at(p, unit);
    const char* plane1 = plane_of(p.img1, tile.plane, p.channels);
    const char* plane2 = plane_of(p.img2, tile.plane, p.channels);
    const Shift<T> shift = plane_shift<T>(p, plane1, plane2);

#pragma unroll 1
    for (int item = threadIdx.x; item < pitch; item += kThreads) {
      const int64_t y = tile.top - p.radius + item / kTileColumns;
      const int64_t x = tile.left + item % kTileColumns - p.radius;
      const bool row_inside = y >= 0 && y < p.height;
      const T* row = static_cast<const T*>(p.partial_maps) + (tile.plane * p.height + y) * p.width;
      T sums[kMaps] = {};
#pragma unroll 1
      for (int k = 0; k <= 2 * p.radius; ++k) {
        if (row_inside && x + k >= 0 && x + k < p.width) {
#pragma unroll
          for (int i = 0; i < kMaps; ++i) {
            sums[i] = multiply_add(row[i * map_size + x + k], taps.tap[k], sums[i]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kMaps; ++i) {
        rows[item + i * pitch] = sums[i];
      }
    }
    __syncthreads();

    const int64_t x = tile.left + threadIdx.x % kTileColumns;
    const int64_t y = tile.top + threadIdx.x / kTileColumns;
    T filtered[kMaps];
    filter_column(p, taps, rows, filtered);
    if (in_image(p, x, y)) {
      const T px = load_element<T>(plane1 + y * p.img1.row + x * p.img1.column, p.img1);
      const T py = load_element<T>(plane2 + y * p.img2.row + x * p.img2.column, p.img2);
      const T s = (px - shift.x) + (py - shift.y);
      const T d = (px - shift.x) - (py - shift.y);
      T l1 = T(0);
      const bool has_value =
          x >= p.value_left && x < p.value_right && y >= p.value_top && y < p.value_bottom;
      if (p.gradient_l1 != 0.0 && has_value) {
        l1 = static_cast<T>(p.gradient_l1) * ((px > py ? T(1) : T(0)) - (px < py ? T(1) : T(0)));
        if (p.map_gradient.data != nullptr) {
          const char* weights = plane_of(p.map_gradient, tile.plane, p.channels);
          l1 *= *reinterpret_cast<const T*>(weights + (y - p.value_top) * p.map_gradient.row +
                                            (x - p.value_left) * p.map_gradient.column);
        }
      }
      const T scale = static_cast<T>(p.gradient_scale);
      const T by_s = s * filtered[2];
      const T by_d = d * filtered[3];
      if (p.grad1.data != nullptr) {
        store_element(
            plane_of(p.grad1, tile.plane, p.channels) + y * p.grad1.row + x * p.grad1.column,
            multiply_add(scale, filtered[0] + (by_s + by_d), l1), p.dtype);
      }
      if (p.grad2.data != nullptr) {
        store_element(
            plane_of(p.grad2, tile.plane, p.channels) + y * p.grad2.row + x * p.grad2.column,
            multiply_add(scale, filtered[1] + (by_s - by_d), -l1), p.dtype);
      }
    }
    __syncthreads();
  }
}

}  // namespace

cudaError_t launch_moment_tiles(const MomentParams& params, int blocks, cudaStream_t stream) {
  if (params.dtype == DType::kFloat64) {
    moment_kernel<double><<<blocks, kThreads, shared_bytes(params.radius, 8), stream>>>(params);
  } else {
    moment_kernel<float><<<blocks, kThreads, shared_bytes(params.radius, 4), stream>>>(params);
  }
  return cudaGetLastError();
}

cudaError_t launch_gradient_tiles(const MomentParams& params, int blocks, cudaStream_t stream) {
  if (params.dtype == DType::kFloat64) {
    gradient_kernel<double><<<blocks, kThreads, shared_bytes(params.radius, 8), stream>>>(params);
  } else {
    gradient_kernel<float><<<blocks, kThreads, shared_bytes(params.radius, 4), stream>>>(params);
  }
  return cudaGetLastError();
}

}  // namespace fused_ssim::cuda
