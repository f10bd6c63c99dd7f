// The strip kernels' sizes and pieces, and how their pixels come in.
#pragma once

#include "cuda/columns.cuh"
#include "cuda/containment.cuh"
#include "cuda/filters.cuh"
#include "cuda/image_access.cuh"
#include "cuda/pixel_shift.cuh"
#include "cuda/policy.h"
#include "cuda/thread.cuh"

namespace fused_ssim::cuda {

template <int kThreads_, StripKind kKind_, StripLoader kLoader_, class Window_>
struct StripTraits : KindTraits<kKind_, Window_> {
  using Kind = KindTraits<kKind_, Window_>;
  using Kind::kGradient, Kind::kHasMask, Kind::kKind, Kind::kMap, Kind::kPartialMaps, Kind::kTwo,
      Kind::kWeighted;
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
  static constexpr bool kRollMasked =
      (elements_of(kLoader) == Elements::kAny || Window::kIsGiven) && !kWeighted && !kHasMask;
  static constexpr int kRowsAtOnce =
      kKind == StripKind::kTwoGradients || (kMap && Window::kIsGiven) ? 4 : 8;

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
  // kHasMask:
  MaskPlane mask;
  DoubledStabilizers<float> stabilizers;
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

}  // namespace fused_ssim::cuda
