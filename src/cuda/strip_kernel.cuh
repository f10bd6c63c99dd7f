// SSIM sums, maps and gradients of large images with the 11-tap window, in one pass.
//
// A block owns strips of up to `kThreads` columns and marches down them in chunks of 8 rows. With
// s = x + y - shift and d = x - y - shift (core/ssim_formula.h), a chunk goes through
//
//   load    global -> registers -> s, d in shared memory ("staged" rows). Loads are issued before
//           the column phase of the chunk above and stored after it, which hides their latency.
//   rows    thread = one row x 8 columns. Filters s, s^2, d, d^2 along the row: 18 values of each
//           serve 8 outputs. 16-byte shared loads and stores.
//   columns thread = one column. Filters the four maps down the column in transposed form,
//           state[k] = fma(v, tap[k + 1], state[k + 1]): the state lives in registers (10 a map) over
//           the whole strip. Moments -> value and partial derivatives -> the second column filter
//           (3 or 4 maps) in the same thread; its outputs replace the moments in shared memory.
//   rows    thread = one row x 8 columns again, as the first half of the next row phase: filters the
//           partials along the row, combines them with s and d of 10 rows above, stores the gradient.
//
// All that a warp touches in a row phase are its own rows; all that a thread touches in a column
// phase is its own column. So two block barriers a chunk suffice, and one buffer serves moments and
// partials in turn.
//
// Rows in shared memory are split: even quads of columns first, then odd quads, the latter at an
// offset of 16 banks. Then lanes that read every second quad (row phase) and lanes that read single
// columns (column phase) both meet no bank conflicts.
//
// The image rows are cut into one contiguous range per block, so that one wave of blocks covers any
// size with equal shares; a range may cross from strip to strip and plane to plane.
//
// Global memory per float32 pixel: 8 B read, and 4 B written a gradient image; nothing else.
// Recomputed: 10 columns (rows phase) or 20 columns a strip, 20 rows a range (10 for values alone).
#pragma once

#include "core/gaussian_window.h"
#include "core/ssim_formula.h"
#include "cuda/image_access.cuh"
#include "cuda/kernels.h"
#include "cuda/reduction.cuh"
#include "cuda/shift.cuh"

namespace fused_ssim::cuda {

inline constexpr WindowTaps<float> kStripTaps =
    round_taps_to_float(gaussian_taps(kDefaultWindowSize, kDefaultSigma));

// Tap `k` of the window as an immediate: `k` is known once the loops are unrolled.
__device__ __forceinline__ float strip_tap(int k) {
  constexpr float kTap[6] = {kStripTaps.taps[0], kStripTaps.taps[1], kStripTaps.taps[2],
                             kStripTaps.taps[3], kStripTaps.taps[4], kStripTaps.taps[5]};
  return kTap[k <= 5 ? k : 10 - k];
}

template <int kThreads_, StripKind kKind_>
struct StripTraits {
  static constexpr int kThreads = kThreads_;
  static constexpr StripKind kKind = kKind_;
  static constexpr bool kMap = kKind == StripKind::kMap;
  static constexpr bool kGradient = kKind != StripKind::kValue && kKind != StripKind::kMap;
  static constexpr bool kTwo = kKind == StripKind::kTwoGradients || kKind == StripKind::kWeighted;
  static constexpr bool kWeighted = kKind == StripKind::kWeighted;

  static constexpr int kRadius = kDefaultWindowSize / 2;
  static constexpr int kChunkRows = 8;
  static constexpr int kGroupColumns = 8;
  static constexpr int kGroups = kThreads / kGroupColumns;  // groups of columns, one thread each
  static constexpr int kRowsPerWarp = 32 / kGroups;
  static_assert(kThreads == kGroups * kChunkRows, "a chunk is one group of columns a thread");
  static_assert(kGroups <= 32 && 32 % kGroups == 0, "rows are private to a warp");

  // Column m of the moments is image column X0 - kMargin + m, where X0 is the strip's first own
  // column, a multiple of 4. Staged column c is image column X0 - kStagedBefore + c, so that quads
  // of staged columns are quads of the image and group g needs staged quads 2g .. 2g + 4.
  static constexpr int kMargin = kGradient ? kRadius : 1;
  static constexpr int kStagedBefore = kMargin + kRadius + 2;
  static_assert(kStagedBefore % 4 == 0, "staged quads are aligned");
  static constexpr int kMaxStripWidth =
      (kGradient ? kThreads - 2 * kRadius : kThreads - kMargin) / 4 * 4;

  // Image rows read before the first own row; the moments of an own row's window lag by kRadius.
  static constexpr int kLeadRows = kGradient ? 2 * kRadius : kRadius;

  static constexpr int odd_offset(int quads) {
    const int even_columns = (quads + 1) / 2 * 4;
    return (even_columns + 15) / 32 * 32 + 16;
  }
  static constexpr int kStagedQuads = kThreads / 4 + 3;
  static constexpr int kStagedOdd = odd_offset(kStagedQuads);
  static constexpr int kStagedPitch = kStagedOdd + kStagedQuads / 2 * 4;
  static constexpr int kMapQuads = kThreads / 4 + 1;  // the last group of the gradient reads one more
  static constexpr int kMapOdd = odd_offset(kMapQuads);
  static constexpr int kMapPitch = kMapOdd + kMapQuads / 2 * 4;
  static_assert(kStagedOdd % 32 == 16 && kMapOdd % 32 == 16, "odd quads lie 16 banks further");
  static_assert(kStagedOdd >= (kStagedQuads + 1) / 2 * 4 && kMapOdd >= (kMapQuads + 1) / 2 * 4,
                "even quads fit before the odd ones");
  static constexpr int kMapStride = kChunkRows * kMapPitch;
  static constexpr int kMaps = 4;

  // The gradient combines partials with s and d of kGradientLag rows above the newest partials'
  // inputs, while the chunk below is already staged.
  static constexpr int kGradientLag = 2 * kRadius;
  static constexpr int kKeptRows = 32;
  static_assert(kKeptRows >= 2 * kChunkRows + kGradientLag, "rows stay until they are used");

  static constexpr int shared_bytes(int staged_rows) {
    return 4 * (kMaps * kMapStride + 2 * staged_rows * kStagedPitch);
  }

  static constexpr int kQuadsPerRow = kThreads / 4;
  static constexpr int kRowsPerLoad = kThreads / kQuadsPerRow;
  static constexpr int kLoads = kChunkRows / kRowsPerLoad;
  static constexpr int kEdgeQuads = kStagedQuads - kQuadsPerRow;
};

// The column filter of one map, in transposed form.
struct ColumnFilter {
  float state[10] = {};

  __device__ __forceinline__ float push(float v) {
    const float out = fmaf(v, strip_tap(0), state[0]);
#pragma unroll
    for (int k = 0; k < 9; ++k) {
      state[k] = fmaf(v, strip_tap(k + 1), state[k + 1]);
    }
    state[9] = v * strip_tap(10);
    return out;
  }
};

// Filters 18 columns, from the third of quad 0, to 8; `quads` points into a split row.
template <int kOddOffset, int kSkip>
__device__ __forceinline__ void filter_row(const float* quads, float (&out)[8]) {
#pragma unroll
  for (int j = 0; j < 5; ++j) {
    const float4 quad = *reinterpret_cast<const float4*>(quads + j / 2 * 4 + j % 2 * kOddOffset);
    const float value[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = 4 * j + e - kSkip;
#pragma unroll
      for (int o = 0; o < 8; ++o) {
        const int k = i - o;
        if (k == 0) {
          out[o] = value[e] * strip_tap(0);
        } else if (k > 0 && k < kDefaultWindowSize) {
          out[o] = fmaf(value[e], strip_tap(k), out[o]);
        }
      }
    }
  }
}

// The same for the values (minus `late_shift`) and their squares at once.
template <int kOddOffset, int kSkip>
__device__ __forceinline__ void filter_row_and_square(const float* quads, float (&mean)[8],
                                                      float (&square)[8]) {
#pragma unroll
  for (int j = 0; j < 5; ++j) {
    const float4 quad = *reinterpret_cast<const float4*>(quads + j / 2 * 4 + j % 2 * kOddOffset);
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
        const int k = i - o;
        if (k == 0) {
          mean[o] = value[e] * strip_tap(0);
          square[o] = value2 * strip_tap(0);
        } else if (k > 0 && k < kDefaultWindowSize) {
          mean[o] = fmaf(value[e], strip_tap(k), mean[o]);
          square[o] = fmaf(value2, strip_tap(k), square[o]);
        }
      }
    }
  }
}

template <int kOddOffset>
__device__ __forceinline__ void store_group(float* quads, const float (&value)[8]) {
  *reinterpret_cast<float4*>(quads) = make_float4(value[0], value[1], value[2], value[3]);
  *reinterpret_cast<float4*>(quads + kOddOffset) =
      make_float4(value[4], value[5], value[6], value[7]);
}

// What turns pixels into s and d. With the L1 term, d must tell the sign of x - y exactly: rounding
// to d = -shift is then avoided where x and y differ.
struct PixelShift {
  float x;
  float y;
  float difference;    // x - y
  float equal;         // d where x = y
  float just_above;    // the float after `equal`, and before it
  float just_below;

  __device__ __forceinline__ void set(const Shift<float>& shift) {
    x = shift.x;
    y = shift.y;
    difference = x - y;
    equal = -difference;
    just_above = nextafterf(equal, INFINITY);
    just_below = nextafterf(equal, -INFINITY);
  }
  __device__ __forceinline__ void apply(float px, float py, float* s, float* d) const {
    const float shifted_x = px - x;
    const float shifted_y = py - y;
    *s = shifted_x + shifted_y;
    *d = shifted_x - shifted_y;
  }
  __device__ __forceinline__ float signed_difference(float px, float py) const {
    const float exact = px - py;
    float d = exact - difference;
    d = exact > 0.0f ? fmaxf(d, just_above) : d;
    d = exact < 0.0f ? fminf(d, just_below) : d;
    return d;
  }
  __device__ __forceinline__ float sign(float d) const {
    return (d > equal ? 1.0f : 0.0f) - (d < equal ? 1.0f : 0.0f);
  }
};

// A range of rows of one strip.
struct StripPiece {
  const char* plane1;
  const char* plane2;
  int64_t plane;
  int first_column;  // X0
  int end_column;    // of the own columns
  int first_row;
  int end_row;
};

template <class Traits>
__device__ __forceinline__ void load_chunk_rows(const StripParams& p, const StripPiece& piece,
                                                int first_row, RawQuad (&raw1)[3],
                                                RawQuad (&raw2)[3]) {
  const int quad = threadIdx.x % Traits::kQuadsPerRow;
  const int row = threadIdx.x / Traits::kQuadsPerRow;
  const int x0 = piece.first_column - Traits::kStagedBefore;
#pragma unroll
  for (int i = 0; i <= Traits::kLoads; ++i) {
    const bool edge = i == Traits::kLoads;
    const int y = first_row + (edge ? static_cast<int>(threadIdx.x) / Traits::kEdgeQuads
                                    : row + i * Traits::kRowsPerLoad);
    const int x = x0 + 4 * (edge ? Traits::kQuadsPerRow + threadIdx.x % Traits::kEdgeQuads : quad);
    raw1[i] = {};
    raw2[i] = {};
    if (edge && threadIdx.x >= Traits::kEdgeQuads * Traits::kChunkRows) {
      continue;
    }
    if (y >= 0 && y < p.height) {
      raw1[i] = load_quad(piece.plane1 + y * p.img1.row, p.img1.column, x, p.width, p.dtype,
                          p.vector_loads);
      raw2[i] = load_quad(piece.plane2 + y * p.img2.row, p.img2.column, x, p.width, p.dtype,
                          p.vector_loads);
    }
  }
}

template <class Traits>
__device__ __forceinline__ void stage_quad(const StripParams& p, const PixelShift& shift,
                                           const RawQuad& raw1, const RawQuad& raw2, float4* s,
                                           float4* d) {
  const float4 x = to_float(raw1, p.dtype, p.vector_loads);
  const float4 y = to_float(raw2, p.dtype, p.vector_loads);
  shift.apply(x.x, y.x, &s->x, &d->x);
  shift.apply(x.y, y.y, &s->y, &d->y);
  shift.apply(x.z, y.z, &s->z, &d->z);
  shift.apply(x.w, y.w, &s->w, &d->w);
  if (p.l1) {
    d->x = shift.signed_difference(x.x, y.x);
    d->y = shift.signed_difference(x.y, y.y);
    d->z = shift.signed_difference(x.z, y.z);
    d->w = shift.signed_difference(x.w, y.w);
  }
}

// Stores loaded rows as s and d, and returns the sum of |x - y| over the own pixels among them.
template <class Traits>
__device__ __forceinline__ float stage_chunk_rows(const StripParams& p, const StripPiece& piece,
                                                  const PixelShift& shift, int first_row,
                                                  const RawQuad (&raw1)[3],
                                                  const RawQuad (&raw2)[3], float* staged_s,
                                                  float* staged_d) {
  float l1_sum = 0.0f;
#pragma unroll
  for (int i = 0; i <= Traits::kLoads; ++i) {
    const bool edge = i == Traits::kLoads;
    if (edge && threadIdx.x >= Traits::kEdgeQuads * Traits::kChunkRows) {
      continue;
    }
    const int quad = edge ? Traits::kQuadsPerRow + threadIdx.x % Traits::kEdgeQuads
                          : threadIdx.x % Traits::kQuadsPerRow;
    const int row = edge ? threadIdx.x / Traits::kEdgeQuads
                         : threadIdx.x / Traits::kQuadsPerRow + i * Traits::kRowsPerLoad;
    float4 s, d;
    stage_quad<Traits>(p, shift, raw1[i], raw2[i], &s, &d);
    const int offset =
        row * Traits::kStagedPitch + quad / 2 * 4 + (quad % 2 != 0 ? Traits::kStagedOdd : 0);
    *reinterpret_cast<float4*>(staged_s + offset) = s;
    *reinterpret_cast<float4*>(staged_d + offset) = d;
    if (p.l1) {
      const int y = first_row + row;
      const bool own_row = y >= max(piece.first_row, p.value_top) &&
                           y < min(piece.end_row, p.value_bottom);
      const int x = piece.first_column - Traits::kStagedBefore + 4 * quad;
      const int left = max(piece.first_column, p.value_left);
      const int right = min(piece.end_column, p.value_right);
      const float4 a = to_float(raw1[i], p.dtype, p.vector_loads);
      const float4 b = to_float(raw2[i], p.dtype, p.vector_loads);
      l1_sum += own_row && x >= left && x < right ? fabsf(a.x - b.x) : 0.0f;
      l1_sum += own_row && x + 1 >= left && x + 1 < right ? fabsf(a.y - b.y) : 0.0f;
      l1_sum += own_row && x + 2 >= left && x + 2 < right ? fabsf(a.z - b.z) : 0.0f;
      l1_sum += own_row && x + 3 >= left && x + 3 < right ? fabsf(a.w - b.w) : 0.0f;
    }
  }
  return l1_sum;
}

// Writes 8 columns of one image's gradient, from column x of row y.
__device__ __forceinline__ void store_gradient_group(const OutputImage& image, char* plane, int y,
                                                     int x, int end, const float (&value)[8],
                                                     DType dtype) {
  char* first = plane + y * image.row + x * image.column;
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    if (x + 4 * q + 4 <= end) {
      store_quad(first + 4 * q * image.column, value + 4 * q, dtype);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (x + 4 * q + e < end) {
          store_element(first + (4 * q + e) * image.column, value[4 * q + e], dtype);
        }
      }
    }
  }
}

// Writes a warp's rows of one image's gradient out of shared memory, neighbouring lanes neighbouring
// columns: for strides and alignments that don't allow four columns a store.
template <class Traits>
__device__ __forceinline__ void store_gradient_rows(const OutputImage& image, char* plane,
                                                    const float* map, int first_chunk_row,
                                                    const StripPiece& piece, DType dtype) {
  const int lane = threadIdx.x % 32;
  const int warp_row = threadIdx.x / 32 * Traits::kRowsPerWarp;
#pragma unroll
  for (int i = 0; i < Traits::kRowsPerWarp; ++i) {
    const int y = first_chunk_row + warp_row + i;
    if (y < piece.first_row || y >= piece.end_row) {
      continue;
    }
    const float* row = map + (warp_row + i) * Traits::kMapPitch;
#pragma unroll
    for (int j = 0; j < Traits::kThreads / 32; ++j) {
      const int column = lane + 32 * j;
      const int x = piece.first_column + column;
      if (x < piece.end_column) {
        const int offset = column / 8 * 4 + column % 4 + (column / 4 % 2) * Traits::kMapOdd;
        store_element(plane + y * image.row + x * image.column, row[offset], dtype);
      }
    }
  }
}

template <class Traits>
struct ColumnState {
  ColumnFilter moments[4];
  ColumnFilter partials[Traits::kGradient ? (Traits::kTwo ? 4 : 3) : 1];
};

// One chunk of the column phase. Returns the sum of SSIM over the own pixels.
template <class Traits>
__device__ __forceinline__ float filter_columns(const StripParams& p, const StripPiece& piece,
                                                const Shift<float>& shift, int first_moment_row,
                                                const char* weight_plane, float* map_plane,
                                                float* maps, ColumnState<Traits>& state) {
  const int x = piece.first_column - Traits::kMargin + static_cast<int>(threadIdx.x);
  const bool has_value = x >= p.value_left && x < p.value_right;
  const bool own = has_value && x >= piece.first_column && x < piece.end_column;
  float* column =
      maps + threadIdx.x / 8 * 4 + threadIdx.x % 4 + (threadIdx.x / 4 % 2) * Traits::kMapOdd;
  const Stabilizers<float> stabilizers = {p.c1, p.c2};
  const float shift_s = shift.x + shift.y;
  const float shift_d = shift.x - shift.y;
  const float sign = p.grad1.data != nullptr ? 1.0f : -1.0f;
  float sum = 0.0f;

  float weight[Traits::kChunkRows];
  if constexpr (Traits::kWeighted) {
#pragma unroll
    for (int r = 0; r < Traits::kChunkRows; ++r) {
      const int y = first_moment_row + r;
      weight[r] = 0.0f;
      if (has_value && y >= p.value_top && y < p.value_bottom) {
        weight[r] = __ldg(reinterpret_cast<const float*>(
            weight_plane + (y - p.value_top) * p.map_gradient.row +
            (x - p.value_left) * p.map_gradient.column));
      }
    }
  }

#pragma unroll
  for (int r = 0; r < Traits::kChunkRows; ++r) {
    float* cell = column + r * Traits::kMapPitch;
    const Moments<float> moments = {state.moments[0].push(cell[0]),
                                    state.moments[1].push(cell[Traits::kMapStride]),
                                    state.moments[2].push(cell[2 * Traits::kMapStride]),
                                    state.moments[3].push(cell[3 * Traits::kMapStride])};
    const SsimTerms<float> terms = ssim_terms(moments, shift_s, shift_d, stabilizers);
    const int y = first_moment_row + r;
    const bool row_has_value = y >= p.value_top && y < p.value_bottom;
    const bool own_row = row_has_value && y >= piece.first_row && y < piece.end_row;
    const float value = ssim_value(terms);
    sum += own && own_row ? value : 0.0f;
    if constexpr (Traits::kMap) {
      if (own && own_row) {
        map_plane[(y - p.value_top) * p.map_pitch + (x - p.value_left)] = value;
      }
    }
    if constexpr (Traits::kGradient) {
      Partials<float> partials = ssim_partials(moments, terms);
      if constexpr (Traits::kWeighted) {
        partials.by_mean_s *= weight[r];
        partials.by_mean_d *= weight[r];
        partials.by_mean_s2 *= weight[r];
        partials.by_mean_d2 *= weight[r];
      }
      // Selected, not multiplied: a NaN beyond the border must not come in.
      const bool counts = has_value && row_has_value;
      if constexpr (Traits::kTwo) {
        cell[0] = state.partials[0].push(counts ? partials.by_mean_s : 0.0f);
        cell[Traits::kMapStride] = state.partials[1].push(counts ? partials.by_mean_s2 : 0.0f);
        cell[2 * Traits::kMapStride] = state.partials[2].push(counts ? partials.by_mean_d2 : 0.0f);
        cell[3 * Traits::kMapStride] = state.partials[3].push(counts ? partials.by_mean_d : 0.0f);
      } else {
        const float by_mean = fmaf(sign, partials.by_mean_d, partials.by_mean_s);
        cell[0] = state.partials[0].push(counts ? by_mean : 0.0f);
        cell[Traits::kMapStride] = state.partials[1].push(counts ? partials.by_mean_s2 : 0.0f);
        cell[2 * Traits::kMapStride] = state.partials[2].push(counts ? partials.by_mean_d2 : 0.0f);
      }
    }
  }
  return sum;
}

// The gradient of one chunk: filters the partials of this thread's row and 8 columns, stores.
template <class Traits>
__device__ __forceinline__ void gradient_rows(const StripParams& p, const StripPiece& piece,
                                              const PixelShift& shift, int chunk, char* plane_out1,
                                              char* plane_out2, const char* weight_plane,
                                              const float* staged_s, const float* staged_d,
                                              float* maps) {
  const int group = threadIdx.x % Traits::kGroups;
  const int row = threadIdx.x / Traits::kGroups;
  const int step = chunk * Traits::kChunkRows + row;
  const int first_chunk_row =
      piece.first_row - 2 * Traits::kGradientLag + chunk * Traits::kChunkRows;
  const int y = first_chunk_row + row;
  const int x = piece.first_column + 8 * group;
  const bool active = y >= piece.first_row && y < piece.end_row && x < piece.end_column;
  float* map_row = maps + row * Traits::kMapPitch + group * 4;

  float first[8];
  float second[8];
  if (active) {
    float s[8];
    float d[8];
    if (p.staged_rows == Traits::kKeptRows) {
      const int offset = (step - Traits::kGradientLag) % Traits::kKeptRows * Traits::kStagedPitch +
                         4 * group;
      // Own column 0 is staged column 12: the odd quad 3.
      const int odd = Traits::kStagedOdd + 4;
      const float4 s0 = *reinterpret_cast<const float4*>(staged_s + offset + odd);
      const float4 s1 = *reinterpret_cast<const float4*>(staged_s + offset + 8);
      const float4 d0 = *reinterpret_cast<const float4*>(staged_d + offset + odd);
      const float4 d1 = *reinterpret_cast<const float4*>(staged_d + offset + 8);
      s[0] = s0.x, s[1] = s0.y, s[2] = s0.z, s[3] = s0.w;
      s[4] = s1.x, s[5] = s1.y, s[6] = s1.z, s[7] = s1.w;
      d[0] = d0.x, d[1] = d0.y, d[2] = d0.z, d[3] = d0.w;
      d[4] = d1.x, d[5] = d1.y, d[6] = d1.z, d[7] = d1.w;
    } else {
      RawQuad raw1[2];
      RawQuad raw2[2];
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        raw1[q] = load_quad(piece.plane1 + y * p.img1.row, p.img1.column, x + 4 * q, p.width,
                            p.dtype, p.vector_loads);
        raw2[q] = load_quad(piece.plane2 + y * p.img2.row, p.img2.column, x + 4 * q, p.width,
                            p.dtype, p.vector_loads);
      }
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        float4 s4, d4;
        stage_quad<Traits>(p, shift, raw1[q], raw2[q], &s4, &d4);
        s[4 * q] = s4.x, s[4 * q + 1] = s4.y, s[4 * q + 2] = s4.z, s[4 * q + 3] = s4.w;
        d[4 * q] = d4.x, d[4 * q + 1] = d4.y, d[4 * q + 2] = d4.z, d[4 * q + 3] = d4.w;
      }
    }

    const float weight = p.ssim_weight;
    const float twice = 2.0f * p.ssim_weight;
    float filtered[8];
    filter_row<Traits::kMapOdd, 0>(map_row, first);
    filter_row<Traits::kMapOdd, 0>(map_row + Traits::kMapStride, filtered);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      first[i] = fmaf(twice * s[i], filtered[i], weight * first[i]);
    }
    filter_row<Traits::kMapOdd, 0>(map_row + 2 * Traits::kMapStride, filtered);
    float l1[8] = {};
    if (p.l1) {
      const bool row_has_value = y >= p.value_top && y < p.value_bottom;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (row_has_value && x + i >= p.value_left && x + i < p.value_right) {
          l1[i] = p.l1_weight * shift.sign(d[i]);
          if constexpr (Traits::kWeighted) {
            l1[i] *= __ldg(reinterpret_cast<const float*>(
                weight_plane + (y - p.value_top) * p.map_gradient.row +
                (x + i - p.value_left) * p.map_gradient.column));
          }
        }
      }
    }
    if constexpr (Traits::kTwo) {
      filter_row<Traits::kMapOdd, 0>(map_row + 3 * Traits::kMapStride, second);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float by_difference = fmaf(twice * d[i], filtered[i], fmaf(weight, second[i], l1[i]));
        second[i] = first[i] - by_difference;
        first[i] += by_difference;
      }
    } else {
      const float signed_twice = p.grad1.data != nullptr ? twice : -twice;
      const float sign = p.grad1.data != nullptr ? 1.0f : -1.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        first[i] = fmaf(signed_twice * d[i], filtered[i], first[i]);
        if (p.l1) {
          first[i] = fmaf(sign, l1[i], first[i]);
        }
      }
    }
  }

  const OutputImage& out = Traits::kTwo || p.grad1.data != nullptr ? p.grad1 : p.grad2;
  if (p.vector_stores) {
    if (active) {
      if (!Traits::kTwo || plane_out1 != nullptr) {
        store_gradient_group(out, plane_out1, y, x, piece.end_column, first, p.dtype);
      }
      if (Traits::kTwo && plane_out2 != nullptr) {
        store_gradient_group(p.grad2, plane_out2, y, x, piece.end_column, second, p.dtype);
      }
    }
  } else {
    __syncwarp();
    if (active) {
      store_group<Traits::kMapOdd>(map_row, first);
      if constexpr (Traits::kTwo) {
        store_group<Traits::kMapOdd>(map_row + Traits::kMapStride, second);
      }
    }
    __syncwarp();
    if (!Traits::kTwo || plane_out1 != nullptr) {
      store_gradient_rows<Traits>(out, plane_out1, maps, first_chunk_row, piece, p.dtype);
    }
    if (Traits::kTwo && plane_out2 != nullptr) {
      store_gradient_rows<Traits>(p.grad2, plane_out2, maps + Traits::kMapStride, first_chunk_row,
                                  piece, p.dtype);
    }
  }
}

// Runs one piece; returns this thread's share of the sum of f.
template <class Traits>
__device__ __forceinline__ double process_piece(const StripParams& p, const StripPiece& piece,
                                                float* shared) {
  float* maps = shared;
  float* staged_s = maps + Traits::kMaps * Traits::kMapStride;
  float* staged_d = staged_s + p.staged_rows * Traits::kStagedPitch;
  const int chunk_slots = p.staged_rows / Traits::kChunkRows;
  const int first_input_row = piece.first_row - Traits::kLeadRows;
  const int first_moment_row = first_input_row - Traits::kRadius;
  const int steps = piece.end_row - piece.first_row + 2 * Traits::kLeadRows;
  const int chunks = (steps + Traits::kChunkRows - 1) / Traits::kChunkRows;

  RawQuad raw1[3];
  RawQuad raw2[3];
  static_assert(Traits::kLoads == 2, "raw holds the loads of a chunk and the edge");
  load_chunk_rows<Traits>(p, piece, first_input_row, raw1, raw2);

  char* plane_out1 = nullptr;
  char* plane_out2 = nullptr;
  const char* weight_plane = nullptr;
  float* map_plane = nullptr;
  if constexpr (Traits::kGradient) {
    if (p.grad1.data != nullptr) {
      plane_out1 = plane_of(p.grad1, piece.plane, p.channels);
    }
    if (p.grad2.data != nullptr) {
      plane_out2 = plane_of(p.grad2, piece.plane, p.channels);
    }
    if (!Traits::kTwo && plane_out1 == nullptr) {
      plane_out1 = plane_out2;
    }
  }
  if constexpr (Traits::kWeighted) {
    weight_plane = plane_of(p.map_gradient, piece.plane, p.channels);
  }
  if constexpr (Traits::kMap) {
    map_plane = p.map + piece.plane * p.map_plane;
  }

  const Shift<float> means = sample_shift<float>(
      piece.plane1, piece.plane2, p.img1, p.img2, max(0, piece.first_row - Traits::kRadius),
      min(p.height, piece.end_row + Traits::kRadius), max(0, piece.first_column - Traits::kRadius),
      min(p.width, piece.end_column + Traits::kRadius), p.dtype);
  PixelShift shift;
  shift.set(means);

  double sum = 0.0;
  float l1_sum = stage_chunk_rows<Traits>(p, piece, shift, first_input_row, raw1, raw2, staged_s,
                                          staged_d);
  __syncthreads();

  ColumnState<Traits> state;
  const int group = threadIdx.x % Traits::kGroups;
  const int row = threadIdx.x / Traits::kGroups;
#pragma unroll 1
  for (int chunk = 0;; ++chunk) {
    if constexpr (Traits::kGradient) {
      // The gradient of the chunk above; its first rows come out of step 20.
      if (chunk > 2) {
        gradient_rows<Traits>(p, piece, shift, chunk - 1, plane_out1, plane_out2, weight_plane,
                              staged_s, staged_d, maps);
        __syncwarp();
      }
    }
    if (chunk == chunks) {
      break;
    }
    {
      const int offset = (chunk % chunk_slots * Traits::kChunkRows + row) * Traits::kStagedPitch +
                         4 * group;
      float* map_row = maps + row * Traits::kMapPitch + 4 * group;
      float mean[8];
      float square[8];
      filter_row_and_square<Traits::kStagedOdd, 2>(staged_s + offset, mean, square);
      store_group<Traits::kMapOdd>(map_row, mean);
      store_group<Traits::kMapOdd>(map_row + 2 * Traits::kMapStride, square);
      filter_row_and_square<Traits::kStagedOdd, 2>(staged_d + offset, mean, square);
      store_group<Traits::kMapOdd>(map_row + Traits::kMapStride, mean);
      store_group<Traits::kMapOdd>(map_row + 3 * Traits::kMapStride, square);
    }
    __syncthreads();

    const int next_row = first_input_row + (chunk + 1) * Traits::kChunkRows;
    const bool more = chunk + 1 < chunks;
    if (more) {
      load_chunk_rows<Traits>(p, piece, next_row, raw1, raw2);
    }
    if (chunk == 0) {
      // No window is complete yet.
      const float* column =
          maps + threadIdx.x / 8 * 4 + threadIdx.x % 4 + (threadIdx.x / 4 % 2) * Traits::kMapOdd;
#pragma unroll
      for (int r = 0; r < Traits::kChunkRows; ++r) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          state.moments[i].push(column[r * Traits::kMapPitch + i * Traits::kMapStride]);
        }
      }
    } else {
      sum += filter_columns<Traits>(p, piece, means, first_moment_row + chunk * Traits::kChunkRows,
                                    weight_plane, map_plane, maps, state);
    }
    if (more) {
      const int slot = (chunk + 1) % chunk_slots * Traits::kChunkRows * Traits::kStagedPitch;
      l1_sum += stage_chunk_rows<Traits>(p, piece, shift, next_row, raw1, raw2, staged_s + slot,
                                         staged_d + slot);
    }
    __syncthreads();
  }
  return static_cast<double>(p.ssim_weight) * sum + static_cast<double>(p.l1_weight) * l1_sum;
}

template <class Traits, int kBlocksPerMultiprocessor>
__global__ void __launch_bounds__(Traits::kThreads, kBlocksPerMultiprocessor)
    strip_kernel(const __grid_constant__ StripParams p) {
  extern __shared__ float4 shared_quads[];
  float* shared = reinterpret_cast<float*>(shared_quads);
  const ReductionPlan& plan = p.reduction;
  int64_t unit = unit_begin(plan, blockIdx.x, gridDim.x);
  const int64_t end = unit_begin(plan, blockIdx.x + 1, gridDim.x);
  int64_t value = unit / plan.units_per_value;
  double sum = 0.0;
#pragma unroll 1
  while (unit < end) {
    const int64_t strip = unit / p.own_rows;
    StripPiece piece;
    piece.plane = strip / p.strips_per_plane;
    const int strip_in_plane = static_cast<int>(strip - piece.plane * p.strips_per_plane);
    const int first = static_cast<int>(unit - strip * p.own_rows);
    const int rows = static_cast<int>(min(end - unit, static_cast<int64_t>(p.own_rows - first)));
    piece.first_column = p.own_left + strip_in_plane * p.strip_width;
    piece.end_column = min(piece.first_column + p.strip_width, p.own_right);
    piece.first_row = p.own_top + first;
    piece.end_row = piece.first_row + rows;
    piece.plane1 = plane_of(p.img1, piece.plane, p.channels);
    piece.plane2 = plane_of(p.img2, piece.plane, p.channels);
    sum += process_piece<Traits>(p, piece, shared);
    __syncthreads();
    unit += rows;
    const int64_t next = unit / plan.units_per_value;
    if (plan.value != nullptr && (next != value || unit >= end)) {
      store_partial<Traits::kThreads>(plan, value, sum);
      sum = 0.0;
      value = next;
    }
  }
  if (plan.value != nullptr) {
    finish_reduction<Traits::kThreads, float>(plan);
  }
}

}  // namespace fused_ssim::cuda
