// Filters along rows and down columns with windows of up to 11 taps, and where their maps lie.
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
  static constexpr bool kHasMask = is_masked_kind(kKind);
  static constexpr bool kNormalized = kKind == StripKind::kNormalized;
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

// A map shows the error of each single window, so its filters work on what their inputs differ by from
// a centre nearby, and variances take the place of mean squares: rounding is then that of local
// contrast (docs/decisions/0006). In large images this is done for s alone, whose squares are the
// larger ones by far. Along a row, from the filtered differences from `centre`:
template <class Window>
__device__ __forceinline__ void to_mean_and_variance(float centre, float* mean, float* square) {
  *square = fmaf(-static_cast<float>(Window::kGain) * *mean, *mean, *square);
  *mean += centre;
}
// ... and down a column, to a mean and a mean square around `centre`.
template <class Window>
__device__ __forceinline__ void to_mean_and_square(float centre, float* mean, float* variance) {
  *mean -= centre;
  *variance = fmaf(static_cast<float>(Window::kGain) * *mean, *mean, *variance);
}

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
// `row1` and `row2` (StagedRow), whose values `shift` makes s and d. Centred, the filters
// of s work around the ninth column, which all windows of 11 see, if it is no farther than
// `largest_centre` from the shift.
template <int kSkip, bool kCentred, class Window, class Row, class AnyShift>
__device__ __forceinline__ void filter_row_to_cells(const Window& window, const Row& row1,
                                                    const Row& row2, const AnyShift& shift,
                                                    float largest_centre, float* cells) {
  constexpr int kAtOnce = Row::kAtOnce;
  float mean_s[8], mean_d[8], square_s[8], square_d[8];
  AnyShift local = shift;
  float centre = 0.0f;
  if constexpr (kCentred) {
    constexpr int kNinth = kSkip + 8;
    float value1[kAtOnce], value2[kAtOnce];
    row1.read(kNinth / kAtOnce * kAtOnce, value1);
    row2.read(kNinth / kAtOnce * kAtOnce, value2);
    local =
        shift.around(value1[kNinth % kAtOnce], value2[kNinth % kAtOnce], largest_centre, &centre);
  }
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
      local.apply(value1[e], value2[e], &s, &d);
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
    if constexpr (kCentred) {
      to_mean_and_variance<Window>(centre, &mean_s[o], &square_s[o]);
    }
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
    filter_row_to_cells<Traits::kSkip, false>(window, Row{quads_s}, Row{quads_d}, StagedShift{},
                                              0.0f, maps);
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

}  // namespace fused_ssim::cuda
