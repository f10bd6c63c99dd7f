// SSIM sums, maps and gradients of large images with the 11-tap window, in one pass.
//
// A block owns strips of up to `kThreads` columns and marches down them in chunks of 8 rows. With
// s = x + y - shift and d = x - y - shift (core/ssim_formula.h), a chunk goes through
//
//   load    global -> shared memory, asynchronously, while the column phase of the chunk above runs;
//           at its end each warp turns the pixels of its rows into s and d, in place.
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
// partials in turn. Without a gradient a warp filters the rows of its own 32 columns instead, and one
// barrier remains: before rows that other warps have loaded.
//
// Rows in shared memory are split: even quads of columns first, then odd quads, the latter at an
// offset of 16 banks. Then lanes that read every second quad (row phase) and lanes that read single
// columns (column phase) both meet no bank conflicts.
//
// The image rows are cut into one contiguous range per block, so that one wave of blocks covers any
// size with equal shares; a range may cross from strip to strip and plane to plane.
//
// Global memory per float32 pixel: 8 B read, and 4 B written a gradient image; nothing else, but for
// the halos, which come from L2: 26 columns a strip and 20 rows a range (18 and 10 for values alone).
//
// On an H200 at 1x3x1080x1920, value and one gradient: 303 instructions a pixel, halos included, of
// which 238 are arithmetic on floats; 3.1 instructions an active cycle, 77% of the issue slots.
#pragma once

#include "core/gaussian_window.h"
#include "core/ssim_formula.h"
#include "cuda/image_access.cuh"
#include "cuda/kernels.h"
#include "cuda/pixel_shift.cuh"
#include "cuda/reduction.cuh"
#include "cuda/shift.cuh"
#include "cuda/tuning.h"
#include "cuda/window.cuh"

namespace fused_ssim::cuda {

// Whether s and d stay in shared memory until the gradient needs them, or are loaded once more. Two
// blocks of 256 threads that keep them take 211 KB of a multiprocessor's shared memory.
// `architecture` is that of the compiled code, 10 x major + minor.
constexpr bool strip_keeps_rows(int architecture) {
  return architecture >= 90 && architecture < 120;
}

template <int kThreads_, StripKind kKind_, StripLoader kLoader_>
struct StripTraits {
  static constexpr int kThreads = kThreads_;
  static constexpr StripKind kKind = kKind_;
  static constexpr StripLoader kLoader = kLoader_;
  static constexpr bool kQuads = kLoader != StripLoader::kWords;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  static constexpr bool kBulk = kLoader == StripLoader::kFloatQuads;
#else
  static constexpr bool kBulk = false;
#endif
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
  // Own columns: from X0 on where a gradient needs partials before them, else all.
  static constexpr int kFirstOwn = kGradient ? kMargin : 0;

  // Image rows read before the first own row; the moments of an own row's window lag by kRadius.
  static constexpr int kLeadRows = kGradient ? 2 * kRadius : kRadius;

  static constexpr __device__ int chunks(int own_rows) {
    return (own_rows + 2 * kLeadRows + kChunkRows - 1) / kChunkRows;
  }

  static constexpr int odd_offset(int quads) {
    const int even_columns = (quads + 1) / 2 * 4;
    return (even_columns + 15) / 32 * 32 + 16;
  }
  // Where eight lanes touch two rows at once, four apart, the second lies 16 banks further.
  static constexpr int pitch(int columns) {
    return kGradient ? columns : (columns + 3) / 8 * 8 + 4;
  }
  static constexpr int kStagedQuads = kThreads / 4 + 3;
  static constexpr int kStagedOdd = odd_offset(kStagedQuads);
  static constexpr int kStagedPitch = pitch(kStagedOdd + kStagedQuads / 2 * 4);
  static constexpr int kMapQuads =
      kThreads / 4 + 1;  // the last group of the gradient reads one more
  static constexpr int kMapOdd = odd_offset(kMapQuads);
  static constexpr int kMapPitch = pitch(kMapOdd + kMapQuads / 2 * 4);
  static_assert(kStagedOdd % 32 == 16 && kMapOdd % 32 == 16, "odd quads lie 16 banks further");
  static_assert(kStagedOdd >= (kStagedQuads + 1) / 2 * 4 && kMapOdd >= (kMapQuads + 1) / 2 * 4,
                "even quads fit before the odd ones");
  static constexpr int kMapStride = kChunkRows * kMapPitch;
  static constexpr int kMaps = 4;

  // The gradient combines partials with s and d of kGradientLag rows above the newest partials'
  // inputs, while the chunk below is already staged.
  static constexpr int kGradientLag = 2 * kRadius;
  static constexpr int kKeptRows = 32;
  static_assert((kKeptRows & (kKeptRows - 1)) == 0, "indices wrap by masking");
  static_assert(kKeptRows >= 2 * kChunkRows + kGradientLag, "rows stay until they are used");

  static constexpr int staged_rows(int architecture) {
    return !kGradient ? 2 * kChunkRows : strip_keeps_rows(architecture) ? kKeptRows : kChunkRows;
  }
#if defined(__CUDA_ARCH__)
  static constexpr int kStagedRows = staged_rows(__CUDA_ARCH__ / 10);
  // Elsewhere the kernel is empty.
  static constexpr bool kLaunched = kThreads < 256 || has_wide_strips(__CUDA_ARCH__ / 10);
#else
  static constexpr int kStagedRows = 0;
  static constexpr bool kLaunched = false;
#endif
  // Of the staged rows.
  static constexpr int staged_bytes(int architecture) {
    return 4 * 2 * staged_rows(architecture) * kStagedPitch;
  }

  static constexpr int kQuadsPerThread = (kStagedQuads + kGroups - 1) / kGroups;
};

// The column filter of one map, in transposed form.
struct ColumnFilter {
  float state[10] = {};

  __device__ __forceinline__ float push(float v) {
    const float out = fmaf(v, default_tap(0), state[0]);
#pragma unroll
    for (int k = 0; k < 9; ++k) {
      state[k] = fmaf(v, default_tap(k + 1), state[k + 1]);
    }
    state[9] = v * default_tap(10);
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
          out[o] = value[e] * default_tap(0);
        } else if (k > 0 && k < kDefaultWindowSize) {
          out[o] = fmaf(value[e], default_tap(k), out[o]);
        }
      }
    }
  }
}

// The same for the values and their squares at once.
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
          mean[o] = value[e] * default_tap(0);
          square[o] = value2 * default_tap(0);
        } else if (k > 0 && k < kDefaultWindowSize) {
          mean[o] = fmaf(value[e], default_tap(k), mean[o]);
          square[o] = fmaf(value2, default_tap(k), square[o]);
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
  // Chunks from the first on, that many: their rows in the column phase are all own ones and have
  // values.
  int first_plain;
  int plain_chunks;
  int chunks;
  struct alignas(16) Target {
    int first_row;
    int rows;
    int columns;
    int first_column;
  } target;  // of the gradient: the own pixels, together for one read
  struct alignas(16) Conversion {
    float shift_x;
    float shift_y;
    unsigned copied_chunks;  // before this piece
    int columns_inside;      // no staged column that is needed lies outside the image
  } conversion;
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

// The bulk copies that a warp issues next: its first row of a chunk.
struct alignas(16) RowCopy {
  const char* source1;
  const char* source2;
  unsigned bytes;
  int offset;  // in a staged row, of the first column copied
  int y;
};

// The loader: the raw pixels of img1 are copied straight into shared memory, where s will be, and those
// of img2 where d will be. Later each warp converts its own rows in place. So copies need no registers
// while they are under way, and no barrier of the block. A thread has every kGroups-th quad of its row.
//   Hopper and later, aligned float32: one bulk copy a row and image, by one thread of the warp.
//   Else: each thread copies its own quads, by cp.async, or through registers before Ampere.
template <class Traits>
struct StagedRow {
  int x;       // image column of this thread's first quad
  int offset;  // in floats, of that quad in the chunk's slot

  __device__ __forceinline__ StagedRow(int first_column) {
    const int quad = threadIdx.x % Traits::kGroups;
    const int row = threadIdx.x / Traits::kGroups;
    x = first_column - Traits::kStagedBefore + 4 * quad;
    offset = row * Traits::kStagedPitch + quad / 2 * 4 + (quad % 2) * Traits::kStagedOdd;
  }
  // Of the i-th quad, from the first.
  static constexpr __device__ int columns(int i) { return 4 * Traits::kGroups * i; }
  static constexpr __device__ int floats(int i) { return 2 * Traits::kGroups * i; }
  // Whether the thread has an i-th quad.
  static __device__ __forceinline__ bool has(int i) {
    return (i + 1) * Traits::kGroups <= Traits::kStagedQuads ||
           threadIdx.x % Traits::kGroups < Traits::kStagedQuads - i * Traits::kGroups;
  }
};

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
__device__ __forceinline__ void copy_row(const InputImage& image, DType dtype, const char* from,
                                         int first_x, int end, float* to) {
  if (dtype == DType::kFloat32 && image.column == 4) {
    copy_columns<Traits, 4>(from, 0, first_x, end, to);
  } else if (dtype == DType::kFloat32 && image.column == 12) {
    copy_columns<Traits, 12>(from, 0, first_x, end, to);
  } else {
    copy_columns<Traits, 0>(from, image.column, first_x, end, to);
  }
}

// Bulk copies: what a warp copies first in a piece.
template <class Traits>
__device__ __forceinline__ void start_row_copies(const StripParams& p, SharedPiece& piece,
                                                 RowCopy* copies) {
  if (is_elected()) {
    const int warp = static_cast<int>(threadIdx.x / 32);
    const int first_column = piece.first_column;
    const int staged_column = first_column - Traits::kStagedBefore;
    const int begin = max(staged_column, 0);
    const int end = min((piece.end_column + Traits::kLeadRows + 3) / 4 * 4, p.width);
    const int y = piece.rows.x - Traits::kLeadRows + warp * Traits::kRowsPerWarp;
    RowCopy& copy = copies[warp];
    copy.source1 = piece.plane1 + y * p.img1.row + 4 * static_cast<int64_t>(begin);
    copy.source2 = piece.plane2 + y * p.img2.row + 4 * static_cast<int64_t>(begin);
    copy.bytes = 4 * (end - begin);
    copy.offset = begin - staged_column;
    copy.y = y;
  }
}

// Issues the copies of a warp's rows of the next chunk. Each warp does so for its own: a bulk copy is an
// instruction of one thread, and those of eight rows in one warp would hold up the block.
template <class Traits>
__device__ __forceinline__ void copy_rows_in_bulk(const StripParams& p, float* slot_s,
                                                  float* slot_d, RowCopy* copies,
                                                  uint64_t* copied) {
  if (is_elected()) {
    const int warp = static_cast<int>(threadIdx.x / 32);
    RowCopy copy = copies[warp];
    uint64_t* counter = &copied[warp];
    const int to = warp * Traits::kRowsPerWarp * Traits::kStagedPitch + copy.offset;
    order_before_bulk();  // what was stored before where the copies go
    if constexpr (Traits::kRowsPerWarp == 1) {
      const bool inside = static_cast<unsigned>(copy.y) < static_cast<unsigned>(p.height);
      expect_copies(counter, inside ? 2 * copy.bytes : 0);
      if (inside) {
        copy_bulk(slot_s + to, copy.source1, copy.bytes, counter);
        copy_bulk(slot_d + to, copy.source2, copy.bytes, counter);
      }
    } else {
      const int begin = max(-copy.y, 0);
      const int end = min(p.height - copy.y, Traits::kRowsPerWarp);
      expect_copies(counter, 2 * max(end - begin, 0) * copy.bytes);
#pragma unroll
      for (int i = 0; i < Traits::kRowsPerWarp; ++i) {
        if (i >= begin && i < end) {
          copy_bulk(slot_s + to + i * Traits::kStagedPitch, copy.source1 + i * p.img1.row,
                    copy.bytes, counter);
          copy_bulk(slot_d + to + i * Traits::kStagedPitch, copy.source2 + i * p.img2.row,
                    copy.bytes, counter);
        }
      }
    }
    copies[warp].source1 = copy.source1 + Traits::kChunkRows * p.img1.row;
    copies[warp].source2 = copy.source2 + Traits::kChunkRows * p.img2.row;
    copies[warp].y = copy.y + Traits::kChunkRows;
  }
}

// Starts the copies of a chunk.
template <class Traits>
__device__ __forceinline__ void copy_chunk(const StripParams& p, SharedPiece& piece, int chunk,
                                           float* slot_s, float* slot_d, RowCopy* copies,
                                           uint64_t* copied) {
  if constexpr (Traits::kBulk) {
    copy_rows_in_bulk<Traits>(p, slot_s, slot_d, copies, copied);
    return;
  }
  const int first_row = piece.rows.x - Traits::kLeadRows + chunk * Traits::kChunkRows;
  const StagedRow<Traits> quads(piece.first_column);
  const int y = first_row + static_cast<int>(threadIdx.x / Traits::kGroups);
  const bool row_inside = static_cast<unsigned>(y) < static_cast<unsigned>(p.height);
  const unsigned end = row_inside ? min(p.width, piece.end_column + 2 * Traits::kRadius) : 0;
  if constexpr (Traits::kLoader == StripLoader::kWords) {
    // Neighbouring lanes take neighbouring columns, whatever their stride.
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int first_x = piece.first_column - Traits::kStagedBefore + lane;
    const int end_x = min(p.width, piece.end_column + 2 * Traits::kRadius);
#pragma unroll 1
    for (int i = 0; i < Traits::kRowsPerWarp; ++i) {
      const int row = static_cast<int>(threadIdx.x / 32) * Traits::kRowsPerWarp + i;
      const int row_y = first_row + row;
      const bool inside = static_cast<unsigned>(row_y) < static_cast<unsigned>(p.height);
      const char* from1 = piece.plane1 + (row_y * p.img1.row + first_x * p.img1.column);
      const char* from2 = piece.plane2 + (row_y * p.img2.row + first_x * p.img2.column);
      float* to_s = slot_s + row * Traits::kStagedPitch + lane;
      float* to_d = slot_d + row * Traits::kStagedPitch + lane;
      copy_row<Traits>(p.img1, p.dtype, from1, first_x, inside ? end_x : 0, to_s);
      copy_row<Traits>(p.img2, p.dtype, from2, first_x, inside ? end_x : 0, to_d);
    }
  } else {
    constexpr int kBytes = Traits::kLoader == StripLoader::kFloatQuads ? 16 : 8;
    const char* first1 = piece.plane1 + y * p.img1.row + quads.x * (kBytes / 4);
    const char* first2 = piece.plane2 + y * p.img2.row + quads.x * (kBytes / 4);
    float* to_s = slot_s + quads.offset;
    float* to_d = slot_d + quads.offset;
#pragma unroll
    for (int i = 0; i < Traits::kQuadsPerThread; ++i) {
      if (quads.has(i)) {
        const bool inside = static_cast<unsigned>(quads.x + quads.columns(i)) < end;
        constexpr int kStep = Traits::kGroups * kBytes;
        copy_async<kBytes>(to_s + quads.floats(i), first1 + i * kStep, inside ? kBytes : 0);
        copy_async<kBytes>(to_d + quads.floats(i), first2 + i * kStep, inside ? kBytes : 0);
      }
    }
  }
}

// Makes the pixels of this thread's part of a row s and d; returns the L1 term of the own ones.
template <class Traits, bool kL1>
__device__ __forceinline__ float convert_row(const StripParams& p, SharedPiece& piece, int y,
                                             const StripPiece::Conversion& facts, float* slot_s,
                                             float* slot_d) {
  // Quads that all threads of a row have, and what remains of the row.
  constexpr int kFullQuads = Traits::kStagedQuads / Traits::kGroups;
  // The rest is taken by columns where that is less work, and where none of them is an own one if that
  // matters.
  constexpr int kRestColumns = 4 * (Traits::kStagedQuads - kFullQuads * Traits::kGroups);
  constexpr bool kColumns =
      Traits::kBulk && kRestColumns <= Traits::kGroups && (!kL1 || Traits::kGradient);
  constexpr int kQuads = kColumns ? kFullQuads : Traits::kQuadsPerThread;
  const PixelShift shift = {facts.shift_x, facts.shift_y};
  static_assert(!kColumns || !Traits::kGradient ||
                    4 * kFullQuads * Traits::kGroups - Traits::kStagedBefore >=
                        Traits::kThreads - 2 * Traits::kRadius - 3,
                "own columns come before the rest");
  const StagedRow<Traits> quads(kL1 || !Traits::kBulk ? piece.first_column : 0);
  const int group = threadIdx.x % Traits::kGroups;
  const int pitched = threadIdx.x / Traits::kGroups * Traits::kStagedPitch;
  const int rest = 4 * kFullQuads * Traits::kGroups + group;
  float4 a[kQuads];
  float4 b[kQuads];
  float rest_a = 0.0f;
  float rest_b = 0.0f;
  if constexpr (Traits::kBulk || Traits::kLoader == StripLoader::kWords) {
    // These copies leave rows unsplit.
    const int first = pitched + 4 * group;
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      if (quads.has(i)) {
        a[i] = *reinterpret_cast<const float4*>(slot_s + first + quads.columns(i));
        b[i] = *reinterpret_cast<const float4*>(slot_d + first + quads.columns(i));
      }
    }
    if (kColumns && group < kRestColumns) {
      rest_a = slot_s[pitched + rest];
      rest_b = slot_d[pitched + rest];
    }
    // Bulk copies leave unwritten what lies outside the image.
    const bool row_inside = static_cast<unsigned>(y) < static_cast<unsigned>(p.height);
    const bool plain = !Traits::kBulk || (row_inside && facts.columns_inside != 0);
    if (!plain) {
      const int first_x = StagedRow<Traits>(piece.first_column).x;
#pragma unroll
      for (int i = 0; i < kQuads; ++i) {
        const int x = first_x + quads.columns(i);
        if (!row_inside || x < 0 || x >= p.width) {
          a[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
          b[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
      }
      if (!row_inside || first_x - 3 * group + 4 * kFullQuads * Traits::kGroups >= p.width) {
        rest_a = 0.0f;
        rest_b = 0.0f;
      }
    }
    __syncwarp();
  } else {
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      if (quads.has(i)) {
        a[i] = *reinterpret_cast<const float4*>(slot_s + quads.offset + quads.floats(i));
        b[i] = *reinterpret_cast<const float4*>(slot_d + quads.offset + quads.floats(i));
      }
    }
  }
  float l1 = 0.0f;
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    if (!quads.has(i)) {
      continue;
    }
    const int x = quads.x + quads.columns(i);
    if constexpr (Traits::kLoader == StripLoader::kHalfQuads) {
      a[i] = half_quad_to_float(a[i], p.dtype);
      b[i] = half_quad_to_float(b[i], p.dtype);
    } else if constexpr (Traits::kLoader == StripLoader::kWords) {
      if (p.dtype != DType::kFloat32) {
        a[i] = half_words_to_float(a[i], piece.plane1 + y * p.img1.row + x * p.img1.column,
                                   p.img1.column, p.dtype);
        b[i] = half_words_to_float(b[i], piece.plane2 + y * p.img2.row + x * p.img2.column,
                                   p.img2.column, p.dtype);
      }
    }
    float4 s, d;
    if constexpr (kL1) {
      shift.apply_exactly(a[i], b[i], &s, &d);
      if (y >= piece.rows.z && y < piece.rows.w) {
        const int offset = piece.first_column - Traits::kMargin - x;
        l1 += absolute_differences(a[i], b[i], max(piece.columns.z, piece.columns.x) + offset,
                                   min(piece.columns.w, piece.columns.y) + offset);
      }
    } else {
      shift.apply(a[i], b[i], &s, &d);
    }
    *reinterpret_cast<float4*>(slot_s + quads.offset + quads.floats(i)) = s;
    *reinterpret_cast<float4*>(slot_d + quads.offset + quads.floats(i)) = d;
  }
  if (kColumns && group < kRestColumns) {
    float s, d;
    shift.apply(rest_a, rest_b, &s, &d);
    const int to = pitched + rest / 8 * 4 + rest % 4 + rest / 4 % 2 * Traits::kStagedOdd;
    slot_s[to] = s;
    slot_d[to] = d;
  }
  return l1;
}

// Waits for the copies of a chunk and makes them s and d. Adds the L1 term of the own pixels among them
// to this thread's `total`, where it is wanted.
template <class Traits>
__device__ __forceinline__ void convert_chunk(const StripParams& p, SharedPiece& piece, int chunk,
                                              float* slot_s, float* slot_d, uint64_t* copied,
                                              double* total) {
  const StripPiece::Conversion facts = read_shared(piece.conversion);
  const int y = piece.rows.x - Traits::kLeadRows + chunk * Traits::kChunkRows +
                static_cast<int>(threadIdx.x / Traits::kGroups);
  if constexpr (Traits::kBulk) {
    wait_for_bulk(&copied[threadIdx.x / 32], (facts.copied_chunks + chunk) & 1u);
  } else {
    wait_for_copies();
    __syncwarp();
  }
  if (__builtin_expect(p.l1, false)) {
    const float l1 = convert_row<Traits, true>(p, piece, y, facts, slot_s, slot_d);
    *total = fma(p.l1_weight, static_cast<double>(l1), *total);
  } else {
    convert_row<Traits, false>(p, piece, y, facts, slot_s, slot_d);
  }
}

// Writes 8 columns of one image's gradient, or 4.
template <StripLoader kLoader>
__device__ __forceinline__ void store_gradient_group(char* first, bool eight,
                                                     const float (&value)[8], DType dtype) {
  constexpr int kBytes = kLoader == StripLoader::kFloatQuads ? 16 : 8;
  store_quad<kLoader>(first, value, dtype);
  if (eight) {
    store_quad<kLoader>(first + kBytes, value + 4, dtype);
  }
}

// Writes a warp's rows of one image's gradient out of shared memory, neighbouring lanes neighbouring
// columns: for strides and alignments that don't allow four columns a store.
template <class Traits>
__device__ __forceinline__ void store_gradient_rows(const OutputImage& image, char* origin,
                                                    const float* map, int first_step,
                                                    SharedPiece& piece, DType dtype) {
  const int lane = threadIdx.x % 32;
  const int warp_row = threadIdx.x / 32 * Traits::kRowsPerWarp;
  const int rows = piece.rows.y - piece.rows.x;
  const int columns = piece.end_column - piece.first_column;
#pragma unroll 1
  for (int i = 0; i < Traits::kRowsPerWarp; ++i) {
    const int step = first_step + warp_row + i;
    if (static_cast<unsigned>(step - 2 * Traits::kGradientLag) >= static_cast<unsigned>(rows)) {
      continue;
    }
    const float* row = map + (warp_row + i) * Traits::kMapPitch;
    char* first = origin + step * image.row;
    // 32 columns further is 16 floats further in a split row.
    const float* value = row + lane / 8 * 4 + lane % 4 + (lane / 4 % 2) * Traits::kMapOdd;
    if (dtype == DType::kFloat32 && image.column == 4) {
      float* out = reinterpret_cast<float*>(first) + lane;
#pragma unroll
      for (int j = 0; j < Traits::kThreads / 32; ++j) {
        if (lane + 32 * j < columns) {
          out[32 * j] = value[16 * j];
        }
      }
    } else {
      first += lane * image.column;
#pragma unroll 2
      for (int column = lane; column < columns; column += 32) {
        store_element(first, *value, dtype);
        first += 32 * image.column;
        value += 16;
      }
    }
  }
}

template <class Traits>
struct ColumnState {
  ColumnFilter moments[4];
  ColumnFilter partials[Traits::kGradient ? (Traits::kTwo ? 4 : 3) : 1];
};

// Bit r is set where row `first` + r lies in [begin, end).
__device__ __forceinline__ unsigned row_bits(int first, int begin, int end) {
  const int low = min(max(begin - first, 0), 31);
  const int high = min(max(end - first, low), 31);
  return (1u << high) - (1u << low);
}

// One column of one chunk of the column phase. Returns the sum of SSIM over its own rows. Unless masked,
// all rows are own ones and have values; else bits of `value_rows` and `own_rows` say which do.
template <class Traits, bool kMasked>
__device__ __forceinline__ float filter_column_rows(const StripParams& p, SharedPiece& piece,
                                                    int first_moment_row, int map_column,
                                                    bool own_column, unsigned value_rows,
                                                    unsigned own_rows, float* column,
                                                    ColumnState<Traits>& state) {
  const DoubledStabilizers<float> stabilizers = {p.twice_c1, p.twice_c2};
  const float shift_s = piece.conversion.shift_x + piece.conversion.shift_y;
  const float shift_d = piece.conversion.shift_x - piece.conversion.shift_y;
  float sum = 0.0f;

  float weight[Traits::kChunkRows];
  if constexpr (Traits::kWeighted) {
#pragma unroll
    for (int r = 0; r < Traits::kChunkRows; ++r) {
      weight[r] = 0.0f;
      if (!kMasked || (value_rows & 1u << r) != 0u) {
        weight[r] = __ldg(reinterpret_cast<const float*>(
            piece.weights + (first_moment_row + r - p.value_top) * p.map_gradient.row +
            map_column * p.map_gradient.column));
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
    const bool is_own = !kMasked || (own_rows & 1u << r) != 0u;
    const float value = ssim_value(terms);
    sum += is_own ? value : 0.0f;
    if constexpr (Traits::kMap) {
      if (is_own && own_column) {
        piece.map[(first_moment_row + r - p.value_top) * p.map_pitch + map_column] = value;
      }
    }
    if constexpr (Traits::kGradient) {
      // Of img1 and img2, or of the one image that wants a gradient.
      SquarePartials<float> by_squares = square_partials(terms);
      float by_mean = mean_partial(moments, terms, by_squares, 1.0f);
      float by_mean2 = Traits::kTwo ? mean_partial(moments, terms, by_squares, -1.0f) : 0.0f;
      if constexpr (Traits::kWeighted) {
        by_mean *= weight[r];
        by_mean2 *= weight[r];
        by_squares.by_mean_s2 *= weight[r];
        by_squares.by_mean_d2 *= weight[r];
      }
      // Selected, not multiplied: a NaN beyond the border must not come in.
      const bool counts = !kMasked || (value_rows & 1u << r) != 0u;
      cell[0] = state.partials[0].push(counts ? by_mean : 0.0f);
      cell[Traits::kMapStride] = state.partials[1].push(counts ? by_squares.by_mean_s2 : 0.0f);
      cell[2 * Traits::kMapStride] = state.partials[2].push(counts ? by_squares.by_mean_d2 : 0.0f);
      if constexpr (Traits::kTwo) {
        cell[3 * Traits::kMapStride] = state.partials[3].push(counts ? by_mean2 : 0.0f);
      }
    }
  }
  return own_column ? sum : 0.0f;
}

// What a thread's column is in a piece. Kept in shared memory: registers are short.
constexpr unsigned kHasValue = 1;  // the column's pixels do
constexpr unsigned kIsOwn = 2;

// One chunk of the column phase. Returns the sum of SSIM over the own pixels.
template <class Traits>
__device__ __forceinline__ float filter_columns(const StripParams& p, SharedPiece& piece,
                                                unsigned flags, bool plain, int chunk,
                                                float* column, ColumnState<Traits>& state) {
  if ((flags & kHasValue) == 0) {
    // No partials, ever.
    if constexpr (Traits::kGradient) {
#pragma unroll
      for (int r = 0; r < Traits::kChunkRows; ++r) {
#pragma unroll
        for (int i = 0; i < (Traits::kTwo ? 4 : 3); ++i) {
          column[r * Traits::kMapPitch + i * Traits::kMapStride] = 0.0f;
        }
      }
    }
    return 0.0f;
  }
  // Where the maps of values and of their gradients are touched, their column and first row.
  int first = 0;
  int map_column = 0;
  if (Traits::kMap || Traits::kWeighted || !plain) {
    first = piece.rows.x - Traits::kLeadRows - Traits::kRadius + chunk * Traits::kChunkRows;
    map_column = static_cast<int>(threadIdx.x) - piece.columns.x;
  }
  if (plain) {
    return filter_column_rows<Traits, false>(p, piece, first, map_column, (flags & kIsOwn) != 0, 0u,
                                             0u, column, state);
  }
  return filter_column_rows<Traits, true>(p, piece, first, map_column, (flags & kIsOwn) != 0,
                                          row_bits(first, p.value_top, p.value_bottom),
                                          row_bits(first, piece.rows.z, piece.rows.w), column,
                                          state);
}

// s (or d) of 8 own columns of row y: as staged 10 rows ago, or from the images once more.
template <class Traits, bool kWantsS>
__device__ __forceinline__ void own_group(const StripParams& p, SharedPiece& piece, int step, int y,
                                          int x, const float* staged, float (&out)[8]) {
  float4 quad[2];
  if constexpr (Traits::kStagedRows == Traits::kKeptRows) {
    const int offset =
        ((step - Traits::kGradientLag) & (Traits::kKeptRows - 1)) * Traits::kStagedPitch +
        4 * static_cast<int>(threadIdx.x % Traits::kGroups);
    // Own column 0 is staged column 12: quad 3, the second of the odd ones.
    quad[0] = *reinterpret_cast<const float4*>(staged + offset + Traits::kStagedOdd + 4);
    quad[1] = *reinterpret_cast<const float4*>(staged + offset + 8);
  } else {
    const PixelShift shift = {piece.conversion.shift_x, piece.conversion.shift_y};
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      const float4 a = load_quad<Traits::kLoader>(piece.plane1 + y * p.img1.row, p.img1.column,
                                                  x + 4 * q, p.width, p.dtype);
      const float4 b = load_quad<Traits::kLoader>(piece.plane2 + y * p.img2.row, p.img2.column,
                                                  x + 4 * q, p.width, p.dtype);
      float4 s, d;
      if (p.l1) {
        shift.apply_exactly(a, b, &s, &d);
      } else {
        shift.apply(a, b, &s, &d);
      }
      quad[q] = kWantsS ? s : d;
    }
  }
  out[0] = quad[0].x, out[1] = quad[0].y, out[2] = quad[0].z, out[3] = quad[0].w;
  out[4] = quad[1].x, out[5] = quad[1].y, out[6] = quad[1].z, out[7] = quad[1].w;
}

// The gradient of one chunk: filters the partials of this thread's row and 8 columns, stores.
template <class Traits>
__device__ __forceinline__ void gradient_rows(const StripParams& p, SharedPiece& piece, int chunk,
                                              const float* staged_s, const float* staged_d,
                                              float* maps) {
  const int group = threadIdx.x % Traits::kGroups;
  const int row = threadIdx.x / Traits::kGroups;
  const int step = chunk * Traits::kChunkRows + row;
  const StripPiece::Target target = read_shared(piece.target);
  const int columns = target.columns;
  const bool active =
      static_cast<unsigned>(step - 2 * Traits::kGradientLag) < static_cast<unsigned>(target.rows) &&
      8 * group < columns;
  const int y = target.first_row - 2 * Traits::kGradientLag + step;
  const int x = target.first_column + 8 * group;
  float* map_row = maps + row * Traits::kMapPitch + group * 4;

  float first[8];
  float second[8];
  if (active) {
    const float weight = p.gradient_scale;
    float own[8];
    float filtered[8];
    filter_row<Traits::kMapOdd, 0>(map_row, first);
    filter_row<Traits::kMapOdd, 0>(map_row + Traits::kMapStride, filtered);
    own_group<Traits, true>(p, piece, step, y, x, staged_s, own);
    if constexpr (Traits::kTwo) {
      filter_row<Traits::kMapOdd, 0>(map_row + 3 * Traits::kMapStride, second);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        second[i] = fmaf(own[i], filtered[i], second[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      first[i] = fmaf(own[i], filtered[i], first[i]);
    }
    filter_row<Traits::kMapOdd, 0>(map_row + 2 * Traits::kMapStride, filtered);
    own_group<Traits, false>(p, piece, step, y, x, staged_d, own);
    if constexpr (Traits::kTwo) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        first[i] = weight * fmaf(own[i], filtered[i], first[i]);
        second[i] = weight * fmaf(-own[i], filtered[i], second[i]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        first[i] = weight * fmaf(own[i], filtered[i], first[i]);
      }
    }
    if (__builtin_expect(p.l1 && y >= p.value_top && y < p.value_bottom, false)) {
      const PixelShift shift = {piece.conversion.shift_x, piece.conversion.shift_y};
      const bool all_have_values = x >= p.value_left && x + 8 <= p.value_right;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float l1 = p.gradient_l1 * shift.sign(own[i]);
        if (!all_have_values && (x + i < p.value_left || x + i >= p.value_right)) {
          l1 = 0.0f;
        } else if constexpr (Traits::kWeighted) {
          l1 *= __ldg(reinterpret_cast<const float*>(
              piece.weights + (y - p.value_top) * p.map_gradient.row +
              (x + i - p.value_left) * p.map_gradient.column));
        }
        if constexpr (Traits::kTwo) {
          first[i] += l1;
          second[i] -= l1;
        } else {
          first[i] += l1;
        }
      }
    }
  }

  char* origin1 = piece.gradient1;
  char* origin2 = Traits::kTwo ? piece.gradient2 : nullptr;
  if constexpr (Traits::kQuads) {
    constexpr int kBytes = Traits::kLoader == StripLoader::kFloatQuads ? 32 : 16;
    const bool eight = 8 * group + 4 < columns;
    if (active && (!Traits::kWeighted || origin1 != nullptr)) {
      store_gradient_group<Traits::kLoader>(origin1 + step * p.grad1.row + group * kBytes, eight,
                                            first, p.dtype);
    }
    if (Traits::kTwo && active && (!Traits::kWeighted || origin2 != nullptr)) {
      store_gradient_group<Traits::kLoader>(origin2 + step * p.grad2.row + group * kBytes, eight,
                                            second, p.dtype);
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
    const int first_step = chunk * Traits::kChunkRows;
    if (origin1 != nullptr) {
      store_gradient_rows<Traits>(p.grad1, origin1, maps, first_step, piece, p.dtype);
    }
    if (Traits::kTwo && origin2 != nullptr) {
      store_gradient_rows<Traits>(p.grad2, origin2, maps + Traits::kMapStride, first_step, piece,
                                  p.dtype);
    }
  }
}

// What a block keeps in shared memory, but for the staged rows, which follow it.
template <class Traits>
struct StripShared {
  StripPiece piece;
  int64_t unit, end, value;
  double totals[Traits::kThreads];
  unsigned char columns[Traits::kThreads];
  RowCopy copies[Traits::kThreads / 32];
  uint64_t copied[Traits::kThreads / 32];  // mbarriers of the warps' bulk copies
  alignas(16) float maps[Traits::kMaps * Traits::kMapStride];
};

// Runs one piece; adds this thread's share of the sum of f to its total.
template <class Traits>
__device__ __forceinline__ void process_piece(const StripParams& p, StripShared<Traits>& shared,
                                              float* staged_s) {
  StripPiece& piece = shared.piece;
  float* maps = shared.maps;
  float* staged_d = staged_s + Traits::kStagedRows * Traits::kStagedPitch;
  double* total = &shared.totals[threadIdx.x];
  const auto slot = [](int chunk) {
    return (chunk * Traits::kChunkRows & (Traits::kStagedRows - 1)) * Traits::kStagedPitch;
  };
  const volatile int& chunks = piece.chunks;

  if constexpr (Traits::kBulk) {
    start_row_copies<Traits>(p, piece, shared.copies);
    __syncwarp();
  }
  copy_chunk<Traits>(p, piece, 0, staged_s, staged_d, shared.copies, shared.copied);
  const Shift<float> means = sample_shift<float>(
      piece.plane1, piece.plane2, p.img1, p.img2, max(0, piece.rows.x - Traits::kRadius),
      min(p.height, piece.rows.y + Traits::kRadius), max(0, piece.first_column - Traits::kRadius),
      min(p.width, piece.end_column + Traits::kRadius), p.dtype);
  // Every warp has come to the same means, and waits for all here.
  if (threadIdx.x == 0) {
    piece.conversion.shift_x = means.x;
    piece.conversion.shift_y = means.y;
  }
  {
    const int column = static_cast<int>(threadIdx.x);
    shared.columns[threadIdx.x] =
        (column >= piece.columns.x && column < piece.columns.y ? kHasValue : 0u) |
        (column >= piece.columns.z && column < piece.columns.w ? kIsOwn : 0u);
  }
  __syncthreads();
  convert_chunk<Traits>(p, piece, 0, staged_s, staged_d, shared.copied, total);
  if constexpr (!Traits::kGradient) {
    __syncthreads();
  }

  ColumnState<Traits> state;
  int group = threadIdx.x % Traits::kGroups;
  int row = threadIdx.x / Traits::kGroups;
  if constexpr (!Traits::kGradient) {
    // Each warp filters the rows of its own columns.
    const int lane = static_cast<int>(threadIdx.x % 32);
    row = lane / 4 % 2 * 4 + lane / 8;
    group = static_cast<int>(threadIdx.x / 32) * 4 + lane % 4;
  }
  float sum = 0.0f;  // over the chunk above
#pragma unroll 1
  for (int chunk = 0;; ++chunk) {
    if constexpr (Traits::kGradient) {
      __syncwarp();
      // The gradient of the chunk above; its first rows come out of step 20.
      if (chunk > 2) {
        gradient_rows<Traits>(p, piece, chunk - 1, staged_s, staged_d, maps);
        __syncwarp();
      }
    }
    *total = fma(p.ssim_weight, static_cast<double>(sum), *total);
    if (chunk == chunks) {
      break;
    }
    const bool plain = static_cast<unsigned>(chunk - piece.first_plain) <
                       static_cast<unsigned>(piece.plain_chunks);
    {
      const int offset = slot(chunk) + row * Traits::kStagedPitch + 4 * group;
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
    if constexpr (Traits::kGradient) {
      __syncthreads();
    } else {
      __syncwarp();
    }

    const unsigned flags = shared.columns[threadIdx.x];
    if (chunk + 1 < chunks) {
      copy_chunk<Traits>(p, piece, chunk + 1, staged_s + slot(chunk + 1),
                         staged_d + slot(chunk + 1), shared.copies, shared.copied);
    }
    float* column =
        maps + threadIdx.x / 8 * 4 + threadIdx.x % 4 + (threadIdx.x / 4 % 2) * Traits::kMapOdd;
    if (chunk == 0) {
      // No window is complete yet.
#pragma unroll
      for (int r = 0; r < Traits::kChunkRows; ++r) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          state.moments[i].push(column[r * Traits::kMapPitch + i * Traits::kMapStride]);
        }
      }
    } else {
      sum = filter_columns<Traits>(p, piece, flags, plain, chunk, column, state);
    }
    if (chunk + 1 < chunks) {
      convert_chunk<Traits>(p, piece, chunk + 1, staged_s + slot(chunk + 1),
                            staged_d + slot(chunk + 1), shared.copied, total);
    }
    __syncthreads();
  }
}

// The rows from `unit` on, to the end of the strip or of the block's range.
template <class Traits>
__device__ __forceinline__ void start_piece(const StripParams& p, int64_t unit, int64_t end,
                                            StripPiece* piece) {
  const int64_t strip = unit / p.own_rows;
  const int64_t plane = strip / p.strips_per_plane;
  const int first = static_cast<int>(unit - strip * p.own_rows);
  const int rows = static_cast<int>(min(end - unit, static_cast<int64_t>(p.own_rows - first)));
  const int first_column =
      p.own_left + static_cast<int>(strip - plane * p.strips_per_plane) * p.strip_width;
  const int first_moment = first_column - Traits::kMargin;
  const int first_own = first_moment + Traits::kFirstOwn;
  const int end_column = min(first_own + p.strip_width, p.own_right);
  const int first_row = p.own_top + first;
  piece->first_column = first_column;
  piece->end_column = end_column;
  piece->columns = make_int4(p.value_left - first_moment, p.value_right - first_moment,
                             max(first_own, p.value_left) - first_moment,
                             min(end_column, p.value_right) - first_moment);
  piece->rows = make_int4(first_row, first_row + rows, max(first_row, p.value_top),
                          min(first_row + rows, p.value_bottom));
  const int first_moment_row = first_row - Traits::kLeadRows - Traits::kRadius;
  piece->first_plain =
      (piece->rows.z - first_moment_row + Traits::kChunkRows - 1) / Traits::kChunkRows;
  piece->chunks = Traits::chunks(rows);
  piece->plain_chunks =
      max((piece->rows.w - first_moment_row) / Traits::kChunkRows - piece->first_plain, 0);
  const bool together = p.channels_together > 1;
  const int64_t batch = together ? plane : plane / p.channels;
  const int64_t channel = together ? blockIdx.x % p.channels_together : plane - batch * p.channels;
  piece->plane1 = p.img1.data + batch * p.img1.batch + channel * p.img1.channel;
  piece->plane2 = p.img2.data + batch * p.img2.batch + channel * p.img2.channel;
  if constexpr (Traits::kBulk) {
    piece->conversion.columns_inside = first_column >= Traits::kStagedBefore &&
                                       (end_column + Traits::kLeadRows + 3) / 4 * 4 <= p.width;
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
    piece->map = p.map == nullptr ? nullptr : p.map + (batch * p.channels + channel) * p.map_plane;
  }
}

// All pieces of a block, and its part of the sums.
template <class Traits>
__device__ __forceinline__ void run_pieces(const StripParams& p) {
  extern __shared__ float4 shared_quads[];
  auto& shared = *reinterpret_cast<StripShared<Traits>*>(shared_quads);
  float* staged = reinterpret_cast<float*>(&shared + 1);
  StripPiece& piece = shared.piece;
  const ReductionPlan& plan = p.reduction;
  if (threadIdx.x == 0) {
    const unsigned sharing = blockIdx.x / p.channels_together;
    shared.unit = unit_begin(plan, sharing);
    shared.end = unit_begin(plan, sharing + 1);
    shared.value = plan.values == 1 ? 0 : shared.unit / plan.units_per_value;
    if constexpr (Traits::kBulk) {
      for (uint64_t& counter : shared.copied) {
        start_counting_copies(&counter);
      }
    }
    piece.conversion.copied_chunks = 0;
  }
  shared.totals[threadIdx.x] = 0.0;
#pragma unroll 1
  for (bool more = true; more;) {
    if (threadIdx.x == 0) {
      start_piece<Traits>(p, shared.unit, shared.end, &piece);
    }
    __syncthreads();
    process_piece<Traits>(p, shared, staged);
    const int64_t next_unit = shared.unit + (piece.rows.y - piece.rows.x);
    const int64_t current = shared.value;
    const int64_t next_value = plan.values == 1 ? 0 : next_unit / plan.units_per_value;
    more = next_unit < shared.end;
    __syncthreads();
    if (threadIdx.x == 0) {
      shared.unit = next_unit;
      shared.value = next_value;
      piece.conversion.copied_chunks += piece.chunks;
    }
    if (plan.value != nullptr && (!more || next_value != current)) {
      store_partial<Traits::kThreads>(plan, current, shared.totals[threadIdx.x]);
      shared.totals[threadIdx.x] = 0.0;
    }
  }
  if (plan.value != nullptr) {
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

}  // namespace fused_ssim::cuda
