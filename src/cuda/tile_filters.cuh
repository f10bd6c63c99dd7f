// Filters of tiles: 4 columns of a row, or some rows of a column, out of what lies in shared memory.
#pragma once

#include "cuda/filters.cuh"

namespace fused_ssim::cuda {

// Filters 4 columns and their squares out of quads that start 2 columns before the first window.
// Centred, it does so around the mean of two that all four windows see.
template <bool kCentred, class Window>
__device__ __forceinline__ void filter_quad(const Window& window, const float* quads,
                                            float (&mean)[4], float (&square)[4]) {
  constexpr int kSkip = 2;
  const float centre = kCentred ? 0.5f * (quads[kSkip + 6] + quads[kSkip + 7]) : 0.0f;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float4 quad = *reinterpret_cast<const float4*>(quads + 4 * j);
    const float quad_values[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = 4 * j + e - kSkip;
      if (i < 0 || i >= 14) {
        continue;
      }
      const float value = kCentred ? quad_values[e] - centre : quad_values[e];
      const float value2 = value * value;
#pragma unroll
      for (int o = 0; o < 4; ++o) {
        add_input<Filter::kRow>(window, value, i, o, &mean[o]);
        add_input<Filter::kRowOfSquares>(window, value2, i, o, &square[o]);
      }
    }
  }
  if constexpr (kCentred) {
#pragma unroll
    for (int o = 0; o < 4; ++o) {
      to_mean_and_variance<Window>(centre, &mean[o], &square[o]);
    }
  }
}

__device__ __forceinline__ void read_cell(const float* cell, float (&maps)[4]) {
  const float4 quad = *reinterpret_cast<const float4*>(cell);
  maps[0] = quad.x, maps[1] = quad.y, maps[2] = quad.z, maps[3] = quad.w;
}

// Filters kMaps of the maps in kRows cells of one column.
template <int kPitch, class Window, int kMaps, int kRows>
__device__ __forceinline__ void filter_column(const Window& window, const float* column,
                                              float (&out)[kMaps][kRows]) {
#pragma unroll
  for (int i = 0; i < kRows + kDefaultWindowSize - 1; ++i) {
    float cell[4];
    read_cell(column + i * kPitch, cell);
#pragma unroll
    for (int map = 0; map < kMaps; ++map) {
#pragma unroll
      for (int o = 0; o < kRows; ++o) {
        add_input<Filter::kColumn>(window, cell[map], i, o, &out[map][o]);
      }
    }
  }
}

// The same of cells with variances: moments for means shifted by these filtered centres. `last`: the
// last of the rows that lies in the image. Below it pixels are zero, and short windows of rows above
// may not see them, however far they are from what these see.
struct Centres {
  float s;
  float d;
};
template <int kPitch, class Window, int kRows>
__device__ __forceinline__ Centres filter_centred_column(const Window& window, const float* column,
                                                         int last, float (&out)[4][kRows]) {
  constexpr int kMiddle = (kRows + kDefaultWindowSize - 1) / 2;
  const auto row = [&](int middle) { return Window::kIsGiven ? min(middle, last) : middle; };
  constexpr auto kGain = static_cast<float>(Window::kGain);
  float above[4], below[4];
  read_cell(column + row(kMiddle - 1) * kPitch, above);
  read_cell(column + row(kMiddle) * kPitch, below);
  const float centre[2] = {0.5f * (above[0] + below[0]), 0.5f * (above[1] + below[1])};
#pragma unroll
  for (int i = 0; i < kRows + kDefaultWindowSize - 1; ++i) {
    float cell[4];
    read_cell(column + i * kPitch, cell);
#pragma unroll
    for (int image = 0; image < 2; ++image) {
      to_mean_and_square<Window>(centre[image], &cell[image], &cell[2 + image]);
#pragma unroll
      for (int o = 0; o < kRows; ++o) {
        add_input<Filter::kColumn>(window, cell[image], i, o, &out[image][o]);
        add_input<Filter::kColumn>(window, cell[2 + image], i, o, &out[2 + image][o]);
      }
    }
  }
  return {kGain * centre[0], kGain * centre[1]};
}

// Partial derivatives of kColumns columns, filtered along the row; `by_mean2` only with kTwo.
template <int kColumns>
struct RowPartials {
  float by_mean[kColumns];
  float by_s2[kColumns];
  float by_d2[kColumns];
  float by_mean2[kColumns];
};

// Filters the partials of the cells from `cells` on.
template <bool kTwo, int kColumns, class Window>
__device__ __forceinline__ void filter_partials(const Window& window, const float* cells,
                                                RowPartials<kColumns>* out) {
#pragma unroll
  for (int i = 0; i < kColumns + kDefaultWindowSize - 1; ++i) {
    const float4 cell = reinterpret_cast<const float4*>(cells)[i];
#pragma unroll
    for (int o = 0; o < kColumns; ++o) {
      add_input<Filter::kRow>(window, cell.x, i, o, &out->by_mean[o]);
      add_input<Filter::kRowOfSquares>(window, cell.y, i, o, &out->by_s2[o]);
      add_input<Filter::kRowOfSquares>(window, cell.z, i, o, &out->by_d2[o]);
      if (kTwo) {
        add_input<Filter::kRow>(window, cell.w, i, o, &out->by_mean2[o]);
      }
    }
  }
}

}  // namespace fused_ssim::cuda
