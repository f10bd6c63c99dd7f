// The column phase of strips: a thread has one column, filters its row-filtered maps down it, makes
// moments values and partial derivatives, and filters these likewise.
#pragma once

#include <type_traits>

#include "core/pointwise.h"
#include "cuda/filters.cuh"
#include "cuda/mask.cuh"

namespace fused_ssim::cuda {

// A pixel with the partial derivatives that the kernel wants. CUDA kernels know SSIM alone
// (doubled_stabilizers()).
template <class Traits>
using Pixel = PixelStatistic<!Traits::kGradient ? 0
                             : Traits::kTwo     ? 2
                                                : 1,
                             float>;
template <class Traits>
__device__ __forceinline__ Pixel<Traits> pixel_of(const DoubledStabilizers<float>& stabilizers,
                                                  const Moments<float>& moments, float shift_s,
                                                  float shift_d) {
  return pixel_statistic<FUSED_SSIM_STATISTIC_SSIM, !Traits::kGradient ? 0
                                                    : Traits::kTwo ? 2
                                                                   : 1>(moments, shift_s, shift_d,
                                                                        stabilizers);
}
// Its partial derivatives in the order of their maps, times `weight` where there are weights.
template <class Traits>
__device__ __forceinline__ float4 partials_of(const Pixel<Traits>& pixel, float weight) {
  float4 partials = {pixel.partials[0], pixel.partials[1], pixel.partials[2],
                     Traits::kTwo ? pixel.partials[Traits::kPartialMaps - 1] : 0.0f};
  if constexpr (Traits::kWeighted) {
    partials.x *= weight;
    partials.y *= weight;
    partials.z *= weight;
    partials.w *= weight;
  }
  return partials;
}

// The filters of one column: their state stays in registers while a strip is marched down.
template <class Traits>
struct ColumnState {
  ColumnFilter means[2];
  ColumnFilter squares[2];
  float centre = 0.0f;  // kMap: that the mean and mean square of s are around
  ColumnFilter partials[Traits::kGradient ? Traits::kPartialMaps : 1];
  // kContains: no number where a window or a weight that has an effect was none.
  float probe = 0.0f;
};

template <class Traits>
__device__ __forceinline__ Moments<float> push_moments(const typename Traits::Window& window,
                                                       float4 maps, ColumnState<Traits>& state) {
  if constexpr (Traits::kMap) {
    to_mean_and_square<typename Traits::Window>(state.centre, &maps.x, &maps.z);
  }
  return {state.means[0].push(window, maps.x), state.means[1].push(window, maps.y),
          state.squares[0].push(window, maps.z), state.squares[1].push(window, maps.w)};
}

// How far from the shift a centre may lie: twice the range of the images, as C1 and C2 by the
// standard factors have it. What is brighter, a firefly of a renderer, would cost windows digits that
// do not see it.
template <class Traits>
__device__ __forceinline__ float largest_centre(const StripParams& p) {
  return Traits::kMap ? sqrtf(fminf(2e4f * p.twice_c1, 2.2e3f * p.twice_c2)) *
                            static_cast<float>(1.0 / Traits::Window::kGain)
                      : 0.0f;
}

// The same for 8 columns of a row, around the fourth, `column`. Beyond the image pixels are zero, and
// short windows of columns inside may not see them, however far they are from what these see.
template <class Traits>
__device__ __forceinline__ float largest_centre(const StripParams& p, int column) {
  return Traits::Window::kIsGiven && column >= p.width ? 0.0f : largest_centre<Traits>(p);
}

// kMap: moves the centre of a column's filters to its next row `y`, `maps`, which all windows under
// way see, where that is far away: half the range of the images, or, of windows whose taps at the edge
// weigh as much as others, half of that. Short windows do not see it, and where it lies beyond the
// image it tells nothing of what they see.
template <class Traits>
__device__ __forceinline__ void move_centre(const StripParams& p,
                                            const typename Traits::Window& window, int y,
                                            const float4& maps, ColumnState<Traits>& state) {
  if (Traits::Window::kIsGiven && (y < 0 || y >= p.height)) {
    return;
  }
  constexpr float kFar = Traits::Window::kIsGiven ? 0.125f : 0.25f;
  constexpr auto kGain = static_cast<float>(Traits::Window::kGain);
  const float bound = largest_centre<Traits>(p);
  const float centre = fminf(fmaxf(maps.x, -bound), bound);
  const float change = state.centre - centre;
  if (fabsf(change) > kFar * bound) {
    float* mean = state.means[0].state;
    float* square = state.squares[0].state;
    float taps = 0.0f;  // that the sums have so far
#pragma unroll
    for (int k = 9; k >= 0; --k) {
      taps = add_product<Filter::kColumn>(window, 1.0f, 9 - k, taps);
      const float moved = fmaf(change, taps, mean[k]);
      square[k] = fmaf(kGain * change, mean[k] + moved, square[k]);
      mean[k] = moved;
    }
    state.centre = centre;
  }
}

// The row-filtered maps of a row above or below the image, where pixels are zero.
template <class Traits>
__device__ __forceinline__ float4 maps_outside(const typename Traits::Window& window,
                                               const PixelShift& shift) {
  const float s = -(shift.x + shift.y);
  const float d = -(shift.x - shift.y);
  return make_float4(Traits::kMap ? s : filtered_once<Filter::kRow>(window, s),
                     filtered_once<Filter::kRow>(window, d),
                     Traits::kMap ? 0.0f : filtered_once<Filter::kRowOfSquares>(window, s * s),
                     filtered_once<Filter::kRowOfSquares>(window, d * d));
}

// What a column needs to know of its piece of a strip.
struct ColumnJob {
  float shift_s;  // what the filters make of the shifts of s and d
  float shift_d;
  float* map;           // kMap: of the plane
  const char* weights;  // kWeighted: of the plane
  int map_column;       // in both
  // kHasMask:
  MaskPlane mask;
  DoubledStabilizers<float> stabilizers;

  // What a column's means are to be moved by.
  template <class Traits>
  __device__ __forceinline__ MeanShift shift_of(const ColumnState<Traits>& state) const {
    if constexpr (Traits::kMap) {
      return {fmaf(static_cast<float>(Traits::Window::kGain), state.centre, shift_s), shift_d};
    }
    return {shift_s, shift_d};
  }
  __device__ __forceinline__ void store(const StripParams& p, int row, float value) const {
    map[(row - p.value_top) * p.map_pitch + map_column] = value;
  }
};

// Bit r is set where row `first` + r lies in [begin, end).
__device__ __forceinline__ unsigned row_bits(int first, int begin, int end) {
  const int low = min(max(begin - first, 0), 31);
  const int high = min(max(end - first, low), 31);
  return (1u << high) - (1u << low);
}

// kWeighted: the weights of a column, kRows rows ahead; 0 outside of the map.
template <int kRows>
struct WeightStream {
  const char* next;  // the first row that is not loaded
  int y;             // of the map
  int rows;          // of the map; 0 where it has no such column
  float loaded[kRows];

  // Begins with row `first_row` of the image.
  __device__ __forceinline__ void start(const StripParams& p, const ColumnJob& job, bool has_column,
                                        int first_row) {
    y = first_row - p.value_top;
    rows = has_column ? p.value_bottom - p.value_top : 0;
    next = job.weights + y * p.map_gradient.row + job.map_column * p.map_gradient.column;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      load(p, i);
    }
  }
  __device__ __forceinline__ void load(const StripParams& p, int i) {
    loaded[i] = 0.0f;
    if (static_cast<unsigned>(y) < static_cast<unsigned>(rows)) {
      loaded[i] = __ldg(reinterpret_cast<const float*>(next));
    }
    next += p.map_gradient.row;
    ++y;
  }
  // The next row's, which is the i-th of kRows.
  __device__ __forceinline__ float take(const StripParams& p, int i) {
    const float weight = loaded[i];
    load(p, i);
    return weight;
  }
};

template <class Traits>
using Weights = std::conditional_t<
    Traits::kNormalized, MeanStream,
    std::conditional_t<Traits::kHasMask, MaskStream, WeightStream<Traits::kRowsAtOnce>>>;
template <class Traits>
__device__ __forceinline__ void start_weights(const StripParams& p, const ColumnJob& job,
                                              bool has_column, int first_row,
                                              Weights<Traits>& weights) {
  if constexpr (Traits::kHasMask) {
    weights.start(p, job.mask, job.map_column + p.value_left, has_column, first_row);
  } else if constexpr (Traits::kWeighted) {
    weights.start(p, job, has_column, first_row);
  }
}

// One column of one chunk of 8 rows, the first of which is `first_row` of the image. Returns the
// sum of the losses of its own rows. Unless masked, all rows are own ones and have values; else
// bits of `value_rows` and `own_rows` say which do. kBits: whether the mask is known to come in bits.
template <class Traits, bool kMasked, bool kBits>
__device__ __forceinline__ float filter_column_rows(const StripParams& p, const ColumnJob& job,
                                                    int first_row, bool own_column,
                                                    unsigned value_rows, unsigned own_rows,
                                                    Weights<Traits>& weights, float* column,
                                                    ColumnState<Traits>& state) {
  static_assert(!Traits::kHasMask || Traits::kRowsAtOnce % MaskStream::kAhead == 0, "whole rounds");
  const typename Traits::Window window(p);
  const DoubledStabilizers<float> stabilizers =
      Traits::kHasMask ? job.stabilizers : DoubledStabilizers<float>{p.twice_c1, p.twice_c2};
  float loss = 0.0f;
  const bool in_bits = kBits || (kMasked && p.mask_bits.data != nullptr);
  unsigned bits = 0u;  // from the row under way on
  if constexpr (Traits::kHasMask && !Traits::kNormalized) {
    bits = in_bits ? weights.take_bits(p, first_row) : 0u;
  }

  constexpr int kRows = Traits::kRowsAtOnce;
  using Places = MapPlaces<Traits>;
  float* places = column;
#pragma unroll 1
  for (int first = 0; first < Traits::kChunkRows; first += kRows, places += kRows * Places::kRow) {
    if constexpr (Traits::kMap) {
      move_centre<Traits>(p, window, first_row + first + kDefaultWindowSize / 2,
                          load_maps<Traits>(places), state);
    }
    const MeanShift shift = job.shift_of(state);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int r = first + i;
      float* place = places + i * Places::kRow;
      Moments<float> moments = push_moments(window, load_maps<Traits>(place), state);
      float inverse_mean = 1.0f;
      if constexpr (Traits::kNormalized) {
        inverse_mean = weights.take(p, i);
        moments = {inverse_mean * moments.mean_s, inverse_mean * moments.mean_d,
                   inverse_mean * moments.mean_s2, inverse_mean * moments.mean_d2};
      }
      Pixel<Traits> pixel = pixel_of<Traits>(stabilizers, moments, shift.s, shift.d);
      const bool is_own = !kMasked || (own_rows & 1u << r) != 0u;
      if constexpr (Traits::kNormalized) {
        mask_pixel(inverse_mean, inverse_mean, &pixel);
        loss += is_own && inverse_mean > 0.0f ? pixel.loss - p.loss_base : 0.0f;
      } else if constexpr (Traits::kHasMask) {
        if (in_bits) {
          const bool counts = (bits & 1u << i) != 0u;
          mask_pixel(counts ? 1.0f : 0.0f, 1.0f, &pixel);
          loss += is_own && counts ? pixel.loss - p.loss_base : 0.0f;
        } else {
          const float number = weights.take(p, i);
          mask_pixel(number, number, &pixel);
          loss += is_own ? number * (pixel.loss - p.loss_base) : 0.0f;
        }
      } else {
        loss += is_own ? pixel.loss : 0.0f;
      }
      if (Traits::kContains && !is_own) {
        state.probe += pixel.loss;
      }
      if constexpr (Traits::kMap) {
        if (is_own && own_column) {
          job.store(p, first_row + r, pixel.value());
        }
      }
      if constexpr (Traits::kGradient) {
        float weight = 1.0f;
        if constexpr (Traits::kWeighted) {
          weight = weights.take(p, i);
        }
        const float4 partials = partials_of<Traits>(pixel, weight);
        if (Traits::kContains && Traits::kWeighted) {
          state.probe = fmaf(partials.y, 0.0f, state.probe);
        }
        // Selected, not multiplied: a NaN beyond the border must not come in.
        const bool counts = !kMasked || (value_rows & 1u << r) != 0u;
        place[0] = state.partials[0].push(window, counts ? partials.x : 0.0f);
        place[Places::kMap] = state.partials[1].push(window, counts ? partials.y : 0.0f);
        place[2 * Places::kMap] = state.partials[2].push(window, counts ? partials.z : 0.0f);
        if constexpr (Traits::kTwo) {
          place[3 * Places::kMap] = state.partials[3].push(window, counts ? partials.w : 0.0f);
        }
      }
    }
    bits >>= kRows;
  }
  if (Traits::kContains) {
    state.probe += loss;
  }
  return own_column ? loss : 0.0f;
}

template <class Traits, bool kMasked>
__device__ __forceinline__ float filter_column_rows(const StripParams& p, const ColumnJob& job,
                                                    int first_row, bool own_column,
                                                    unsigned value_rows, unsigned own_rows,
                                                    Weights<Traits>& weights, float* column,
                                                    ColumnState<Traits>& state) {
  if constexpr (Traits::kHasMask && !Traits::kNormalized && !kMasked) {
    if (p.mask_bits.data != nullptr) {
      return filter_column_rows<Traits, kMasked, true>(p, job, first_row, own_column, value_rows,
                                                       own_rows, weights, column, state);
    }
  }
  return filter_column_rows<Traits, kMasked, false>(p, job, first_row, own_column, value_rows,
                                                    own_rows, weights, column, state);
}

// The first chunk of a piece, from row `y` of the image on: no window is complete yet.
template <class Traits>
__device__ __forceinline__ void push_column_rows(const StripParams& p,
                                                 const typename Traits::Window& window, int y,
                                                 const float* column, ColumnState<Traits>& state) {
  if constexpr (Traits::kMap) {
    move_centre<Traits>(p, window, y, load_maps<Traits>(column), state);
  }
#pragma unroll
  for (int r = 0; r < Traits::kChunkRows; ++r) {
    push_moments(window, load_maps<Traits>(column + r * MapPlaces<Traits>::kRow), state);
  }
}

// The rows above an image.
template <class Traits>
__device__ __forceinline__ void push_rows_above(const typename Traits::Window& window,
                                                const PixelShift& shift,
                                                ColumnState<Traits>& state) {
  const float4 maps = maps_outside<Traits>(window, shift);
#pragma unroll 1
  for (int r = 0; r < kDefaultWindowSize / 2; ++r) {
    push_moments(window, maps, state);
  }
}

// Values alone: rows [first_row, end_row) of a column, the last of an image, whose windows end
// below it. Returns the sum of the losses of those from `own_top` on.
template <class Traits>
__device__ __forceinline__ float filter_last_rows(const StripParams& p, const ColumnJob& job,
                                                  const PixelShift& shift, int first_row,
                                                  int end_row, int own_top, bool own_column,
                                                  ColumnState<Traits>& state) {
  const typename Traits::Window window(p);
  const DoubledStabilizers<float> stabilizers = {p.twice_c1, p.twice_c2};
  const float4 maps = maps_outside<Traits>(window, shift);
  const MeanShift mean_shift = job.shift_of(state);
  float loss = 0.0f;
#pragma unroll 1
  for (int row = first_row; row < end_row; ++row) {
    const Pixel<Traits> pixel = pixel_of<Traits>(stabilizers, push_moments(window, maps, state),
                                                 mean_shift.s, mean_shift.d);
    if (row >= own_top) {
      loss += pixel.loss;
      if (Traits::kMap && own_column) {
        job.store(p, row, pixel.value());
      }
    }
  }
  if (Traits::kContains) {
    state.probe += loss;
  }
  return own_column ? loss : 0.0f;
}

// A chunk of a column that has no values: no partials, ever.
template <class Traits>
__device__ __forceinline__ void clear_partials(float* column) {
  using Places = MapPlaces<Traits>;
#pragma unroll
  for (int r = 0; r < Traits::kChunkRows; ++r) {
#pragma unroll
    for (int i = 0; i < Traits::kPartialMaps; ++i) {
      column[r * Places::kRow + i * Places::kMap] = 0.0f;
    }
  }
}

// A chunk below the last row with values: what the partials above still give.
template <class Traits>
__device__ __forceinline__ void flush_partials(const typename Traits::Window& window, float* column,
                                               ColumnState<Traits>& state) {
  using Places = MapPlaces<Traits>;
#pragma unroll
  for (int r = 0; r < Traits::kChunkRows; ++r) {
#pragma unroll
    for (int i = 0; i < Traits::kPartialMaps; ++i) {
      column[r * Places::kRow + i * Places::kMap] = state.partials[i].push(window, 0.0f);
    }
  }
}

}  // namespace fused_ssim::cuda
