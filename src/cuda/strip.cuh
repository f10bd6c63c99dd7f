// SSIM sums, maps and gradients of large images with symmetric windows of up to 11 taps, in one pass,
// where a multiprocessor has too little shared memory for the marching kernel (march.cuh): every warp
// does all of the work.
//
// A block owns strips of up to 128 columns and marches down them in chunks of 8 rows. With
// s = x + y - shift and d = x - y - shift (core/formula.h), a chunk goes through
//
//   load    global -> shared memory, asynchronously, while the chunk above is filtered; at the end
//           of its column phase the threads turn the pixels into s and d, in place. From compute
//           capability 9.0 on tensor maps load float32, a box of pixels an instruction, zeros
//           outside the image.
//   rows    thread = one row x 8 columns. Filters s, s^2, d, d^2 along the row: 18 values of each
//           serve 8 outputs. 16-byte shared loads and stores.
//   columns thread = one column. Filters the four maps down the column in transposed form,
//           state[k] = fma(v, tap[k + 1], state[k + 1]): the state lives in registers (10 a map)
//           over the whole strip. Moments -> value and partial derivatives -> the second column
//           filter (3 or 4 maps) in the same thread; its outputs replace the moments in shared
//           memory.
//   rows    thread = one row x 8 columns again, as the first half of the next row phase: filters
//           the partials along the row, combines them with s and d of 10 rows above, loaded once
//           more, stores the gradient.
//
// A warp filters the rows of its own 32 columns, so between the row and the column phase it waits
// for nobody. The gradient's row phase reads partials of the warp to the right: one block barrier
// before it, one after, before moments take the place of partials. Without a gradient one barrier
// remains, before pixels that other warps have made s and d.
//
// Rows in shared memory are an odd number of quads (16 bytes) apart, and eight lanes in turn have
// the eight rows of a chunk: lanes that read quads of different rows (row phase) and lanes that
// read neighbouring columns (column phase) both meet no bank conflicts.
//
// The image rows are cut into one contiguous range per block, so that one wave of blocks covers any
// size with equal shares; a range may cross from strip to strip and plane to plane.
//
// Global memory per float32 pixel: 8 B read (16 with a gradient, half of it out of L2), and 4 B
// written a gradient image; nothing else, but for the halos, which come from L2: 26 columns a strip
// and 20 rows a range (18 and 10 for values alone).
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
#include "cuda/window.cuh"

namespace fused_ssim::cuda {

template <int kThreads_, StripKind kKind_, StripLoader kLoader_, class Window_>
struct StripTraits : KindTraits<kKind_, Window_> {
  using Kind = KindTraits<kKind_, Window_>;
  using Kind::kGradient, Kind::kKind, Kind::kMap, Kind::kPartialMaps, Kind::kTwo, Kind::kWeighted;
  using typename Kind::Window;
  static constexpr int kThreads = kThreads_;
  static constexpr int kColumns = kThreads;  // of a strip's moments
  static constexpr StripLoader kLoader = kLoader_;
  static constexpr bool kQuads = kLoader != StripLoader::kAnyWords;
#if defined(__CUDA_ARCH__)
  static constexpr int kArchitecture = __CUDA_ARCH__ / 10;
#else
  static constexpr int kArchitecture = 0;
#endif
  static constexpr bool boxes(int architecture) {
    return kLoader == StripLoader::kFloatQuads && loads_boxes(architecture);
  }
  static constexpr bool kBoxes = boxes(kArchitecture);
  static constexpr bool kRollMasked = kLoader == StripLoader::kAnyQuads;
  static constexpr int kRowsAtOnce = kKind == StripKind::kTwoGradients ? 4 : 8;

  static constexpr int kRadius = kDefaultWindowSize / 2;
  static constexpr int kChunkRows = 8;
  static constexpr int kGroupColumns = 8;
  static constexpr int kGroups = kThreads / kGroupColumns;  // groups of columns, one thread each
  static_assert(kThreads == kGroups * kChunkRows, "a chunk is one group of columns a thread");

  // Column m of the moments is image column X0 - kMargin + m, where X0 is the strip's first own
  // column, a multiple of 4. Staged column c is image column X0 - kStagedBefore + c, and the
  // windows of group g lie in the staged quads from 2g on.
  static constexpr int kMargin = kGradient ? kRadius : kBoxes ? 0 : kValueMargin;
  // Where in its quads the first window of a group begins.
  static constexpr int kSkip = (8 - kMargin - kRadius + 4) % 4;
  static constexpr int kStagedBefore = kMargin + kRadius + kSkip;
  static_assert(kStagedBefore % 4 == 0, "staged quads are quads of the image");
  // Own columns: from X0 on where a gradient needs partials before them, else all.
  static constexpr int kFirstOwn = kGradient ? kMargin : 0;

  // Image rows read before the first own row; the moments of an own row's window lag by kRadius.
  static constexpr int kLeadRows = kGradient ? 2 * kRadius : kRadius;
  static_assert(strip_chunks(97, kGradient) == (97 + 2 * kLeadRows + kChunkRows - 1) / kChunkRows,
                "the tuning table counts the same");

  // Columns of a staged row: an odd number of quads, enough for all windows.
  static constexpr int staged_pitch(int architecture) {
    return boxes(architecture) ? box_columns(kKind) : kThreads + 12;
  }
  static constexpr int kStagedPitch = staged_pitch(kArchitecture);
  static constexpr int kStagedQuads = kStagedPitch / 4;
  static_assert(kStagedPitch >= kThreads + 2 * kRadius + kSkip, "all windows");
  static_assert(kStagedPitch % 8 == 4, "an odd number of quads");

  // The gradient combines partials with s and d of kGradientLag rows above the newest partials'
  // inputs, which are loaded once more.
  static constexpr int kGradientLag = 2 * kRadius;
  static constexpr int kStagedRows = kGradient ? kChunkRows : 2 * kChunkRows;
  // Elsewhere the kernel is empty.
  static constexpr bool kLaunched = kArchitecture != 0 && !has_march(kArchitecture);
  // Staged pixels of a chunk, and of one image.
  static constexpr int kBoxFloats = kChunkRows * kStagedPitch;
  static constexpr int kImageStride = kStagedRows * kStagedPitch;
  static constexpr int staged_bytes(int architecture) {
    return 4 * 2 * kStagedRows * staged_pitch(architecture);
  }

  // Of words: 16 threads have a row, each every 16th quad of it.
  static constexpr int kCopiers = 16;
  static constexpr int kQuadsPerThread = (kStagedQuads + kCopiers - 1) / kCopiers;
  static_assert(kQuadsPerThread * kThreads >= kChunkRows * kStagedQuads, "all of a box");
};

// A range of rows of one strip. It lies in shared memory and is read from there again and again:
// registers are what limits this kernel.
struct StripPiece {
  // In columns of moments, the first column of which is X0 - kMargin: those with a value, own ones.
  alignas(16) int4 columns;  // value begin, value end, own begin, own end
  // Image rows: the first own row, the end; those of them that have a value.
  alignas(16) int4 rows;  // begin, end, value begin, value end
  const char* plane1;
  const char* plane2;
  char* gradient1;  // of X0 in the row that step 0 of the gradient would write
  char* gradient2;
  const char* weights;
  float* map;
  int first_column;  // X0
  int end_column;    // of the own columns
  struct alignas(16) Control {
    int chunks;
    // Chunks from the first on, that many: their rows in the column phase are all own ones and have
    // values.
    int first_plain;
    int plain_chunks;
    int unused;
  } control;
  struct alignas(16) Target {
    int first_row;
    int rows;
    int columns;
    int first_column;
  } target;       // of the gradient: the own pixels, together for one read
  float shift_x;  // a PixelShift
  float shift_y;
  float mean_shift_s;  // a MeanShift
  float mean_shift_d;
  // Boxes of pixels: of the first chunk; channel and batch in the tensor maps of img1 and img2.
  struct alignas(16) Box {
    int4 first;   // column and row; four words, to be read at once
    int4 planes;  // channel and batch of img1, then of img2
  } box;
  PlaneRange own;  // kContains
};
using SharedPiece = const volatile StripPiece;

// 16 bytes of the piece at once.
template <class T>
__device__ __forceinline__ T read_shared(const volatile T& from) {
  static_assert(sizeof(T) == 16 && alignof(T) == 16, "one access");
  union {
    T value;
    unsigned words[4];
  } read;
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(const_cast<const T*>(&from)));
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(read.words[0]), "=r"(read.words[1]), "=r"(read.words[2]), "=r"(read.words[3])
               : "r"(address)
               : "memory");
  return read.value;
}

// The loader: the raw pixels of img1 are copied straight into shared memory, where s will be, and
// those of img2 where d will be. Later the threads convert them in place. So loads need no
// registers while they are under way, and no barrier of the block.
//   kFloatQuads on Hopper and later: by tensor maps, a few instructions of one thread.
//   Else: each thread copies by cp.async, or through registers before Ampere, what it (or, of
//   words, its warp) converts.

// The i-th quad of a chunk that a thread copies, and makes s and d. Copies of words are by rows of
// a warp, so there 16 threads have a row; else neighbouring threads have neighbouring quads.
struct StagedQuad {
  int row;     // of the chunk
  int column;  // staged
  int offset;  // in floats, in the chunk's slot
  bool exists;
};
template <class Traits>
__device__ __forceinline__ StagedQuad staged_quad(int i) {
  // Before Hopper registers are too short to keep what follows from it.
  const int thread = Traits::kArchitecture >= 90 ? static_cast<int>(threadIdx.x) : thread_index();
  int row, quad;
  StagedQuad result;
  if constexpr (!Traits::kQuads) {
    row = thread / Traits::kCopiers % Traits::kChunkRows;
    quad = thread % Traits::kCopiers + Traits::kCopiers * i;
    result.exists = quad < Traits::kStagedQuads;
  } else {
    const int index = thread + Traits::kThreads * i;
    row = index / Traits::kStagedQuads;
    quad = index % Traits::kStagedQuads;
    constexpr int kQuads = Traits::kChunkRows * Traits::kStagedQuads;
    result.exists = (i + 1) * Traits::kThreads <= kQuads || index < kQuads;
  }
  result.row = row;
  result.column = 4 * quad;
  result.offset = row * Traits::kStagedPitch + 4 * quad;
  return result;
}

// Copies a lane's share of one row, every 32nd column from `first_x`; zeros outside [0, end).
// kStride: of float32 columns, in bytes, where it is known.
template <class Traits, int kStride>
__device__ __forceinline__ void copy_columns(const char* from, int64_t column_stride, int first_x,
                                             int end, float* to) {
  constexpr int kColumns = 4 * Traits::kStagedQuads;
#pragma unroll
  for (int j = 0; j < (kColumns + 31) / 32; ++j) {
    if (32 * j + 32 <= kColumns || 32 * j + static_cast<int>(threadIdx.x % 32) < kColumns) {
      const int size = static_cast<unsigned>(first_x + 32 * j) < static_cast<unsigned>(end) ? 4 : 0;
      if constexpr (kStride != 0) {
        copy_async<4>(to + 32 * j, from + 32 * kStride * j, size);
      } else {
        copy_word(to + 32 * j, from, size);
      }
    }
    if constexpr (kStride == 0) {
      from += 32 * column_stride;
    }
  }
}

// One row of one image: planar float32, of three interleaved channels, or any.
template <class Traits>
__device__ __forceinline__ void copy_row(const InputImage& image, const char* from, int first_x,
                                         int end, float* to) {
  if (image.dtype == DType::kFloat32 && image.column == 4) {
    copy_columns<Traits, 4>(from, 0, first_x, end, to);
  } else if (image.dtype == DType::kFloat32 && image.column == 12) {
    copy_columns<Traits, 12>(from, 0, first_x, end, to);
  } else {
    copy_columns<Traits, 0>(from, image.column, first_x, end, to);
  }
}

// Loads the boxes of a chunk. One thread calls it.
template <class Traits>
__device__ __forceinline__ void load_boxes(const StripParams& p, SharedPiece& piece, int chunk,
                                           float* slot, uint64_t* counter) {
  const int4 first = read_shared(piece.box.first);
  const int4 planes = read_shared(piece.box.planes);
  const int y = first.y + chunk * Traits::kChunkRows;
  order_before_boxes();  // what was stored where they go
  expect_bytes(counter, 4 * 2 * Traits::kBoxFloats);
  load_box(slot, p.tensor1, {first.x, y, planes.x, planes.y}, counter);
  load_box(slot + Traits::kImageStride, p.tensor2, {first.x, y, planes.z, planes.w}, counter);
}

// Four columns, as they lie in memory; zeros where they are not inside.
template <class Traits>
__device__ __forceinline__ void copy_quad(float* to, const char* from, const InputImage& image,
                                          bool inside) {
  if (Traits::kLoader == StripLoader::kFloatQuads || image.dtype == DType::kFloat32) {
    copy_async<16>(to, from, inside ? 16 : 0);
  } else if (image.dtype == DType::kUInt8) {
    copy_async<4>(to, from, inside ? 4 : 0);
  } else {
    copy_async<8>(to, from, inside ? 8 : 0);
  }
}

// Starts to load a chunk by copies of all threads.
template <class Traits>
__device__ __forceinline__ void copy_chunk(const StripParams& p, SharedPiece& piece, int chunk,
                                           float* slot) {
  const int first_row = piece.rows.x - Traits::kLeadRows + chunk * Traits::kChunkRows;
  if constexpr (!Traits::kQuads) {
    // Neighbouring lanes take neighbouring columns, whatever their stride. A warp has two rows.
    const int thread = thread_index();
    const int lane = thread % 32;
    const int first_x = piece.first_column - Traits::kStagedBefore + lane;
    const int end_x = min(p.width, piece.end_column + 2 * Traits::kRadius);
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      const int row = thread / 32 * 2 % Traits::kChunkRows + i;
      const int y = first_row + row;
      const bool inside = static_cast<unsigned>(y) < static_cast<unsigned>(p.height);
      const char* from1 = piece.plane1 + (y * p.img1.row + first_x * p.img1.column);
      const char* from2 = piece.plane2 + (y * p.img2.row + first_x * p.img2.column);
      float* to = slot + row * Traits::kStagedPitch + lane;
      copy_row<Traits>(p.img1, from1, first_x, inside ? end_x : 0, to);
      copy_row<Traits>(p.img2, from2, first_x, inside ? end_x : 0, to + Traits::kImageStride);
    }
  } else {
    const int first_x = piece.first_column - Traits::kStagedBefore;
    const int end_x = min(p.width, piece.end_column + 2 * Traits::kRadius);
#pragma unroll
    for (int i = 0; i < Traits::kQuadsPerThread; ++i) {
      const StagedQuad quad = staged_quad<Traits>(i);
      if (quad.exists) {
        const int x = first_x + quad.column;
        const int y = first_row + quad.row;
        const bool inside = static_cast<unsigned>(y) < static_cast<unsigned>(p.height) &&
                            static_cast<unsigned>(x) < static_cast<unsigned>(end_x);
        float* to = slot + quad.offset;
        const char* from1 = piece.plane1 + y * p.img1.row + x * p.img1.column;
        const char* from2 = piece.plane2 + y * p.img2.row + x * p.img2.column;
        copy_quad<Traits>(to, from1, p.img1, inside);
        copy_quad<Traits>(to + Traits::kImageStride, from2, p.img2, inside);
      }
    }
  }
}

// Makes the pixels of a chunk s and d, in place. Returns the L1 term of the own ones where there is
// no gradient; else that is added up with it.
template <class Traits, bool kL1>
__device__ __forceinline__ float convert_quads(const StripParams& p, SharedPiece& piece, int chunk,
                                               float* slot) {
  const PixelShift shift = {piece.shift_x, piece.shift_y};
  float l1 = 0.0f;
#pragma unroll
  for (int i = 0; i < Traits::kQuadsPerThread; ++i) {
    const StagedQuad quad = staged_quad<Traits>(i);
    if (!quad.exists) {
      continue;
    }
    auto* place_s = reinterpret_cast<float4*>(slot + quad.offset);
    auto* place_d = reinterpret_cast<float4*>(slot + quad.offset + Traits::kImageStride);
    float4 a = *place_s;
    float4 b = *place_d;
    if constexpr (Traits::kLoader == StripLoader::kAnyQuads) {
      a = raw_quad_to_float(a, p.img1);
      b = raw_quad_to_float(b, p.img2);
    } else if constexpr (!Traits::kQuads) {
      const int y = piece.rows.x - Traits::kLeadRows + chunk * Traits::kChunkRows + quad.row;
      const int x = piece.first_column - Traits::kStagedBefore + quad.column;
      if (p.img1.dtype != DType::kFloat32) {
        a = narrow_words_to_float(a, piece.plane1 + y * p.img1.row + x * p.img1.column, p.img1);
      }
      if (p.img2.dtype != DType::kFloat32) {
        b = narrow_words_to_float(b, piece.plane2 + y * p.img2.row + x * p.img2.column, p.img2);
      }
    }
    float4 s, d;
    if constexpr (kL1) {
      shift.apply_in_order(a, b, &s, &d);
      const int y = piece.rows.x - Traits::kLeadRows + chunk * Traits::kChunkRows + quad.row;
      if (!Traits::kGradient && y >= piece.rows.z && y < piece.rows.w) {
        const int offset = Traits::kStagedBefore - Traits::kMargin - quad.column;
        l1 += sum_of_distances(a, b, max(piece.columns.z, piece.columns.x) + offset,
                               min(piece.columns.w, piece.columns.y) + offset, false);
      }
    } else {
      shift.apply(a, b, &s, &d);
    }
    *place_s = s;
    *place_d = d;
  }
  return l1;
}

// Waits for the pixels of a chunk, the `count`-th of the block, and makes them s and d; a block
// barrier makes that known to all. Adds the L1 term of the own ones to this thread's `total`, where
// it is wanted.
template <class Traits>
__device__ __forceinline__ void convert_chunk(const StripParams& p, SharedPiece& piece, int chunk,
                                              unsigned count, float* slot, uint64_t* loaded,
                                              double* total) {
  if constexpr (Traits::kBoxes) {
    wait_for_phase(&loaded[count & 1u], count >> 1 & 1u);
  } else {
    wait_for_copies();
    __syncwarp();
  }
  if (__builtin_expect(p.l1, false)) {
    const float l1 = convert_quads<Traits, true>(p, piece, chunk, slot);
    if constexpr (!Traits::kGradient) {
      *total = fma(p.l1_weight, static_cast<double>(l1), *total);
    }
  } else {
    convert_quads<Traits, false>(p, piece, chunk, slot);
  }
}

// This thread's row and group of 8 columns in the row phases.
template <class Traits>
struct RowGroup {
  int row;     // of the chunk
  int group;   // of the strip
  int staged;  // in floats, of its first staged quad in a slot

  __device__ __forceinline__ RowGroup() {
    const int thread = thread_index();  // registers are too short to keep what follows from it
    row = thread % 8;
    group = thread / 8;
    staged = row * Traits::kStagedPitch + group * Traits::kGroupColumns;
  }
  __device__ __forceinline__ int map() const {
    return row * MapPlaces<Traits>::kRow +
           group * Traits::kGroupColumns * MapPlaces<Traits>::kColumn;
  }
};

// Writes 8 columns of one image's gradient, or 4.
template <StripLoader kLoader>
__device__ __forceinline__ void store_gradient_group(char* first, bool eight,
                                                     const float (&value)[8], DType dtype) {
  static_assert(kLoader == StripLoader::kFloatQuads, "the others store columns");
  store_quad<kLoader>(first, value, dtype);
  if (eight) {
    store_quad<kLoader>(first + 16, value + 4, dtype);
  }
}

// Writes a warp's columns of one image's gradient out of shared memory, neighbouring lanes
// neighbouring columns: for strides and alignments that don't allow four columns a store.
template <class Traits>
__device__ __forceinline__ void store_gradient_columns(const OutputImage& image, char* origin,
                                                       const float* map, int first_step,
                                                       SharedPiece& piece) {
  const int column = static_cast<int>(threadIdx.x);
  const int rows = piece.rows.y - piece.rows.x;
  if (column >= piece.end_column - piece.first_column) {
    return;
  }
  char* first = origin + first_step * image.row + column * image.column;
  const float* value = map + column;
#pragma unroll
  for (int r = 0; r < Traits::kChunkRows; ++r) {
    if (static_cast<unsigned>(first_step + r - 2 * Traits::kGradientLag) <
        static_cast<unsigned>(rows)) {
      store_element(first + r * image.row, value[r * MapPlaces<Traits>::kRow], image.dtype);
    }
  }
}

// What a thread's column is in a piece. Kept in shared memory: registers are short.
constexpr unsigned kHasValue = 1;  // the column's pixels do
constexpr unsigned kIsOwn = 2;

// One chunk of the column phase. Returns the sum of the own pixels' losses.
template <class Traits>
__device__ __forceinline__ float filter_columns(const StripParams& p, SharedPiece& piece,
                                                unsigned flags, bool plain, int chunk,
                                                float* column, ColumnState<Traits>& state) {
  if ((flags & kHasValue) == 0) {
    if constexpr (Traits::kGradient) {
      clear_partials<Traits>(column);
    }
    return 0.0f;
  }
  ColumnJob job = {piece.mean_shift_s, piece.mean_shift_d, nullptr, nullptr, 0};
  int first = 0;
  if (Traits::kMap || Traits::kWeighted || !plain) {
    first = piece.rows.x - Traits::kLeadRows - Traits::kRadius + chunk * Traits::kChunkRows;
    job.map_column = static_cast<int>(threadIdx.x) - piece.columns.x;
  }
  if constexpr (Traits::kMap) {
    job.map = piece.map;
  }
  if constexpr (Traits::kWeighted) {
    job.weights = piece.weights;
  }
  const bool own = (flags & kIsOwn) != 0;
  WeightStream<Traits::kRowsAtOnce> weights;
  if constexpr (Traits::kWeighted) {
    weights.start(p, job, true, first);
  }
  if (plain) {
    return filter_column_rows<Traits, false>(p, job, first, own, 0u, 0u, weights, column, state);
  }
  return filter_column_rows<Traits, true>(
      p, job, first, own, row_bits(first, p.value_top, p.value_bottom),
      row_bits(first, piece.rows.z, piece.rows.w), weights, column, state);
}

// s (or d) of 8 own columns of row y, from the images once more.
template <class Traits, bool kWantsS>
__device__ __forceinline__ void own_group(const StripParams& p, SharedPiece& piece, int y, int x,
                                          float (&out)[8]) {
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    const PixelShift shift = {piece.shift_x, piece.shift_y};
    const float4 a =
        load_quad<Traits::kLoader>(piece.plane1 + y * p.img1.row, p.img1, x + 4 * q, p.width);
    const float4 b =
        load_quad<Traits::kLoader>(piece.plane2 + y * p.img2.row, p.img2, x + 4 * q, p.width);
    float4 s, d;
    if (p.l1) {
      shift.apply_in_order(a, b, &s, &d);
    } else {
      shift.apply(a, b, &s, &d);
    }
    const float4 quad = kWantsS ? s : d;
    out[4 * q] = quad.x, out[4 * q + 1] = quad.y, out[4 * q + 2] = quad.z, out[4 * q + 3] = quad.w;
  }
}

// The gradient of one chunk: filters the partials of this thread's row and 8 columns, stores. Holds
// a block barrier: after it the partials are no longer needed.
template <class Traits>
__device__ __forceinline__ void gradient_rows(const StripParams& p, SharedPiece& piece, int chunk,
                                              float* maps, double* total) {
  const RowGroup<Traits> place;
  const int step = chunk * Traits::kChunkRows + place.row;
  const StripPiece::Target target = read_shared(piece.target);
  const int columns = target.columns;
  const int group = place.group;
  const bool active =
      static_cast<unsigned>(step - 2 * Traits::kGradientLag) < static_cast<unsigned>(target.rows) &&
      8 * group < columns;
  const int y = target.first_row - 2 * Traits::kGradientLag + step;
  const int x = target.first_column + 8 * group;
  float* map_row = maps + place.map();

  float first[8];
  float second[8];
  if (active) {
    float own[8];
    filter_gradient_row<Traits>(
        typename Traits::Window(p), map_row,
        [&](float (&s)[8]) { own_group<Traits, true>(p, piece, y, x, s); },
        [&](float (&d)[8]) { own_group<Traits, false>(p, piece, y, x, d); }, own, first, second);
    if (__builtin_expect(p.l1 && y >= p.value_top && y < p.value_bottom, false)) {
      const float equal = PixelShift{piece.shift_x, piece.shift_y}.difference_if_equal();
      const float sum =
          finish_with_l1<Traits>(p, piece.weights, {piece.plane1, piece.plane2}, equal, y, x,
                                 columns - 8 * group, own, first, second);
      *total = fma(p.l1_weight / kPixelScale, static_cast<double>(sum), *total);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        first[i] *= p.gradient_scale;
        if constexpr (Traits::kTwo) {
          second[i] *= p.gradient_scale;
        }
      }
    }
  }

  char* origin1 = piece.gradient1;
  char* origin2 = Traits::kTwo ? piece.gradient2 : nullptr;
  if constexpr (Traits::kQuads) {
    constexpr int kBytes = 32;
    const bool eight = 8 * group + 4 < columns;
    if (active && (!Traits::kWeighted || origin1 != nullptr)) {
      store_gradient_group<Traits::kLoader>(origin1 + step * p.grad1.row + group * kBytes, eight,
                                            first, p.grad1.dtype);
    }
    if (Traits::kTwo && active && (!Traits::kWeighted || origin2 != nullptr)) {
      store_gradient_group<Traits::kLoader>(origin2 + step * p.grad2.row + group * kBytes, eight,
                                            second, p.grad2.dtype);
    }
    __syncthreads();
  } else {
    __syncthreads();
    if (active) {
      store_group(map_row, first);
      if constexpr (Traits::kTwo) {
        store_group(map_row + MapPlaces<Traits>::kMap, second);
      }
    }
    __syncwarp();
    const int first_step = chunk * Traits::kChunkRows;
    if (origin1 != nullptr) {
      store_gradient_columns<Traits>(p.grad1, origin1, maps, first_step, piece);
    }
    if (Traits::kTwo && origin2 != nullptr) {
      store_gradient_columns<Traits>(p.grad2, origin2, maps + MapPlaces<Traits>::kMap, first_step,
                                     piece);
    }
    __syncwarp();
  }
}

// What a block keeps in shared memory, but for the staged rows, which follow it.
template <class Traits>
struct alignas(128) StripShared {
  StripPiece piece;
  int64_t unit, end, value;
  double totals[Traits::kThreads];
  WarpSums<Traits::kThreads / 32> warp_sums;
  unsigned char columns[Traits::kThreads];
  uint64_t loaded[2];  // mbarriers of the chunks' boxes, in turn
  alignas(16) float maps[MapPlaces<Traits>::kChunk];
};

// Describes the rows from `unit` on, to the end of the strip or of the block's range, and loads
// samples of them. One warp calls it.
template <class Traits>
__device__ __forceinline__ Samples<float> start_piece(const StripParams& p, int64_t unit,
                                                      int64_t end, StripPiece* piece) {
  const int64_t strip = quotient(unit, p.units_per_strip);
  const int64_t plane = quotient(strip, p.strips_per_plane);
  const int first = static_cast<int>(unit - strip * p.own_rows);
  const int rows = static_cast<int>(min(end - unit, static_cast<int64_t>(p.own_rows - first)));
  const int first_column =
      p.own_left + static_cast<int>(strip - plane * p.strips_per_plane.divisor) * p.strip_width;
  const int first_moment = first_column - Traits::kMargin;
  const int first_own = first_moment + Traits::kFirstOwn;
  const int end_column = min(first_own + p.strip_width, p.own_right);
  const int first_row = p.own_top + first;
  const bool together = p.channels_together > 1;
  const int64_t batch = together ? plane : quotient(plane, p.channels);
  const int64_t channel =
      together ? blockIdx.x % p.channels_together : plane - batch * p.channels.divisor;
  const char* plane1 = p.img1.data + batch * p.img1.batch + channel * p.img1.channel;
  const char* plane2 = p.img2.data + batch * p.img2.batch + channel * p.img2.channel;
  const Samples<float> samples =
      SamplePointers::of(plane1, plane2, p.img1, p.img2, max(0, first_row - Traits::kRadius),
                         min(p.height, first_row + rows + Traits::kRadius),
                         max(0, first_column - Traits::kRadius),
                         min(p.width, end_column + Traits::kRadius))
          .template load<float, elements_of(Traits::kLoader)>(p.img1, p.img2);
  if (threadIdx.x != 0) {
    return samples;
  }
  piece->plane1 = plane1;
  piece->plane2 = plane2;
  if constexpr (Traits::kContains) {
    piece->own = {batch, channel, first_row, first_row + rows, first_own, end_column};
  }
  piece->first_column = first_column;
  piece->end_column = end_column;
  piece->columns = make_int4(p.value_left - first_moment, p.value_right - first_moment,
                             max(first_own, p.value_left) - first_moment,
                             min(end_column, p.value_right) - first_moment);
  piece->rows = make_int4(first_row, first_row + rows, max(first_row, p.value_top),
                          min(first_row + rows, p.value_bottom));
  const int first_moment_row = first_row - Traits::kLeadRows - Traits::kRadius;
  const int first_plain =
      (piece->rows.z - first_moment_row + Traits::kChunkRows - 1) / Traits::kChunkRows;
  const int end_plain = (piece->rows.w - first_moment_row) / Traits::kChunkRows;
  piece->control = {strip_chunks(rows, Traits::kGradient), first_plain,
                    max(end_plain - first_plain, 0), 0};
  if constexpr (Traits::kBoxes) {
    piece->box.first.x = first_column - Traits::kStagedBefore;
    piece->box.first.y = first_row - Traits::kLeadRows;
    piece->box.planes = make_int4(p.tensor1.channels > 1 ? static_cast<int>(channel) : 0,
                                  p.tensor1.batches > 1 ? static_cast<int>(batch) : 0,
                                  p.tensor2.channels > 1 ? static_cast<int>(channel) : 0,
                                  p.tensor2.batches > 1 ? static_cast<int>(batch) : 0);
  }
  if constexpr (Traits::kGradient) {
    piece->target = {first_row, rows, end_column - first_column, first_column};
    const int64_t top = first_row - 2 * Traits::kGradientLag;
    piece->gradient1 = p.grad1.data == nullptr
                           ? nullptr
                           : p.grad1.data + batch * p.grad1.batch + channel * p.grad1.channel +
                                 top * p.grad1.row + first_column * p.grad1.column;
    piece->gradient2 = p.grad2.data == nullptr
                           ? nullptr
                           : p.grad2.data + batch * p.grad2.batch + channel * p.grad2.channel +
                                 top * p.grad2.row + first_column * p.grad2.column;
  }
  if constexpr (Traits::kWeighted) {
    piece->weights =
        p.map_gradient.data + batch * p.map_gradient.batch + channel * p.map_gradient.channel;
  }
  if constexpr (Traits::kMap) {
    piece->map =
        p.map == nullptr ? nullptr : p.map + (batch * p.channels.divisor + channel) * p.map_plane;
  }
  return samples;
}

// Starts to load a chunk, the `count`-th of the block.
template <class Traits>
__device__ __forceinline__ void load_chunk(const StripParams& p, StripShared<Traits>& shared,
                                           int chunk, unsigned count, float* slot) {
  if constexpr (!Traits::kBoxes) {
    copy_chunk<Traits>(p, shared.piece, chunk, slot);
  } else if (threadIdx.x / 32 == 0 && is_elected()) {
    load_boxes<Traits>(p, shared.piece, chunk, slot, &shared.loaded[count & 1u]);
  }
}

// Runs one piece; adds this thread's share of the sum of f to its total. `count`: chunks of the
// block before.
template <class Traits>
__device__ __forceinline__ void process_piece(const StripParams& p, StripShared<Traits>& shared,
                                              float* staged, unsigned& count) {
  StripPiece& piece = shared.piece;
  float* maps = shared.maps;
  double* total = &shared.totals[threadIdx.x];
  const auto slot = [staged](int chunk) {
    return staged + (chunk * Traits::kChunkRows & (Traits::kStagedRows - 1)) * Traits::kStagedPitch;
  };

  // One warp finds out where the piece lies and samples it; the sooner it starts to load, the
  // better.
  const bool leads = threadIdx.x < 32;
  Samples<float> samples = {};
  if (leads) {
    samples = start_piece<Traits>(p, shared.unit, shared.end, &piece);
    __syncwarp();
    if (Traits::kBoxes && is_elected()) {
      load_boxes<Traits>(p, piece, 0, staged, &shared.loaded[count & 1u]);
    }
  }
  if constexpr (!Traits::kBoxes) {
    __syncthreads();
    copy_chunk<Traits>(p, piece, 0, staged);
  }
  if (leads) {
    const Shift<float> means = trimmed_means(samples);
    if (threadIdx.x == 0) {
      const PixelShift shift = PixelShift::of(means.x, means.y);
      piece.shift_x = shift.x;
      piece.shift_y = shift.y;
      const MeanShift mean_shift = MeanShift::of(typename Traits::Window(p), shift);
      piece.mean_shift_s = mean_shift.s;
      piece.mean_shift_d = mean_shift.d;
    }
  }
  __syncthreads();
  convert_chunk<Traits>(p, piece, 0, count, staged, shared.loaded, total);
  {
    const int column = static_cast<int>(threadIdx.x);
    shared.columns[threadIdx.x] =
        (column >= piece.columns.x && column < piece.columns.y ? kHasValue : 0u) |
        (column >= piece.columns.z && column < piece.columns.w ? kIsOwn : 0u);
  }
  __syncthreads();

  ColumnState<Traits> state;
  constexpr bool kOneSlot = Traits::kStagedRows == Traits::kChunkRows;
  // What the next chunk needs to know is read before the barrier that it begins with.
  StripPiece::Control control = read_shared(piece.control);
#pragma unroll 1
  for (int chunk = 0;; ++chunk, ++count) {
    const bool plain = static_cast<unsigned>(chunk - control.first_plain) <
                       static_cast<unsigned>(control.plain_chunks);
    const bool over = chunk >= control.chunks;
    const bool more = chunk + 1 < control.chunks;
    // The gradient of the chunk above; its first rows come out of step 20. Before that nobody reads
    // partials of another warp.
    if constexpr (Traits::kGradient) {
      if (chunk > 2) {
        gradient_rows<Traits>(p, piece, chunk - 1, maps, total);
      }
    }
    if (over) {
      break;
    }
    if (!kOneSlot && more) {
      load_chunk<Traits>(p, shared, chunk + 1, count + 1, slot(chunk + 1));
    }
    {
      const RowGroup<Traits> place;
      const float* quads = slot(chunk) + place.staged;
      float* map = maps + place.map();
      filter_staged_row<Traits>(typename Traits::Window(p), quads, quads + Traits::kImageStride,
                                map);
    }
    if constexpr (kOneSlot) {
      __syncthreads();
      if (more) {
        load_chunk<Traits>(p, shared, chunk + 1, count + 1, staged);
      }
    } else {
      __syncwarp();
    }

    const unsigned flags = shared.columns[threadIdx.x];
    float* column = maps + threadIdx.x * MapPlaces<Traits>::kColumn;
    float loss = 0.0f;
    if (chunk == 0) {
      push_column_rows<Traits>(typename Traits::Window(p), column, state);
    } else {
      loss = filter_columns<Traits>(p, piece, flags, plain, chunk, column, state);
    }
    *total = fma(p.loss_weight, static_cast<double>(loss), *total);
    if (more) {
      convert_chunk<Traits>(p, piece, chunk + 1, count + 1, slot(chunk + 1), shared.loaded, total);
    }
    control = read_shared(piece.control);
    __syncthreads();
  }
  if constexpr (Traits::kContains) {
    if (__syncthreads_or(!isfinite(state.probe))) {
      mend_outputs<Traits>(p, piece.own);
    }
  }
}

// All pieces of a block, and its part of the sums.
template <class Traits>
__device__ __forceinline__ void run_pieces(const StripParams& p) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<StripShared<Traits>*>(shared_bytes);
  float* staged = reinterpret_cast<float*>(&shared + 1);
  StripPiece& piece = shared.piece;
  const ReductionPlan& plan = p.reduction;
  allow_next_launch();
  wait_for_previous_launch();
  if (threadIdx.x < 32) {
    const unsigned sharing = blockIdx.x / p.channels_together;
    const int64_t unit = unit_begin(plan, sharing);
    const int64_t end = unit_begin(plan, sharing + 1);
    if (threadIdx.x == 0) {
      shared.unit = unit;
      shared.end = end;
      shared.value = plan.values == 1 ? 0 : quotient(unit, plan.units_per_value);
      if constexpr (Traits::kBoxes) {
        for (int i = 0; i < 2; ++i) {
          start_counting(&shared.loaded[i]);
        }
        order_counters();
      }
    }
    __syncwarp();
  }
  shared.totals[threadIdx.x] = 0.0;
  unsigned count = 0;
#pragma unroll 1
  for (bool more = true; more;) {
    process_piece<Traits>(p, shared, staged, count);
    const int64_t next_unit = shared.unit + (piece.rows.y - piece.rows.x);
    const int64_t current = shared.value;
    const int64_t next_value = plan.values == 1 ? 0 : quotient(next_unit, plan.units_per_value);
    more = next_unit < shared.end;
    __syncthreads();
    if (threadIdx.x == 0) {
      shared.unit = next_unit;
      shared.value = next_value;
    }
    if (plan.value != nullptr && plan.fixed_point == 0.0 && (!more || next_value != current)) {
      store_partial<Traits::kThreads>(plan.partials, current, shared.totals[threadIdx.x]);
      shared.totals[threadIdx.x] = 0.0;
    }
  }
  if (plan.fixed_point != 0.0) {
    add_to_sum<float>(plan, &shared.warp_sums, shared.totals[threadIdx.x]);
  } else if (plan.value != nullptr) {
    finish_reduction<Traits::kThreads, float>(plan);
  }
}

template <class Traits, int kBlocksPerMultiprocessor>
__global__ void __launch_bounds__(Traits::kThreads, kBlocksPerMultiprocessor)
    strip_kernel(const __grid_constant__ StripParams p) {
  if constexpr (Traits::kLaunched) {
    run_pieces<Traits>(p);
  }
}

struct StripEntry {
  void (*kernel)(const StripParams);
  int (*shared_bytes)(int architecture);
};

template <StripKind kKind, StripLoader kLoader, class Window>
struct MakeStripEntry {
  using Traits = StripTraits<kStripThreads, kKind, kLoader, Window>;
  static constexpr StripEntry entry() {
    return {strip_kernel<Traits, strip_blocks_per_multiprocessor(kKind)>, [](int architecture) {
              return static_cast<int>(sizeof(StripShared<Traits>)) +
                     Traits::staged_bytes(architecture);
            }};
  }
};

template <class Window>
cudaError_t find_strip_kernel(const DeviceFacts& device, StripKind kind, StripLoader loader,
                              StripKernel* found) {
  static constexpr auto kEntries = make_entries<Schedule::kStrip, MakeStripEntry, Window>();
  static LaunchCache caches[kEntries.size()];
  const int index = entry_index(kind, loader);
  *found = {kEntries[index].kernel, kStripThreads,
            kEntries[index].shared_bytes(device.architecture)};
  return prepare(device, &caches[index], found);
}

}  // namespace fused_ssim::cuda
