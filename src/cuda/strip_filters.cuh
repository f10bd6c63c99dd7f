// What the strip kernels share: filters along rows and down columns with the 11-tap window, and
// from moments to values and partial derivatives.
//
// Between rows and columns the four row-filtered maps lie in shared memory, and partial
// derivatives, filtered down the column, take their place. Where no gradient is wanted, the maps of
// a pixel lie together in a cell of 16 bytes (mean_s, mean_d, mean_s2, mean_d2), so that a column
// thread takes them with one load. With a gradient they lie one after the other, like the partials
// (by the first image's mean, by mean_s2, by mean_d2, by the second image's mean), of which the
// rows need windows of 18 columns: 15 loads instead of 18.
#pragma once

#include "core/formula.h"
#include "core/taps.h"
#include "cuda/image_access.cuh"
#include "cuda/kernels.h"
#include "cuda/pixel_shift.cuh"
#include "cuda/window.cuh"

namespace fused_ssim::cuda {

// What the variants of the kernels differ in.
template <StripKind kKind_, class Window_>
struct KindTraits {
  using Window = Window_;
  static constexpr StripKind kKind = kKind_;
  static constexpr bool kMap = kKind == StripKind::kMap;
  static constexpr bool kMse = has_mse(kKind);
  static constexpr bool kGradient = has_gradient(kKind);
  static constexpr bool kTwo = kKind == StripKind::kTwoGradients || kKind == StripKind::kWeighted;
  static constexpr bool kWeighted = kKind == StripKind::kWeighted;
  // Maps of partial derivatives: by one image's mean, by both squares, by the other image's mean.
  static constexpr int kPartialMaps = !kGradient ? 0 : kTwo ? 4 : 3;
  static constexpr bool kCells = !kGradient;
  // Whether outputs that are no numbers are mended (containment.cuh).
  static constexpr bool kContains = Window::kIsGiven && (kMap || kGradient);
};

// The column filter of one map, in transposed form.
struct ColumnFilter {
  float state[10] = {};

  template <class Window>
  __device__ __forceinline__ float push(const Window& window, float v) {
    const float out = add_product<Filter::kColumn>(window, v, 10, state[0]);
#pragma unroll
    for (int k = 0; k < 9; ++k) {
      state[k] = add_product<Filter::kColumn>(window, v, k + 1, state[k + 1]);
    }
    state[9] = add_product<Filter::kColumn>(window, v, 0, 0.0f);
    return out;
  }
};

inline constexpr int kCell = 4;  // floats

// Where the maps of a chunk lie, in floats.
template <class Traits>
struct MapPlaces {
  static constexpr int kColumn = Traits::kCells ? kCell : 1;  // from one to the next
  // The gradient's last group of 8 columns reads four more than there are. An odd number of quads.
  static constexpr int kRow =
      Traits::kCells ? kCell * (Traits::kColumns + 3) : Traits::kColumns + 4;
  static_assert(kRow % 8 == 4, "no bank conflicts of lanes that have a row each");
  static constexpr int kMap = Traits::kCells ? 1 : Traits::kChunkRows * kRow;
  static constexpr int kChunk = kCell * Traits::kChunkRows * (Traits::kColumns + 4);
};

// Filters 18 columns, from the first of `quads`, to 8.
template <Filter kFilter, class Window>
__device__ __forceinline__ void filter_row(const Window& window, const float* quads,
                                           float (&out)[8]) {
#pragma unroll
  for (int j = 0; j < 5; ++j) {
    const float4 quad = *reinterpret_cast<const float4*>(quads + 4 * j);
    const float value[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
#pragma unroll
      for (int o = 0; o < 8; ++o) {
        add_input<kFilter>(window, value[e], 4 * j + e, o, &out[o]);
      }
    }
  }
}

// Filters 18 columns and their squares, the first of them kSkip after `quads`, to 8.
template <int kSkip, class Window>
__device__ __forceinline__ void filter_row_and_square(const Window& window, const float* quads,
                                                      float (&mean)[8], float (&square)[8]) {
#pragma unroll
  for (int j = 0; j < (kSkip + 21) / 4; ++j) {
    const float4 quad = *reinterpret_cast<const float4*>(quads + 4 * j);
    const float value[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = 4 * j + e - kSkip;
      if (i < 0 || i >= 18) {
        continue;
      }
      const float value2 = value[e] * value[e];
#pragma unroll
      for (int o = 0; o < 8; ++o) {
        add_input<Filter::kRow>(window, value[e], i, o, &mean[o]);
        add_input<Filter::kRowOfSquares>(window, value2, i, o, &square[o]);
      }
    }
  }
}

// Filters 18 columns of s, d and their squares to the cells of 8. The first column lies kSkip after
// `row1` and `row2` (StagedRow), whose values `convert` makes s and d.
template <int kSkip, class Window, class Row, class Convert>
__device__ __forceinline__ void filter_row_to_cells(const Window& window, const Row& row1,
                                                    const Row& row2, const Convert& convert,
                                                    float* cells) {
  constexpr int kAtOnce = Row::kAtOnce;
  float mean_s[8], mean_d[8], square_s[8], square_d[8];
#pragma unroll
  for (int j = 0; j < (kSkip + 17 + kAtOnce) / kAtOnce; ++j) {
    float value1[kAtOnce], value2[kAtOnce];
    row1.read(kAtOnce * j, value1);
    row2.read(kAtOnce * j, value2);
#pragma unroll
    for (int e = 0; e < kAtOnce; ++e) {
      const int i = kAtOnce * j + e - kSkip;
      if (i < 0 || i >= 18) {
        continue;
      }
      float s, d;
      convert(value1[e], value2[e], &s, &d);
      const float s2 = s * s;
      const float d2 = d * d;
#pragma unroll
      for (int o = 0; o < 8; ++o) {
        add_input<Filter::kRow>(window, s, i, o, &mean_s[o]);
        add_input<Filter::kRow>(window, d, i, o, &mean_d[o]);
        add_input<Filter::kRowOfSquares>(window, s2, i, o, &square_s[o]);
        add_input<Filter::kRowOfSquares>(window, d2, i, o, &square_d[o]);
      }
    }
  }
#pragma unroll
  for (int o = 0; o < 8; ++o) {
    reinterpret_cast<float4*>(cells)[o] =
        make_float4(mean_s[o], mean_d[o], square_s[o], square_d[o]);
  }
}

__device__ __forceinline__ void store_group(float* quads, const float (&value)[8]) {
  *reinterpret_cast<float4*>(quads) = make_float4(value[0], value[1], value[2], value[3]);
  *reinterpret_cast<float4*>(quads + 4) = make_float4(value[4], value[5], value[6], value[7]);
}

// Filters a row of staged s and d to the maps of 8 columns, which begin at `maps`.
template <class Traits>
__device__ __forceinline__ void filter_staged_row(const typename Traits::Window& window,
                                                  const float* quads_s, const float* quads_d,
                                                  float* maps) {
  using Places = MapPlaces<Traits>;
  if constexpr (Traits::kCells) {
    using Row = StagedRow<DType::kFloat32>;
    filter_row_to_cells<Traits::kSkip>(
        window, Row{quads_s}, Row{quads_d},
        [](float staged_s, float staged_d, float* s, float* d) {
          *s = staged_s;
          *d = staged_d;
        },
        maps);
  } else {
#pragma unroll
    for (int image = 0; image < 2; ++image) {
      float mean[8];
      float square[8];
      filter_row_and_square<Traits::kSkip>(window, image == 0 ? quads_s : quads_d, mean, square);
      store_group(maps + image * Places::kMap, mean);
      store_group(maps + (2 + image) * Places::kMap, square);
    }
  }
}

// The row-filtered maps at one pixel: mean_s, mean_d, mean_s2, mean_d2.
template <class Traits>
__device__ __forceinline__ float4 load_maps(const float* place) {
  constexpr int kMap = MapPlaces<Traits>::kMap;
  if constexpr (Traits::kCells) {
    return *reinterpret_cast<const float4*>(place);
  } else {
    return make_float4(place[0], place[kMap], place[2 * kMap], place[3 * kMap]);
  }
}

// The gradient of 8 columns (of both images, if kTwo): filters the partials that begin at `maps`,
// and combines them with s and d, which `read_s` and `read_d` put into an array, where d stays.
template <class Traits, class ReadS, class ReadD>
__device__ __forceinline__ void filter_gradient_row(const typename Traits::Window& window,
                                                    const float* maps, const ReadS& read_s,
                                                    const ReadD& read_d, float (&d)[8],
                                                    float (&first)[8], float (&second)[8]) {
  using Places = MapPlaces<Traits>;
  float filtered[8];
  filter_row<Filter::kRow>(window, maps, first);
  if constexpr (Traits::kTwo) {
    filter_row<Filter::kRow>(window, maps + 3 * Places::kMap, second);
  }
  filter_row<Filter::kRowOfSquares>(window, maps + Places::kMap, filtered);
  read_s(d);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    first[i] = fmaf(d[i], filtered[i], first[i]);
    if constexpr (Traits::kTwo) {
      second[i] = fmaf(d[i], filtered[i], second[i]);
    }
  }
  filter_row<Filter::kRowOfSquares>(window, maps + 2 * Places::kMap, filtered);
  read_d(d);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    first[i] = fmaf(d[i], filtered[i], first[i]);
    if constexpr (Traits::kTwo) {
      second[i] = fmaf(-d[i], filtered[i], second[i]);
    }
  }
}

// Partial derivatives of one pixel, of the images' mean and of both squares: in the order of their
// maps. Of img1 and img2, or of the one image that wants a gradient.
template <bool kTwo, bool kWeighted>
__device__ __forceinline__ float4 partials_of(const Moments<float>& moments,
                                              const SsimTerms<float>& terms,
                                              const DoubledStabilizers<float>& stabilizers,
                                              float weight) {
  const SquarePartials<float> by_squares = square_partials(terms);
  float4 partials = {mean_partial(moments, terms, by_squares, stabilizers, 1.0f),
                     by_squares.by_mean_s2, by_squares.by_mean_d2,
                     kTwo ? mean_partial(moments, terms, by_squares, stabilizers, -1.0f) : 0.0f};
  if constexpr (kWeighted) {
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
  ColumnFilter moments[4];
  ColumnFilter partials[Traits::kGradient ? Traits::kPartialMaps : 1];
  // kContains: no number where a window or a weight that has an effect was none.
  float probe = 0.0f;
};

template <class Traits>
__device__ __forceinline__ Moments<float> push_moments(const typename Traits::Window& window,
                                                       const float4& maps,
                                                       ColumnState<Traits>& state) {
  return {state.moments[0].push(window, maps.x), state.moments[1].push(window, maps.y),
          state.moments[2].push(window, maps.z), state.moments[3].push(window, maps.w)};
}

// The row-filtered maps of a row above or below the image, where pixels are zero.
template <class Window>
__device__ __forceinline__ float4 maps_outside(const Window& window, const PixelShift& shift) {
  const float s = -(shift.x + shift.y);
  const float d = -(shift.x - shift.y);
  return make_float4(filtered_once<Filter::kRow>(window, s), filtered_once<Filter::kRow>(window, d),
                     filtered_once<Filter::kRowOfSquares>(window, s * s),
                     filtered_once<Filter::kRowOfSquares>(window, d * d));
}

// What a column needs to know of its piece of a strip.
struct ColumnJob {
  float shift_s;  // what the filters make of the shifts of s and d
  float shift_d;
  float* map;           // kMap: of the plane
  const char* weights;  // kWeighted: of the plane
  int map_column;       // in both

  __device__ __forceinline__ void store(const StripParams& p, int row,
                                        const SsimTerms<float>& terms) const {
    map[(row - p.value_top) * p.map_pitch + map_column] = ssim_value(terms);
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

// One column of one chunk of 8 rows, the first of which is `first_row` of the image. Returns the
// sum of ssim_loss() over its own rows. Unless masked, all rows are own ones and have values; else
// bits of `value_rows` and `own_rows` say which do.
template <class Traits, bool kMasked>
__device__ __forceinline__ float filter_column_rows(const StripParams& p, const ColumnJob& job,
                                                    int first_row, bool own_column,
                                                    unsigned value_rows, unsigned own_rows,
                                                    WeightStream<Traits::kRowsAtOnce>& weights,
                                                    float* column, ColumnState<Traits>& state) {
  static_assert(!Traits::kWeighted || !Traits::kRollMasked, "weights come kRowsAtOnce at a time");
  const typename Traits::Window window(p);
  const DoubledStabilizers<float> stabilizers = {p.twice_c1, p.twice_c2};
  float loss = 0.0f;

  // Code of more rows at once than Traits::kRowsAtOnce is too long for the instruction cache.
  constexpr int kRows = kMasked && Traits::kRollMasked ? 1 : Traits::kRowsAtOnce;
  using Places = MapPlaces<Traits>;
  float* places = column;
#pragma unroll 1
  for (int first = 0; first < Traits::kChunkRows; first += kRows, places += kRows * Places::kRow) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int r = first + i;
      float* place = places + i * Places::kRow;
      const Moments<float> moments = push_moments(window, load_maps<Traits>(place), state);
      const SsimTerms<float> terms = ssim_terms(moments, job.shift_s, job.shift_d, stabilizers);
      const bool is_own = !kMasked || (own_rows & 1u << r) != 0u;
      loss += is_own ? ssim_loss(terms) : 0.0f;
      if (Traits::kContains && !is_own) {
        state.probe += ssim_loss(terms);
      }
      if constexpr (Traits::kMap) {
        if (is_own && own_column) {
          job.store(p, first_row + r, terms);
        }
      }
      if constexpr (Traits::kGradient) {
        const float4 partials = partials_of<Traits::kTwo, Traits::kWeighted>(
            moments, terms, stabilizers, Traits::kWeighted ? weights.take(p, i) : 1.0f);
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
  }
  if (Traits::kContains) {
    state.probe += loss;
  }
  return own_column ? loss : 0.0f;
}

// The first chunk of a piece: no window is complete yet.
template <class Traits>
__device__ __forceinline__ void push_column_rows(const typename Traits::Window& window,
                                                 const float* column, ColumnState<Traits>& state) {
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
  const float4 maps = maps_outside(window, shift);
#pragma unroll 1
  for (int r = 0; r < kDefaultWindowSize / 2; ++r) {
    push_moments(window, maps, state);
  }
}

// Values alone: rows [first_row, end_row) of a column, the last of an image, whose windows end
// below it. Returns the sum of ssim_loss() over those from `own_top` on.
template <class Traits>
__device__ __forceinline__ float filter_last_rows(const StripParams& p, const ColumnJob& job,
                                                  const PixelShift& shift, int first_row,
                                                  int end_row, int own_top, bool own_column,
                                                  ColumnState<Traits>& state) {
  const DoubledStabilizers<float> stabilizers = {p.twice_c1, p.twice_c2};
  const typename Traits::Window window(p);
  const float4 maps = maps_outside(window, shift);
  float loss = 0.0f;
#pragma unroll 1
  for (int row = first_row; row < end_row; ++row) {
    const SsimTerms<float> terms =
        ssim_terms(push_moments(window, maps, state), job.shift_s, job.shift_d, stabilizers);
    if (row >= own_top) {
      loss += ssim_loss(terms);
      if (Traits::kMap && own_column) {
        job.store(p, row, terms);
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

// Both images' pixels in memory.
template <Elements kElements>
struct PixelPlanes {
  const char* plane1;
  const char* plane2;

  // The sign of their difference.
  __device__ __forceinline__ float sign(const StripParams& p, int y, int x) const {
    const float a =
        load_element_of<float, kElements>(plane1 + y * p.img1.row + x * p.img1.column, p.img1);
    const float b =
        load_element_of<float, kElements>(plane2 + y * p.img2.row + x * p.img2.column, p.img2);
    return a > b ? 1.0f : a < b ? -1.0f : 0.0f;
  }
};

// The smallest and the sum of kCount magnitudes: by halves, which wait less for one another than a
// chain.
template <int kCount>
__device__ __forceinline__ float least_magnitude(const float* v) {
  if constexpr (kCount == 1) {
    return fabsf(v[0]);
  } else {
    return fminf(least_magnitude<kCount / 2>(v), least_magnitude<kCount / 2>(v + kCount / 2));
  }
}
template <int kCount>
__device__ __forceinline__ float sum_of_magnitudes(const float* v) {
  if constexpr (kCount == 1) {
    return fabsf(v[0]);
  } else {
    return sum_of_magnitudes<kCount / 2>(v) + sum_of_magnitudes<kCount / 2>(v + kCount / 2);
  }
}

// Scales the gradients at kCount columns from `x` on, of which `columns` exist, and adds that of
// the L1 term. `d` as staged, `equal` where the pixels are the same: there d may hide a difference
// below its rounding, so the pixels themselves are looked at. Returns the sum of |x - y|, scaled
// like d.
template <class Traits, int kCount>
__device__ __forceinline__ float finish_with_l1(
    const StripParams& p, const char* weights,
    const PixelPlanes<elements_of(Traits::kLoader)>& planes, float equal, int y, int x, int columns,
    const float (&d)[kCount], float (&first)[kCount], float (&second)[kCount]) {
  const int left = p.value_left - x;
  const int right = min(p.value_right - x, columns);
  float difference[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    difference[i] = d[i] - equal;
  }
  const auto add = [&](int i, float l1) {
    first[i] = fmaf(first[i], p.gradient_scale, l1);
    if constexpr (Traits::kTwo) {
      second[i] = fmaf(second[i], p.gradient_scale, -l1);
    }
  };
  // For one gradient alone: registers are short for two.
  if (!Traits::kTwo && !Traits::kWeighted && left <= 0 && right >= kCount &&
      least_magnitude<kCount>(difference) > 0.0f) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      add(i, __int_as_float((__float_as_int(difference[i]) & static_cast<int>(0x80000000u)) ^
                            __float_as_int(p.gradient_l1)));
    }
    return sum_of_magnitudes<kCount>(difference);
  }

  // For two gradients without a loop: that takes a register more than there is.
  constexpr int kUnsureAtOnce = Traits::kTwo ? kCount : 1;
  float sum = 0.0f;
  // Bit i: of column i the first image's pixel is greater; bit kCount + i: less. One word:
  // registers are short.
  unsigned signs = 0;
  const auto sign_bit = [](int i, float sign) {
    return sign > 0.0f ? 1u << i : sign < 0.0f ? 1u << (kCount + i) : 0u;
  };
  unsigned unsure = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (left <= i && i < right) {
      sum += fabsf(difference[i]);
      signs |= sign_bit(i, difference[i]);
      unsure |= difference[i] == 0.0f && equal != 0.0f ? 1u << i : 0u;
    }
  }
  if (unsure != 0) {
#pragma unroll kUnsureAtOnce
    for (int i = 0; i < kCount; ++i) {
      if ((unsure & 1u << i) != 0u) {
        signs |= sign_bit(i, planes.sign(p, y, x + i));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    float l1 = (signs & 1u << i) != 0u              ? p.gradient_l1
               : (signs & 1u << (kCount + i)) != 0u ? -p.gradient_l1
                                                    : 0.0f;
    if constexpr (Traits::kWeighted) {
      if (l1 != 0.0f) {
        l1 *=
            __ldg(reinterpret_cast<const float*>(weights + (y - p.value_top) * p.map_gradient.row +
                                                 (x + i - p.value_left) * p.map_gradient.column));
      }
    }
    add(i, l1);
  }
  return sum;
}

}  // namespace fused_ssim::cuda
