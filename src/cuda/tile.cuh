// SSIM sums, maps and gradients of small images with symmetric windows of up to 11 taps, in one pass:
// the marching kernel's arithmetic, arranged for the shortest way from first load to last store.
//
// A block takes a tile of up to 64 columns by `tile_rows` rows, wholly in shared memory, and goes
// through five phases with all its threads in each:
//
//   load      s and d of the tile and 10 rows and columns around it (12 before, for alignment);
//             aligned rows by tensor maps (compute capability 9.0 and later), the next tile's while
//             the last phase stores, in the place of the partials
//   rows      thread = 1 row x 4 columns: filters s, s^2, d, d^2 along the row
//   columns   thread = 8 rows x 1 column: filters down; moments -> value and partial derivatives
//   columns   the same filter over the partials
//   rows      thread = 1 row x 4 columns: filters the partials, combines with s and d, stores
//
// The halo makes it compute up to twice as much as it keeps, which is the price of work for every
// multiprocessor: with 24 rows a tile, an image of 3 x 256 x 256 has one tile for each of 132. The
// block's sum is complete after the first column phase; one warp adds it to that of the launch
// while the others go on.
//
// Global memory per pixel is that of the marching kernel, and the halos, which come from L2.
#pragma once

#include "core/formula.h"
#include "core/taps.h"
#include "cuda/containment.cuh"
#include "cuda/division.cuh"
#include "cuda/gradient_rows.cuh"
#include "cuda/image_access.cuh"
#include "cuda/kernels.h"
#include "cuda/launches.h"
#include "cuda/pixel_shift.cuh"
#include "cuda/policy.h"
#include "cuda/reduction.cuh"
#include "cuda/shift.cuh"
#include "cuda/thread.cuh"
#include "cuda/tile_filters.cuh"
#include "cuda/window.cuh"

namespace fused_ssim::cuda {

template <StripKind kKind_, StripLoader kLoader_, class Window_>
struct TileTraits : KindTraits<kKind_, Window_> {
  using Kind = KindTraits<kKind_, Window_>;
  using Kind::kGradient, Kind::kKind, Kind::kMap, Kind::kPartialMaps, Kind::kTwo, Kind::kWeighted;
  using typename Kind::Window;
  static constexpr StripLoader kLoader = kLoader_;
#if defined(__CUDA_ARCH__)
  static constexpr bool kHasBoxes = has_tensor_maps(__CUDA_ARCH__ / 10);
#else
  static constexpr bool kHasBoxes = false;
#endif
  static constexpr bool kMayHaveBoxes = is_of_boxes(kLoader);
  static constexpr bool kBoxes = kMayHaveBoxes && kHasBoxes;
  static constexpr bool kLaunched = kLoader == StripLoader::kFloatQuads || kBoxes == kMayHaveBoxes;
  // Rows of a column that one thread filters at once.
  static constexpr int kSegment = kTileSegment;
  // A map shows the error of each single window; in sums and gradients errors average out.
  static constexpr bool kCentred = kMap;
  static_assert(!kCentred || !kGradient, "centred filters have no gradient");

  static constexpr int kThreads = kTileThreads;
  static constexpr int kRadius = kDefaultWindowSize / 2;
  // Column m of the moments is image column X0 - kMargin + m; staged column c is image column
  // X0 - kMargin - 7 + c, a multiple of 4 at c = 0 (as in the marching kernel).
  static constexpr int kMargin = kGradient ? kRadius : 1;
  static constexpr int kStagedBefore = kMargin + kRadius + 2;
  static_assert(kStagedBefore % 4 == 0, "staged quads are quads of the image");
  static constexpr int kCellQuads = kGradient ? 19 : 17;  // of columns
  static constexpr int kCellColumns = 4 * kCellQuads;
  static constexpr int kCellPitch = kCell * (kCellColumns + 1);
  static constexpr int kStagedQuads = 22;
  static_assert(kStagedQuads >= kCellQuads + 3, "all windows are staged");
  static constexpr int kStagedPitch = 4 * kStagedQuads;
  static_assert(kStagedPitch == kTileBoxColumns, "a box is what is staged");
  // Boxes: columns of what is staged and for alignment.
  static constexpr int kElement = box_element(kLoader);
  static constexpr int kBoxColumns =
      kElement < 4 ? narrow_tile_box_columns(kElement) : kTileBoxColumns;
  static constexpr int kBoxAlignment = narrow_box_alignment(kElement);
  static_assert(!kGradient || kMaxTileColumns + 2 * kRadius <= kCellColumns,
                "moments of a tile's windows fit");
  static_assert(kMaxTileColumns + kMargin <= kCellColumns, "moments of a tile's pixels fit");
  // Lanes of the row phases take 4 rows x 2 quads of columns in turn: then 8 of them, which shared
  // memory serves at once, meet different banks both in staged quads and in cells.
  static_assert(kCellPitch % 8 == 4 && kStagedPitch % 16 == 8, "no bank conflicts");
  // Rows before and after the tile whose moments, and whose pixels, it needs.
  static constexpr int kMomentHalo = kGradient ? kRadius : 0;
  static constexpr int kPixelHalo = kMomentHalo + kRadius;
  static_assert(tile_box_rows(kKind, 8) == 8 + 2 * kPixelHalo, "a box is what is staged");

  static constexpr __host__ __device__ int segments(int rows) {
    return (rows + kSegment - 1) / kSegment;
  }
  static constexpr __host__ __device__ int staged_rows(int rows) { return rows + 2 * kPixelHalo; }
  // Floats of one staged image: boxes are aligned to 128 bytes.
  static constexpr __host__ __device__ int staged_stride(int rows) {
    return (staged_rows(rows) * kStagedPitch + 31) / 32 * 32;
  }
  // Rows of cells: of row-filtered moments, and of the partials.
  static constexpr __host__ __device__ int moment_rows(int rows) {
    return kSegment * segments(rows + 2 * kMomentHalo) + 2 * kRadius;
  }
  static constexpr __host__ __device__ int partial_rows(int rows) {
    if (!kGradient) {
      return 0;
    }
    const int stored = kSegment * segments(rows + 2 * kMomentHalo);
    const int read = kSegment * segments(rows) + 2 * kRadius;
    return stored > read ? stored : read;
  }
  // Floats of both, where boxes of the next tile's pixels come as soon as the partials are no
  // longer needed. Both are aligned like boxes.
  static constexpr __host__ __device__ int moment_floats(int rows) {
    return (moment_rows(rows) * kCellPitch + 31) / 32 * 32;
  }
  static constexpr __host__ __device__ int partial_floats(int rows) {
    const int partials = partial_rows(rows) * kCellPitch;
    const int boxes = kMayHaveBoxes ? 2 * staged_stride(rows) : 0;
    return partials > boxes || !kGradient ? partials : boxes;
  }
  static constexpr __host__ __device__ int shared_bytes(int rows) {
    return 4 * (2 * staged_stride(rows) + moment_floats(rows) + partial_floats(rows));
  }
};

// The row and the quad of columns of a row phase's item.
template <int kQuads>
struct RowItem {
  int row;
  int quad;

  explicit __device__ __forceinline__ RowItem(int item) {
    const int four_rows = item / (4 * kQuads);
    const int in_them = item - four_rows * (4 * kQuads);
    row = 4 * four_rows + in_them % 4;
    quad = in_them / 4;
  }
  static __device__ __forceinline__ int items(int rows) { return (rows + 3) / 4 * 4 * kQuads; }
};

struct Tile {
  int64_t batch;
  int64_t channel;
  const char* plane1;
  const char* plane2;
  char* gradient1;
  char* gradient2;
  const char* weights;
  float* map;
  int left;
  int right;
  int top;
  int bottom;
  SamplePointers samples;
};

template <class Traits>
__device__ __forceinline__ Tile tile_at(const StripParams& p, int unit) {
  const int plane = small_quotient(unit, p.tiles_per_plane);
  const int in_plane = unit - plane * static_cast<int>(p.tiles_per_plane.divisor);
  const int down = small_quotient(in_plane, p.strips_per_plane);
  const int across = in_plane - down * static_cast<int>(p.strips_per_plane.divisor);
  const int64_t batch = small_quotient(plane, p.channels);
  const int64_t channel = plane - batch * p.channels.divisor;
  Tile tile = {};
  tile.batch = batch;
  tile.channel = channel;
  tile.left = p.own_left + across * p.strip_width;
  tile.right = min(tile.left + p.strip_width, p.own_right);
  tile.top = p.own_top + down * p.tile_rows;
  tile.bottom = min(tile.top + p.tile_rows, p.own_top + p.own_rows);
  tile.plane1 = p.img1.data + batch * p.img1.batch + channel * p.img1.channel;
  tile.plane2 = p.img2.data + batch * p.img2.batch + channel * p.img2.channel;
  if constexpr (Traits::kGradient) {
    if (p.grad1.data != nullptr) {
      tile.gradient1 = p.grad1.data + batch * p.grad1.batch + channel * p.grad1.channel;
    }
    if (p.grad2.data != nullptr) {
      tile.gradient2 = p.grad2.data + batch * p.grad2.batch + channel * p.grad2.channel;
    }
  }
  if constexpr (Traits::kWeighted) {
    tile.weights =
        p.map_gradient.data + batch * p.map_gradient.batch + channel * p.map_gradient.channel;
  }
  if constexpr (Traits::kMap) {
    tile.map = p.map + plane * p.map_plane;
  }
  tile.samples = SamplePointers::of(
      tile.plane1, tile.plane2, p.img1, p.img2, max(0, tile.top - Traits::kRadius),
      min(p.height, tile.bottom + Traits::kRadius), max(0, tile.left - Traits::kRadius),
      min(p.width, tile.right + Traits::kRadius));
  return tile;
}

template <class Traits>
__device__ __forceinline__ float4 load_any_raw(const char* plane, const InputImage& image, int y,
                                               int x, const StripParams& p) {
  if (static_cast<unsigned>(y) >= static_cast<unsigned>(p.height) || x < 0) {
    return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  return load_raw<Traits::kLoader>(plane + y * image.row, image, x, p.width);
}

template <class Traits>
__device__ __forceinline__ void store_any_quad(const OutputImage& image, char* plane, int y, int x,
                                               int right, const float (&value)[4]) {
  char* first = plane + y * image.row + x * image.column;
  if constexpr (Traits::kLoader != StripLoader::kAnyWords &&
                Traits::kLoader != StripLoader::kWords) {
    store_quad<Traits::kLoader>(first, value, image.dtype);
  } else {
    const DType dtype =
        elements_of(Traits::kLoader) == Elements::kFloat ? DType::kFloat32 : image.dtype;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (x + i < right) {
        store_element(first + i * image.column, value[i], dtype);
      }
    }
  }
}

// Loads the tile and stores it as s and d. Returns the shift, and the sum of |x - y| where wanted.
// A thread has one quad of columns, and every kRowsPerPass-th row of it.
template <class Traits>
__device__ __forceinline__ PixelShift stage_tile(const StripParams& p, const Tile& tile,
                                                 float* staged_s, float* staged_d,
                                                 MeanShift* mean_shift, float* l1_sum) {
  constexpr int kBatch = 3;  // quads of a thread whose loads are under way together
  constexpr int kRowsPerPass = Traits::kThreads / Traits::kStagedQuads;
  const int thread = static_cast<int>(threadIdx.x);
  const int first_row = thread / Traits::kStagedQuads;
  const int quad = thread - first_row * Traits::kStagedQuads;
  const int x = tile.left - Traits::kStagedBefore + 4 * quad;
  const int first_y = tile.top - Traits::kPixelHalo + first_row;
  const int rows = first_row < kRowsPerPass ? Traits::staged_rows(tile.bottom - tile.top) : 0;
  PixelShift shift = {0.0f, 0.0f};
#pragma unroll 1
  for (int pass = 0; pass * kRowsPerPass < Traits::staged_rows(tile.bottom - tile.top);
       pass += kBatch) {
    float4 a[kBatch];
    float4 b[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = (pass + i) * kRowsPerPass;
      if (first_row + row < rows) {
        a[i] = load_any_raw<Traits>(tile.plane1, p.img1, first_y + row, x, p);
        b[i] = load_any_raw<Traits>(tile.plane2, p.img2, first_y + row, x, p);
      }
    }
    if (pass == 0) {
      reconverge();
      const Shift<float> means = trimmed_means(
          tile.samples.template load<float, elements_of(Traits::kLoader), true>(p.img1, p.img2));
      shift = PixelShift::of(means.x, means.y);
      *mean_shift = MeanShift::of<Traits::kCentred ? Centred::kBoth : Centred::kNone>(
          typename Traits::Window(p), shift);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = (pass + i) * kRowsPerPass;
      if (first_row + row < rows) {
        const auto to_float = [&](float4& quad, const char* plane, const InputImage& image) {
          const char* of_row = plane + (first_y + row) * image.row;
          quad = raw_to_float<Traits::kLoader>(quad, of_row, image, x);
        };
        to_float(a[i], tile.plane1, p.img1);
        to_float(b[i], tile.plane2, p.img2);
        float4 s, d;
        if (!p.l1) {
          shift.apply(a[i], b[i], &s, &d);
        } else {
          shift.apply_in_order(a[i], b[i], &s, &d);
          const int y = first_y + row;
          if (y >= max(tile.top, p.value_top) && y < min(tile.bottom, p.value_bottom)) {
            *l1_sum += sum_of_distances(a[i], b[i], max(tile.left, p.value_left) - x,
                                        min(tile.right, p.value_right) - x, /*squares=*/false);
          }
        }
        const int to = (first_row + row) * Traits::kStagedPitch + 4 * quad;
        *reinterpret_cast<float4*>(staged_s + to) = s;
        *reinterpret_cast<float4*>(staged_d + to) = d;
      }
    }
  }
  return shift;
}

// The same by tensor maps: one thread has both images copied to `raw`.
template <class Traits>
__device__ __forceinline__ void load_tile_boxes(const StripParams& p, const Tile& tile, float* raw,
                                                uint64_t* loaded) {
  if (threadIdx.x < 32 && is_elected()) {
    const int x = (tile.left - Traits::kStagedBefore) & -Traits::kBoxAlignment;
    const int y = tile.top - Traits::kPixelHalo;
    order_before_boxes();  // what was stored there
    expect_bytes(loaded,
                 2 * Traits::kElement * Traits::kBoxColumns * Traits::staged_rows(p.tile_rows));
    load_box(raw, p.tensor1,
             {x, y, p.tensor1.channels > 1 ? static_cast<int>(tile.channel) : 0,
              p.tensor1.batches > 1 ? static_cast<int>(tile.batch) : 0},
             loaded);
    load_box(raw + Traits::staged_stride(p.tile_rows), p.tensor2,
             {x, y, p.tensor2.channels > 1 ? static_cast<int>(tile.channel) : 0,
              p.tensor2.batches > 1 ? static_cast<int>(tile.batch) : 0},
             loaded);
  }
}

// Makes s and d of them, which may be in place.
template <class Traits>
__device__ __forceinline__ PixelShift stage_boxes(const StripParams& p, const Tile& tile,
                                                  const float* raw, float* staged_s,
                                                  float* staged_d, uint64_t* loaded,
                                                  unsigned parity, MeanShift* mean_shift,
                                                  float* l1_sum) {
  const int first_x = tile.left - Traits::kStagedBefore;
  const int first_y = tile.top - Traits::kPixelHalo;
  // Samples come sooner than boxes do.
  reconverge();
  const Shift<float> means = trimmed_means(
      tile.samples.template load<float, elements_of(Traits::kLoader), true>(p.img1, p.img2));
  const PixelShift shift = PixelShift::of(means.x, means.y);
  *mean_shift = MeanShift::of<Traits::kCentred ? Centred::kBoth : Centred::kNone>(
      typename Traits::Window(p), shift);
  const float* raw2 = raw + Traits::staged_stride(p.tile_rows);
  const int first_quad = (first_x & (Traits::kBoxAlignment - 1)) / 4;  // of a row of a box
  wait_for_phase(loaded, parity);
  const int quads = Traits::staged_rows(tile.bottom - tile.top) * Traits::kStagedQuads;
#pragma unroll 1
  for (int item = static_cast<int>(threadIdx.x); item < quads; item += Traits::kThreads) {
    const int row = item / Traits::kStagedQuads;
    const auto load = [&](const float* from) {
      if constexpr (Traits::kLoader == StripLoader::kFloatQuads) {
        return reinterpret_cast<const float4*>(from)[item];
      } else {
        const int in_box =
            item + row * (Traits::kBoxColumns / 4 - Traits::kStagedQuads) + first_quad;
        if constexpr (Traits::kElement == 1) {
          const uchar4 bytes = reinterpret_cast<const uchar4*>(from)[in_box];
          return make_float4(bytes.x, bytes.y, bytes.z, bytes.w);
        }
        const float2 words = reinterpret_cast<const float2*>(from)[in_box];
        return half_quad_to_float(make_float4(words.x, words.y, 0.0f, 0.0f), p.img1.dtype);
      }
    };
    const float4 a = load(raw);
    const float4 b = load(raw2);
    float4 s, d;
    if (__builtin_expect(p.l1, false)) {
      shift.apply_in_order(a, b, &s, &d);
      const int y = first_y + row;
      if (y >= max(tile.top, p.value_top) && y < min(tile.bottom, p.value_bottom)) {
        const int x = first_x + 4 * (item - row * Traits::kStagedQuads);
        *l1_sum += sum_of_distances(a, b, max(tile.left, p.value_left) - x,
                                    min(tile.right, p.value_right) - x, /*squares=*/false);
      }
    } else {
      shift.apply(a, b, &s, &d);
    }
    reinterpret_cast<float4*>(staged_s)[item] = s;
    reinterpret_cast<float4*>(staged_d)[item] = d;
  }
  return shift;
}

// Adds to this thread's sum. Where there is `more`, tile `next` follows; else the block's sum is
// added to that of the launch, if it has a fixed point.
template <class Traits>
__device__ __forceinline__ void process_tile(const StripParams& p, const Tile& tile, bool more,
                                             int next, float* shared, uint64_t* loaded,
                                             unsigned parity, double* sum,
                                             WarpSums<Traits::kThreads / 32>* warp_sums) {
  const int rows = tile.bottom - tile.top;
  const int moment_rows = rows + 2 * Traits::kMomentHalo;
  float* staged_s = shared;
  float* staged_d = staged_s + Traits::staged_stride(p.tile_rows);
  float* cells = staged_d + Traits::staged_stride(p.tile_rows);
  float* partials = cells + Traits::moment_floats(p.tile_rows);
  const int thread = static_cast<int>(threadIdx.x);
  const typename Traits::Window window(p);

  float l1_sum = 0.0f;
  PixelShift shift;
  MeanShift mean_shift;
  if constexpr (Traits::kBoxes) {
    // 16-bit boxes of values can't become s and d in place.
    float* raw = Traits::kGradient                             ? partials
                 : Traits::kLoader == StripLoader::kFloatQuads ? staged_s
                                                               : cells;
    if constexpr (!Traits::kGradient) {
      load_tile_boxes<Traits>(p, tile, raw, loaded);
    }
    shift =
        stage_boxes<Traits>(p, tile, raw, staged_s, staged_d, loaded, parity, &mean_shift, &l1_sum);
  } else {
    shift = stage_tile<Traits>(p, tile, staged_s, staged_d, &mean_shift, &l1_sum);
  }
  __syncthreads();

  // Along the rows.
  using MomentItem = RowItem<Traits::kCellQuads>;
#pragma unroll 1
  for (int item = thread; item < MomentItem::items(Traits::staged_rows(rows));
       item += Traits::kThreads) {
    const MomentItem at(item);
    if (at.row >= Traits::staged_rows(rows)) {
      continue;
    }
    const int staged = at.row * Traits::kStagedPitch + 4 * at.quad;
    float mean_s[4], square_s[4], mean_d[4], square_d[4];
    filter_quad<Traits::kCentred>(window, staged_s + staged, mean_s, square_s);
    filter_quad<Traits::kCentred>(window, staged_d + staged, mean_d, square_d);
    auto* to = reinterpret_cast<float4*>(cells + at.row * Traits::kCellPitch + 4 * at.quad * kCell);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      to[i] = make_float4(mean_s[i], mean_d[i], square_s[i], square_d[i]);
    }
  }
  __syncthreads();

  // Down the columns: moments, value, partial derivatives.
  float loss = 0.0f;
  const DoubledStabilizers<float> stabilizers = {p.twice_c1, p.twice_c2};
  float probe = 0.0f;  // kContains: no number where a window or a weight is none
#pragma unroll 1
  for (int item = thread; item < Traits::segments(moment_rows) * Traits::kCellColumns;
       item += Traits::kThreads) {
    const int segment = item / Traits::kCellColumns;
    const int column = item - segment * Traits::kCellColumns;
    constexpr int kRows = Traits::kSegment;
    const int offset = kRows * segment * Traits::kCellPitch + column * kCell;
    const int x = tile.left - Traits::kMargin + column;
    const int first_y = tile.top - Traits::kMomentHalo + kRows * segment;
    const bool has_value = x >= p.value_left && x < p.value_right;
    const bool own = x >= tile.left && x < tile.right;
    const unsigned value_rows = has_value ? row_bits(first_y, p.value_top, p.value_bottom) : 0u;
    const unsigned own_rows = own ? value_rows & row_bits(first_y, tile.top, tile.bottom) : 0u;
    float weight[kRows];
    if constexpr (Traits::kWeighted) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        weight[r] = 0.0f;
        if ((value_rows & 1u << r) != 0u) {
          weight[r] = __ldg(reinterpret_cast<const float*>(
              tile.weights + (first_y + r - p.value_top) * p.map_gradient.row +
              (x - p.value_left) * p.map_gradient.column));
        }
      }
    }
    float filtered[4][kRows];
    MeanShift item_shift = mean_shift;
    if constexpr (Traits::kCentred) {
      const Centres centres = filter_centred_column<Traits::kCellPitch>(
          window, cells + offset, p.height - 1 - (first_y - Traits::kRadius), filtered);
      item_shift.s += centres.s;
      item_shift.d += centres.d;
    } else {
      filter_column<Traits::kCellPitch>(window, cells + offset, filtered);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Moments<float> moments = {filtered[0][r], filtered[1][r], filtered[2][r],
                                      filtered[3][r]};
      const Pixel<Traits> pixel =
          pixel_of<Traits>(stabilizers, moments, item_shift.s, item_shift.d);
      const bool is_own = (own_rows & 1u << r) != 0u;
      loss += is_own ? pixel.loss : 0.0f;
      if (Traits::kContains) {
        probe += pixel.loss;
        probe = Traits::kWeighted ? fmaf(weight[r], 0.0f, probe) : probe;
      }
      if constexpr (Traits::kMap) {
        if (is_own) {
          tile.map[(first_y + r - p.value_top) * p.map_pitch + (x - p.value_left)] = pixel.value();
        }
      }
      if constexpr (Traits::kGradient) {
        const float4 all = partials_of<Traits>(pixel, Traits::kWeighted ? weight[r] : 1.0f);
        const bool counts = (value_rows & 1u << r) != 0u;
        *reinterpret_cast<float4*>(partials + offset + r * Traits::kCellPitch) =
            make_float4(counts ? all.x : 0.0f, counts ? all.y : 0.0f, counts ? all.z : 0.0f,
                        counts ? all.w : 0.0f);
      }
    }
  }

  *sum += p.loss_weight * loss + p.l1_weight * l1_sum;
  const bool is_summed = !more && p.reduction.fixed_point != 0.0;
  if (is_summed) {
    warp_sums->leave(p.reduction, *sum);
  }
  __syncthreads();
  // The last warp has least to do in what follows.
  if (is_summed && threadIdx.x / 32 == Traits::kThreads / 32 - 1) {
    add_to_sum<float, /*kOneValue=*/true>(p.reduction, warp_sums);
  }

  if constexpr (Traits::kGradient) {
    // Down the columns again. The row-filtered moments are no longer needed: their place is.
#pragma unroll 1
    for (int item = thread; item < Traits::segments(rows) * Traits::kCellColumns;
         item += Traits::kThreads) {
      constexpr int kRows = Traits::kSegment;
      const int segment = item / Traits::kCellColumns;
      const int column = item - segment * Traits::kCellColumns;
      const int offset = kRows * segment * Traits::kCellPitch + column * kCell;
      float filtered[Traits::kPartialMaps][kRows];
      filter_column<Traits::kCellPitch>(window, partials + offset, filtered);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        *reinterpret_cast<float4*>(cells + offset + r * Traits::kCellPitch) =
            make_float4(filtered[0][r], filtered[1][r], filtered[2][r],
                        Traits::kTwo ? filtered[Traits::kPartialMaps - 1][r] : 0.0f);
      }
    }
    __syncthreads();
    if (Traits::kBoxes && more) {
      load_tile_boxes<Traits>(p, tile_at<Traits>(p, next), partials, loaded);
    }

    // Along the rows again, and the gradient.
    using OwnItem = RowItem<kMaxTileColumns / 4>;
#pragma unroll 1
    for (int item = thread; item < OwnItem::items(rows); item += Traits::kThreads) {
      const OwnItem at(item);
      const int x = tile.left + 4 * at.quad;
      const int y = tile.top + at.row;
      if (x >= tile.right || y >= tile.bottom) {
        continue;
      }
      const int staged = (at.row + Traits::kPixelHalo) * Traits::kStagedPitch +
                         Traits::kStagedBefore + 4 * at.quad;
      const float4 s4 = *reinterpret_cast<const float4*>(staged_s + staged);
      const float4 d4 = *reinterpret_cast<const float4*>(staged_d + staged);
      const float s[4] = {s4.x, s4.y, s4.z, s4.w};
      const float d[4] = {d4.x, d4.y, d4.z, d4.w};
      RowPartials<4> filtered;
      filter_partials<Traits::kTwo>(
          window, cells + at.row * Traits::kCellPitch + 4 * at.quad * kCell, &filtered);
      float first[4], second[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        first[i] =
            fmaf(d[i], filtered.by_d2[i], fmaf(s[i], filtered.by_s2[i], filtered.by_mean[i]));
        if constexpr (Traits::kTwo) {
          second[i] =
              fmaf(-d[i], filtered.by_d2[i], fmaf(s[i], filtered.by_s2[i], filtered.by_mean2[i]));
        }
      }
      if (p.l1 && y >= p.value_top && y < p.value_bottom) {
        finish_with_l1<Traits>(p, tile.weights, {tile.plane1, tile.plane2},
                               shift.difference_if_equal(), y, x, tile.right - x, d, first, second);
      } else {
        scale_gradients<Traits>(p.gradient_scale, first, second);
      }
      if (tile.gradient1 != nullptr) {
        store_any_quad<Traits>(p.grad1, tile.gradient1, y, x, tile.right, first);
      }
      if constexpr (Traits::kTwo) {
        if (tile.gradient2 != nullptr) {
          store_any_quad<Traits>(p.grad2, tile.gradient2, y, x, tile.right, second);
        }
      }
    }
  }

  if constexpr (Traits::kContains) {
    __shared__ PlaneRange own;  // whose address is taken: no stack for it
    if (__syncthreads_or(!isfinite(probe))) {
      if (thread == 0) {
        own = {tile.batch, tile.channel, tile.top, tile.bottom, tile.left, tile.right};
      }
      __syncthreads();
      mend_outputs<Traits>(p, own);
    }
  }
}

template <class Traits>
__device__ __forceinline__ void run_tiles(const StripParams& p) {
  extern __shared__ __align__(128) float shared_floats[];
  __shared__ uint64_t loaded;
  __shared__ WarpSums<Traits::kThreads / 32> warp_sums;
  allow_next_launch();
  if (Traits::kBoxes && threadIdx.x == 0) {
    prefetch(p.tensor1);
    prefetch(p.tensor2);
    start_counting(&loaded);
    order_counters();
  }
  const ReductionPlan& plan = p.reduction;
  // Tiles serve small images alone, so 32 bits are enough.
  int unit = static_cast<int>(unit_begin(plan, blockIdx.x));
  const int end = static_cast<int>(unit_begin(plan, blockIdx.x + 1));
  int value = plan.values == 1 ? 0 : static_cast<int>(quotient(unit, plan.units_per_value));
  double sum = 0.0;
  unsigned parity = 0;
  Tile tile = tile_at<Traits>(p, unit);
  if constexpr (Traits::kBoxes) {
    __syncthreads();
  }
  wait_for_inputs(p);
  if constexpr (Traits::kBoxes && Traits::kGradient) {
    load_tile_boxes<Traits>(
        p, tile,
        shared_floats + 2 * Traits::staged_stride(p.tile_rows) + Traits::moment_floats(p.tile_rows),
        &loaded);
  }
#pragma unroll 1
  for (;;) {
    ++unit;
    const bool more = unit < end;
    process_tile<Traits>(p, tile, more, unit, shared_floats, &loaded, parity, &sum, &warp_sums);
    parity ^= 1u;
    if (plan.value != nullptr && plan.fixed_point == 0.0) {
      const int next =
          plan.values == 1 ? 0 : static_cast<int>(quotient(unit, plan.units_per_value));
      if (next != value || !more) {
        store_partial<Traits::kThreads>(plan.partials, value, sum);
        sum = 0.0;
        value = next;
      }
    }
    if (!more) {
      break;
    }
    tile = tile_at<Traits>(p, unit);
    __syncthreads();
  }
  wait_for_previous_launch();  // in a group none has
  if (plan.value != nullptr && plan.fixed_point == 0.0) {
    finish_reduction<Traits::kThreads, float>(plan);
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    tile_kernel(const __grid_constant__ StripParams p) {
  if constexpr (Traits::kLaunched) {
    run_tiles<Traits>(p);
  }
}

struct TileEntry {
  void (*kernel)(const StripParams);
  int (*shared_bytes)(int rows);
};

template <StripKind kKind, StripLoader kLoader, class Window>
struct MakeTileEntry {
  using Traits = TileTraits<kKind, kLoader, Window>;
  static constexpr TileEntry entry() { return {tile_kernel<Traits>, Traits::shared_bytes}; }
};

template <class Window>
cudaError_t find_tile_kernel(const DeviceFacts& device, StripKind kind, StripLoader loader,
                             int tile_rows, StripKernel* found) {
  static constexpr auto kEntries = make_entries<Schedule::kTile, MakeTileEntry, Window>();
  static LaunchCache caches[kEntries.size()];
  const int index = entry_index(kind, loader);
  // Ready for tiles of any size.
  *found = {kEntries[index].kernel, kTileThreads, device.shared_per_block - kTileStaticShared};
  const cudaError_t error = prepare(device, &caches[index], found);
  found->shared_bytes = kEntries[index].shared_bytes(tile_rows);
  return error;
}

}  // namespace fused_ssim::cuda
