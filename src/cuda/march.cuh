// SSIM sums, maps and gradients of large images with the 11-tap window, in one pass, by warps of
// two kinds, on multiprocessors with 213 KB of shared memory for a block.
//
// A block owns strips of kColumns columns and marches down them in chunks of 8 rows. It has
// kColumns threads of each kind. With s = x + y - shift and d = x - y - shift (core/formula.h), a
// chunk goes through
//
//   row warps     load     global memory -> shared memory, by tensor maps or through registers, a
//                          chunk ahead; pixels become s and d
//   row warps     rows     thread = one row x 8 columns. Filters s, s^2, d, d^2 along the row into
//                          a slot
//   column warps  columns  thread = one column. Filters the four maps of the slot down the column,
//                          in transposed form with its state in registers; moments -> value and
//                          partial derivatives -> second column filter, whose outputs take the
//                          moments' place
//   row warps     rows     thread = one row x 8 columns. Filters the partials along the row,
//                          combines them with s and d of 10 rows above, stores the gradient
//
//      chunk            0       1       2       3       4
//      row warps        R0      R1 G0   R2 G1   R3 G2   ...      R, G: first and second filter
//      column warps          C0      C1      C2      C3 ...           along rows
//
// So the two kinds share a multiprocessor's issue slots whatever each of them waits for, and row
// warps, which need few registers for long, have their loads under way early. For a gradient one
// block has a multiprocessor for itself, and half as many rows above and below its range are
// computed twice as by two blocks that share one.
//
// A slot of shared memory passes from row warps to column warps and back. How they wait for each
// other:
//
//   values of boxes  each row warp hands its slots to a column warp of its own and gets them back,
//                    under counters in shared memory. Pixels are staged as they are, 16-bit ones
//                    too, and made s and d while they are filtered.
//   other values,    all threads meet after each chunk: while the column warps have chunk c, the
//   gradients        row warps store the gradient of c - 1, filter c + 1 and stage c + 2
//   ... of words     the same, but under counters of all threads: column warps begin as soon as c +
//                    1 is filtered
//
// Above and below an image nobody needs moments, and all rows are alike. So a gradient's strip
// begins 6 rows above the image instead of 10, and below the last row with values column warps only
// give out what their filters hold; values begin with the first row and may end up to two rows
// early, but for those in three blocks a multiprocessor.
//
// Rows in shared memory are an odd number of quads (16 bytes) apart: lanes that read quads of eight
// rows and lanes that read neighbouring columns both meet no bank conflicts.
//
// Global memory per float32 pixel: 8 B read, and 4 B written a gradient image; nothing else, but
// for the halos, which come from L2: 26 columns a strip and 20 rows a range (18 and 10 for values
// alone) but at an image's border.
//
// On an H100 at 1x3x1080x1920, value and one gradient: 254 instructions a pixel, halos included, at
// 2.9 an active cycle.
#pragma once

#include <type_traits>

#include "core/formula.h"
#include "core/taps.h"
#include "cuda/containment.cuh"
#include "cuda/division.cuh"
#include "cuda/image_access.cuh"
#include "cuda/kernels.h"
#include "cuda/launches.h"
#include "cuda/pixel_shift.cuh"
#include "cuda/reduction.cuh"
#include "cuda/shift.cuh"
#include "cuda/strip_filters.cuh"
#include "cuda/thread.cuh"
#include "cuda/tuning.h"
#include "cuda/window.cuh"

namespace fused_ssim::cuda {

template <int kColumns_, StripKind kKind_, StripLoader kLoader_, class Window_, int kResident>
struct PipelineTraits : KindTraits<kKind_, Window_> {
  using Kind = KindTraits<kKind_, Window_>;
  using Kind::kGradient, Kind::kKind, Kind::kMap, Kind::kMse, Kind::kPartialMaps, Kind::kTwo,
      Kind::kWeighted;
  using typename Kind::Window;
  static constexpr int kColumns = kColumns_;
  static constexpr int kChunkRows = 8;
  static constexpr StripLoader kLoader = kLoader_;
  static constexpr bool kHalfWords = kLoader == StripLoader::kHalfWords;
  static constexpr bool kAnyWords = kLoader == StripLoader::kAnyWords;
  static constexpr bool kQuads = kLoader != StripLoader::kWords && !kHalfWords && !kAnyWords;
  static constexpr bool kBoxes = is_of_boxes(kLoader);
  static constexpr int kElement = box_element(kLoader);  // in shared memory
  static_assert(kElement == 4 || kKind == StripKind::kValue, "others need s and d once more");
  static constexpr bool kRollMasked = false;
  // Rows of the column warps' code at once: more would be longer than the instruction cache likes,
  // beside that of the row warps.
  static constexpr int kRowsAtOnce = kKind == StripKind::kValue ? 8 : 4;
#if defined(__CUDA_ARCH__)
  static constexpr bool kLaunched = has_pipeline(__CUDA_ARCH__ / 10);
#else
  static constexpr bool kLaunched = false;
#endif

  // Raw pixels are staged where the windows' filter makes s and d of them: of boxes, which need no
  // registers on their way, and where s and d are not needed once more.
  static constexpr bool kRaw = kBoxes && !kGradient;
  // Whether the filter shifts pixels that are staged as they are: then each warp's columns may have a
  // shift of their own, and are more exact the nearer it is to them. A map shows the error of each
  // single window; in sums and gradients errors average out.
  static constexpr bool kShiftsLate = kRaw || kMap;
  // How the two kinds wait for each other. Raw pixels: each row warp and a column warp of its own
  // by counters. Else all of both kinds: after each chunk, or, where row warps have more to do than
  // column warps because single pixels go through their registers and back, split: by counters, so
  // that column warps begin as soon as a chunk is there.
  static constexpr bool kSplit = !kQuads && kGradient;
  static constexpr bool kMeets = !kRaw && !kSplit;

  // Whether column warps add up the values while row warps store the last gradients. For others
  // than boxes registers are short.
  static constexpr bool kSumsEarly = kGradient && kBoxes && !kWeighted;

  static constexpr int kThreads = 2 * kColumns;
  static constexpr int kBlocksPerMultiprocessor = kResident;
  static constexpr int kRowWarps = kColumns / 32;
  // Column warps come first, from left to right, then row warps from right to left: in a strip
  // narrower than it could be warps at the right have nothing to do, and so each of the four
  // schedulers has as many of them.
  static __device__ __forceinline__ bool is_row_warp() { return threadIdx.x >= kColumns; }
  // Among the row threads, from left to right.
  static __device__ __forceinline__ int row_thread() {
    // Values in three blocks a multiprocessor have too few registers to keep what follows from it.
    const int thread = kKind == StripKind::kValue && kResident == 3 ? thread_index()
                                                                    : static_cast<int>(threadIdx.x);
    return thread % 32 + (kThreads - 32 - thread / 32 * 32);
  }
  static constexpr int kRadius = kDefaultWindowSize / 2;
  static_assert(kChunkRows % kRowWarps == 0, "whole rows a warp");
  static constexpr int kRowsPerWarp = kChunkRows / kRowWarps;

  // Column m of the moments is image column X0 - kMargin + m, where X0 is the strip's first own
  // column, a multiple of 4. Staged column c is image column X0 - kStagedBefore + c, and the
  // windows of group g lie in the staged quads from 2g on.
  static constexpr int kMargin = kGradient ? kRadius : 0;
  static constexpr int kSkip = (8 - kMargin - kRadius + 4) % 4;
  static constexpr int kStagedBefore = kMargin + kRadius + kSkip;
  static_assert(kStagedBefore % 4 == 0, "staged quads are quads of the image");
  // Columns that a box has before these: it begins at a multiple of 16 bytes.
  static constexpr int kExtra = kElement == 1 ? 8 : 0;
  static constexpr int kLeadRows = kGradient ? 2 * kRadius : kRadius;
  static_assert(strip_chunks(97, kGradient) == (97 + 2 * kLeadRows + kChunkRows - 1) / kChunkRows,
                "the tuning table counts the same");
  // Of them, at the top of the image. For a gradient: nobody needs moments above it. That would be
  // one row more, but the first gradients have to be those of a chunk's first row. For values: rows
  // above are all alike.
  static constexpr bool kSpares = spares_rows(kGradient, kResident);
  static constexpr int kSparedLeadRows = kSpares ? spared_top_rows(kGradient) : 0;
  static constexpr int kSparedLastRows = kSpares && !kGradient ? spared_bottom_rows(kGradient) : 0;
  static_assert(kSparedLeadRows <= kRadius &&
                    (!kGradient || (2 * kLeadRows - kSparedLeadRows) % kChunkRows == 0),
                "gradients begin with a chunk");
  static constexpr int kGradientLag = 2 * kRadius;
  static_assert(kGradientLag > kChunkRows && kGradientLag < 2 * kChunkRows,
                "rows of the gradient's pixels lie one or two chunks above");

  // A box has at most 256 columns, so boxes are staged in parts of 128 columns and those around
  // them that their windows need.
  static constexpr int kParts = kBoxes ? kColumns / 128 : 1;
  static_assert(!kBoxes || kColumns % 128 == 0, "whole parts");
  static constexpr int kPartColumns = kColumns / kParts;
  // Quads of a staged row that windows reach.
  static constexpr int kStagedQuads = (kSkip + kPartColumns + 2 * kRadius + 3) / 4;
  // Columns of a staged row, and words from one row to the next.
  static constexpr int kStagedColumns = !kBoxes        ? 4 * (kStagedQuads | 1)
                                        : kElement < 4 ? narrow_strip_box_columns(kElement)
                                                       : box_columns(kKind);
  static_assert(kStagedColumns >= kExtra + 4 * kStagedQuads, "all windows");
  static constexpr int kStagedPitch = kStagedColumns * kElement / 4;
  static constexpr int kPartStride = kChunkRows * kStagedPitch;
  static constexpr int kStagedSlots = kGradient ? 6 : 2;
  static constexpr int kSlotStride = kParts * kPartStride;
  static constexpr int kImageStride = kStagedSlots * kSlotStride;
  static constexpr int kMapSlots = kRaw || kGradient ? 3 : 2;
  static_assert(kStagedPitch % 8 == 4, "an odd number of quads");
  // Where gradients are stored one column at a time, each row warp turns its 8 rows x 32 columns
  // here.
  static constexpr int kTurnPitch = 36;
  static constexpr int kTurnStride = kGradient && !kQuads ? kChunkRows * kTurnPitch : 0;
  static constexpr int shared_bytes() {
    return 4 * (2 * kImageStride + kMapSlots * MapPlaces<PipelineTraits>::kChunk +
                kRowWarps * kTurnStride);
  }

  // Of a chunk, what one thread loads where there are no boxes: quads of all rows in turn, or every
  // 32nd column of its warp's rows.
  static constexpr int kQuadItems = (kChunkRows * kStagedQuads + kColumns - 1) / kColumns;
  static constexpr int kWordItems = kRowsPerWarp * ((4 * kStagedQuads + 31) / 32);
};

// Counters in shared memory: of bytes on their way, of all threads that meet, and of the slots that
// the two kinds hand to each other. Every thread arrives: one for its warp, after __syncwarp(),
// would do as well, but racecheck of compute-sanitizer does not follow that, nor bar.arrive. A
// barrier of the block would be 2% faster than a meeting, but synccheck believes that all must come
// to it by the same way.
template <class Traits>
struct PipelineCounters {
  static constexpr int kPairings = Traits::kRaw ? Traits::kRowWarps : 1;
  uint64_t loaded[2];                             // the bytes of a chunk have come
  uint64_t emptied[2];                            // kRaw: all row warps have read it
  uint64_t met;                                   // else: all threads have come
  uint64_t summed;                                // all column warps have left their sums
  uint64_t filled[kPairings][Traits::kMapSlots];  // by row warps
  uint64_t drained[kPairings]
                  [Traits::kMapSlots];  // by column warps; kSplit: and staged by row warps

  // By one thread.
  __device__ __forceinline__ void start() {
    for (int i = 0; i < 2; ++i) {
      start_counting(&loaded[i]);
      start_counting(&emptied[i], Traits::kColumns);
    }
    start_counting(&met, Traits::kThreads);
    start_counting(&summed, Traits::kColumns);
    for (int pairing = 0; pairing < kPairings; ++pairing) {
      for (int slot = 0; slot < Traits::kMapSlots; ++slot) {
        start_counting(&filled[pairing][slot], Traits::kColumns / kPairings);
        start_counting(&drained[pairing][slot],
                       Traits::kRaw ? Traits::kColumns / kPairings : Traits::kThreads);
      }
    }
    order_counters();
  }
};

// All threads of the block meet, each kind in code of its own; `parity` is that of the meetings
// before.
template <class Traits>
__device__ __forceinline__ void meet(PipelineCounters<Traits>* counters, unsigned* parity) {
  arrive(&counters->met);
  wait_long_for_phase(&counters->met, *parity);
  *parity ^= 1u;
}
// Before a piece: two meetings begin it and, with kMeets, one follows each chunk.
template <class Traits>
__device__ __forceinline__ unsigned meeting_parity(unsigned chunks_before) {
  return Traits::kMeets ? chunks_before & 1u : 0u;
}

// The slot of a chunk, of kMapSlots, and the phase of its counters.
template <class Traits>
struct MapSlot {
  int slot;
  unsigned parity;

  // After that many chunks of the block.
  explicit __device__ __forceinline__ MapSlot(unsigned chunks_before)
      : slot(static_cast<int>(chunks_before % Traits::kMapSlots)),
        parity(chunks_before / Traits::kMapSlots & 1u) {}
  __device__ __forceinline__ void advance() {
    ++slot;
    if (slot == Traits::kMapSlots) {
      slot = 0;
      parity ^= 1u;
    }
  }
  // The slots of the next chunk and of the one before.
  __device__ __forceinline__ int below() const {
    return slot + 1 < Traits::kMapSlots ? slot + 1 : 0;
  }
  __device__ __forceinline__ int above() const {
    return slot > 0 ? slot - 1 : Traits::kMapSlots - 1;
  }
};

// A pointer to shared memory that the compiler takes as it is: it would else compute it anew
// wherever it is used, from the thread's index and a special register.
__device__ __forceinline__ float* kept(float* pointer) {
  auto address = static_cast<unsigned>(__cvta_generic_to_shared(pointer));
  asm volatile("" : "+r"(address));
  return static_cast<float*>(__cvta_shared_to_generic(address));
}

// A range of rows of one strip.
struct PipelinePiece {
  int64_t batch;
  int64_t channel;
  int first_column;  // X0
  int end_column;    // of the own columns
  int first_row;     // own rows
  int end_row;
};

// The first row that is staged.
template <class Traits>
__device__ __forceinline__ int first_staged_row(const PipelinePiece& piece) {
  return piece.first_row - Traits::kLeadRows + (piece.first_row == 0 ? Traits::kSparedLeadRows : 0);
}
// The last rows of values of an image may do without a chunk of rows below it (filter_last_rows()).
template <class Traits>
__device__ __forceinline__ int piece_chunks(const StripParams& p, const PipelinePiece& piece) {
  int rows = piece.end_row + Traits::kLeadRows - first_staged_row<Traits>(piece);
  if (Traits::kSparedLastRows > 0 && piece.end_row == p.height) {
    rows -= Traits::kSparedLastRows;
  }
  return (rows + Traits::kChunkRows - 1) / Traits::kChunkRows;
}

// In shared memory.
struct PieceShift {
  PixelShift pixels;
  MeanShift means;

  template <class Window>
  static __device__ __forceinline__ PieceShift of(const Window& window, const PixelShift& shift) {
    return {shift, MeanShift::of(window, shift)};
  }
};

// Columns of moments that somebody needs.
template <class Traits>
__device__ __forceinline__ int needed_columns(const PipelinePiece& piece) {
  return piece.end_column - piece.first_column + 2 * Traits::kMargin;
}

// What the shift of a row warp's columns is taken from: its own, or all of the piece.
template <class Traits>
__device__ __forceinline__ SamplePointers shift_samples(const StripParams& p,
                                                        const PipelinePiece& piece,
                                                        const char* plane1, const char* plane2) {
  int left = piece.first_column;
  int right = piece.end_column;
  if constexpr (Traits::kShiftsLate) {
    left = min(left + Traits::row_thread() / 32 * 32, right - 1);
    right = min(left + 32, right);
  }
  return SamplePointers::of(plane1, plane2, p.img1, p.img2,
                            max(0, piece.first_row - Traits::kRadius),
                            min(p.height, piece.end_row + Traits::kRadius),
                            max(0, left - Traits::kRadius), min(p.width, right + Traits::kRadius));
}

// The raw pixels of a chunk, copied from global to shared memory, four columns at once, where they
// become s and d in place. Each thread converts what it has copied. Chunks are loaded one after the
// other.
template <class Traits>
struct QuadLoader {
  static constexpr int kItems = Traits::kQuadItems;
  static constexpr Elements kElements = elements_of(Traits::kLoader);
  const char* from1[kItems];  // the next to load
  const char* from2[kItems];
  int y[kItems];  // of them; far outside of any image where the column is outside

  // Whole warps have an item or not, but for the last that do.
  static __device__ __forceinline__ bool has(int i) {
    constexpr int kQuads = Traits::kChunkRows * Traits::kStagedQuads;
    return (i + 1) * Traits::kColumns <= kQuads ||
           Traits::row_thread() + i * Traits::kColumns < kQuads;
  }
  // Where an item lies in a slot.
  static __device__ __forceinline__ float* place(float* slot, int i) {
    const int item = Traits::row_thread() + i * Traits::kColumns;
    const int in_chunk = item / Traits::kStagedQuads;
    return slot + in_chunk * Traits::kStagedPitch + 4 * (item - in_chunk * Traits::kStagedQuads);
  }

  // Begins with the chunk whose first row is `first_y`.
  __device__ __forceinline__ QuadLoader(const StripParams& p, const PipelinePiece& piece,
                                        const char* plane1, const char* plane2, int first_y,
                                        PipelineCounters<Traits>*, unsigned) {
    constexpr int kOutside = -(1 << 30) - (1 << 29);
    const int end_x = min(p.width, piece.end_column + 2 * Traits::kRadius);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int item = Traits::row_thread() + i * Traits::kColumns;
      const int in_chunk = item / Traits::kStagedQuads;
      const int x =
          piece.first_column - Traits::kStagedBefore + 4 * (item - in_chunk * Traits::kStagedQuads);
      from1[i] = plane1 + (first_y + in_chunk) * p.img1.row + x * p.img1.column;
      from2[i] = plane2 + (first_y + in_chunk) * p.img2.row + x * p.img2.column;
      y[i] = x >= 0 && x < end_x ? first_y + in_chunk : kOutside;
    }
  }

  __device__ __forceinline__ void load(const StripParams& p, float* slot, unsigned) {
    load_image(p, p.img1, from1, slot);
    load_image(p, p.img2, from2, slot + Traits::kImageStride);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      y[i] += Traits::kChunkRows;
    }
  }
  __device__ __forceinline__ void load_image(const StripParams& p, const InputImage& image,
                                             const char* (&from)[kItems], float* slot) const {
    if (kElements == Elements::kHalf) {
      copy_quads<8>(p, image, from, slot);
    } else if (image.dtype == DType::kFloat32) {
      copy_quads<16>(p, image, from, slot);
    } else if (image.dtype == DType::kUInt8) {
      copy_quads<4>(p, image, from, slot);
    } else {
      copy_quads<8>(p, image, from, slot);
    }
  }
  template <int kBytes>
  __device__ __forceinline__ void copy_quads(const StripParams& p, const InputImage& image,
                                             const char* (&from)[kItems], float* slot) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (has(i)) {
        const bool inside = static_cast<unsigned>(y[i]) < static_cast<unsigned>(p.height);
        copy_async<kBytes>(place(slot, i), from[i], inside ? kBytes : 0);
        from[i] += Traits::kChunkRows * image.row;
      }
    }
  }

  // Makes the pixels of the chunk, which begins with row `first_y`, s and d. Returns the L1 term of
  // the own pixels where there is no gradient; else that is added up with it.
  template <bool kL1>
  __device__ __forceinline__ float store(const StripParams& p, const PipelinePiece& piece,
                                         const PixelShift& shift, int first_y, float* slot) const {
    float l1 = 0.0f;
    wait_for_copies();
    // Code for all types is long.
    constexpr int kAtOnce = kElements == Elements::kAny ? 1 : kItems;
#pragma unroll kAtOnce
    for (int i = 0; i < kItems; ++i) {
      if (!has(i)) {
        break;
      }
      auto* place_s = reinterpret_cast<float4*>(place(slot, i));
      auto* place_d = reinterpret_cast<float4*>(place(slot, i) + Traits::kImageStride);
      const float4 pixels1 = raw_quad_to_float<kElements>(*place_s, p.img1);
      const float4 pixels2 = raw_quad_to_float<kElements>(*place_d, p.img2);
      float4 s, d;
      if constexpr (kL1) {
        shift.apply_in_order(pixels1, pixels2, &s, &d);
        const int item = Traits::row_thread() + i * Traits::kColumns;
        const int in_chunk = item / Traits::kStagedQuads;
        if (!Traits::kGradient && first_y + in_chunk >= max(piece.first_row, p.value_top) &&
            first_y + in_chunk < min(piece.end_row, p.value_bottom)) {
          const int x = piece.first_column - Traits::kStagedBefore +
                        4 * (item - in_chunk * Traits::kStagedQuads);
          l1 +=
              sum_of_distances(pixels1, pixels2, max(piece.first_column, p.value_left) - x,
                               min(piece.end_column, p.value_right) - x, Traits::kMse && p.squares);
        }
      } else {
        shift.apply(pixels1, pixels2, &s, &d);
      }
      *place_s = s;
      *place_d = d;
    }
    return l1;
  }
};

// The same, one column at a time: neighbouring lanes take neighbouring columns, whatever their
// stride.
template <class Traits>
struct WordLoader {
  static constexpr int kAcross = Traits::kWordItems / Traits::kRowsPerWarp;
  // Elements are of one 16-bit type, float32, or each image's are of any type.
  static constexpr bool kHalves = Traits::kHalfWords;
  static constexpr bool kAnyType = Traits::kAnyWords;
  static constexpr int kElement = kHalves ? 2 : 4;
  // How columns lie: of both images neighbours or three elements apart; else any, as of other types
  // than float32 with kAnyType.
  enum class Columns { kPlanar, kOfThree, kAny };
  const char* from1;  // this lane's first column in the warp's first row of the next chunk to load
  const char* from2;
  int y;  // of that row
  int first_x;
  unsigned inside;  // bit j: this lane's column j lies in the image
  Columns columns;
  float a[Traits::kWordItems];
  float b[Traits::kWordItems];

  __device__ __forceinline__ WordLoader(const StripParams& p, const PipelinePiece& piece,
                                        const char* plane1, const char* plane2, int first_y,
                                        PipelineCounters<Traits>*, unsigned) {
    first_x = piece.first_column - Traits::kStagedBefore + Traits::row_thread() % 32;
    y = first_y + first_row_of_warp();
    from1 = plane1 + y * p.img1.row + first_x * p.img1.column;
    from2 = plane2 + y * p.img2.row + first_x * p.img2.column;
    const int end_x = min(p.width, piece.end_column + 2 * Traits::kRadius);
    inside = 0;
#pragma unroll
    for (int j = 0; j < kAcross; ++j) {
      inside |=
          static_cast<unsigned>(first_x + 32 * j) < static_cast<unsigned>(end_x) ? 1u << j : 0;
    }
    const bool alike =
        p.img1.column == p.img2.column &&
        (!kAnyType || (p.img1.dtype == DType::kFloat32 && p.img2.dtype == DType::kFloat32));
    columns = alike && p.img1.column == kElement       ? Columns::kPlanar
              : alike && p.img1.column == 3 * kElement ? Columns::kOfThree
                                                       : Columns::kAny;
  }
  static __device__ __forceinline__ int first_row_of_warp() {
    return Traits::row_thread() / 32 * Traits::kRowsPerWarp;
  }

  // The columns of one row, `stride` bytes apart.
  template <class Load>
  static __device__ __forceinline__ void load_row(const char* from, int64_t stride, unsigned mask,
                                                  float* to, const Load& load) {
#pragma unroll
    for (int j = 0; j < kAcross; ++j, from += 32 * stride) {
      to[j] = load(mask & 1u << j, from);
    }
  }
  static __device__ __forceinline__ void load_any_row(const char* from, const InputImage& image,
                                                      unsigned mask, float* to) {
    if (kHalves) {
      load_row(from, image.column, mask, to, load_half_if);
    } else if (!kAnyType || image.dtype == DType::kFloat32) {
      load_row(from, image.column, mask, to, load_float_if);
    } else if (image.dtype == DType::kUInt8) {
      load_row(from, image.column, mask, to, load_byte_if);
    } else {
      load_row(from, image.column, mask, to, load_half_if);
    }
  }
  static __device__ __forceinline__ void to_float(const InputImage& image,
                                                  float (&pixels)[Traits::kWordItems]) {
#pragma unroll
    for (int i = 0; i < Traits::kWordItems; ++i) {
      const unsigned bits = __float_as_uint(pixels[i]);
      pixels[i] = kHalves ? half_to_float(bits, image.dtype) : narrow_to_float(bits, image);
    }
  }

  __device__ __forceinline__ void load(const StripParams& p, float*, unsigned) {
#pragma unroll
    for (int r = 0; r < Traits::kRowsPerWarp; ++r) {
      const unsigned mask =
          static_cast<unsigned>(y + r) < static_cast<unsigned>(p.height) ? inside : 0;
      const char* row1 = from1 + r * p.img1.row;
      const char* row2 = from2 + r * p.img2.row;
      float* to1 = a + r * kAcross;
      float* to2 = b + r * kAcross;
      const auto load_if = kHalves ? load_half_if : load_float_if;
      if (columns == Columns::kPlanar) {
        load_row(row1, kElement, mask, to1, load_if);
        load_row(row2, kElement, mask, to2, load_if);
      } else if (columns == Columns::kOfThree) {
        load_row(row1, 3 * kElement, mask, to1, load_if);
        load_row(row2, 3 * kElement, mask, to2, load_if);
      } else {
        load_any_row(row1, p.img1, mask, to1);
        load_any_row(row2, p.img2, mask, to2);
      }
    }
    y += Traits::kChunkRows;
    from1 += Traits::kChunkRows * p.img1.row;
    from2 += Traits::kChunkRows * p.img2.row;
  }

  template <bool kL1>
  __device__ __forceinline__ float store(const StripParams& p, const PipelinePiece& piece,
                                         const PixelShift& shift, int first_y, float* slot) {
    if (kHalves || (kAnyType && p.img1.dtype != DType::kFloat32)) {
      to_float(p.img1, a);
    }
    if (kHalves || (kAnyType && p.img2.dtype != DType::kFloat32)) {
      to_float(p.img2, b);
    }
    float l1 = 0.0f;
    const int lane = Traits::row_thread() % 32;
#pragma unroll
    for (int r = 0; r < Traits::kRowsPerWarp; ++r) {
      const int in_chunk = first_row_of_warp() + r;
      float* to = slot + in_chunk * Traits::kStagedPitch + lane;
      const bool row_counts = !Traits::kGradient &&
                              first_y + in_chunk >= max(piece.first_row, p.value_top) &&
                              first_y + in_chunk < min(piece.end_row, p.value_bottom);
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
        if (32 * j + 32 > 4 * Traits::kStagedQuads && 32 * j + lane >= 4 * Traits::kStagedQuads) {
          continue;
        }
        const float pixel1 = a[r * kAcross + j];
        const float pixel2 = b[r * kAcross + j];
        float s, d;
        if constexpr (kL1) {
          shift.apply_in_order(pixel1, pixel2, &s, &d);
          const int x = first_x + 32 * j;
          if (row_counts && x >= max(piece.first_column, p.value_left) &&
              x < min(piece.end_column, p.value_right)) {
            l1 += distance(pixel1 - pixel2, Traits::kMse && p.squares);
          }
        } else {
          shift.apply(pixel1, pixel2, &s, &d);
        }
        to[32 * j] = Traits::kShiftsLate ? pixel1 : s;
        to[32 * j + Traits::kImageStride] = Traits::kShiftsLate ? pixel2 : d;
      }
    }
    return l1;
  }
};

// The same by tensor maps: one thread has boxes of pixels copied straight into shared memory, and
// zeros where there is no image. There they become s and d in place, or stay as they are.
template <class Traits>
struct BoxLoader {
  static constexpr int kQuads = Traits::kSlotStride / 4;
  PipelineCounters<Traits>* counters;
  unsigned count;  // chunks of the block so far, but for those on their way
  int4 first1;     // column, row, channel and batch of the next chunk to load
  int2 plane2;     // channel and batch of the second image

  __device__ __forceinline__ BoxLoader(const StripParams& p, const PipelinePiece& piece,
                                       const char*, const char*, int first_y,
                                       PipelineCounters<Traits>* block_counters,
                                       unsigned chunks_before)
      : counters(block_counters), count(chunks_before) {
    first1 = {piece.first_column - Traits::kStagedBefore - Traits::kExtra, first_y,
              p.tensor1.channels > 1 ? static_cast<int>(piece.channel) : 0,
              p.tensor1.batches > 1 ? static_cast<int>(piece.batch) : 0};
    plane2 = {p.tensor2.channels > 1 ? static_cast<int>(piece.channel) : 0,
              p.tensor2.batches > 1 ? static_cast<int>(piece.batch) : 0};
  }

  // Starts to load a chunk, the `ahead`-th after the next to be waited for.
  __device__ __forceinline__ void load(const StripParams& p, float* slot, unsigned ahead) {
    if (Traits::row_thread() < 32 && is_elected()) {
      const unsigned number = count + ahead;
      uint64_t* counter = &counters->loaded[number & 1u];
      if constexpr (Traits::kRaw) {
        wait_for_phase(&counters->emptied[number & 1u], (number >> 1 & 1u) ^ 1u);
      }
      order_before_boxes();  // what was stored where they go
      expect_bytes(counter, 2 * Traits::kParts * Traits::kPartStride * sizeof(float));
#pragma unroll
      for (int part = 0; part < Traits::kParts; ++part) {
        const int x = first1.x + part * Traits::kPartColumns;
        float* to = slot + part * Traits::kPartStride;
        load_box(to, p.tensor1, {x, first1.y, first1.z, first1.w}, counter);
        load_box(to + Traits::kImageStride, p.tensor2, {x, first1.y, plane2.x, plane2.y}, counter);
      }
    }
    first1.y += Traits::kChunkRows;
  }

  __device__ __forceinline__ void wait() {
    wait_for_phase(&counters->loaded[count & 1u], count >> 1 & 1u);
    ++count;
  }

  // Makes the pixels of a chunk s and d.
  template <bool kL1>
  __device__ __forceinline__ float store(const StripParams&, const PipelinePiece&,
                                         const PixelShift& shift, int, float* slot) {
    wait();
#pragma unroll
    for (int i = 0; i < (kQuads + Traits::kColumns - 1) / Traits::kColumns; ++i) {
      const int quad = Traits::row_thread() + i * Traits::kColumns;
      if ((i + 1) * Traits::kColumns > kQuads && quad >= kQuads) {
        break;
      }
      auto* place_s = reinterpret_cast<float4*>(slot + 4 * quad);
      auto* place_d = reinterpret_cast<float4*>(slot + 4 * quad + Traits::kImageStride);
      float4 s, d;
      if constexpr (kL1) {
        shift.apply_in_order(*place_s, *place_d, &s, &d);
      } else {
        shift.apply(*place_s, *place_d, &s, &d);
      }
      *place_s = s;
      *place_d = d;
    }
    return 0.0f;
  }
};

template <class Traits>
using PipelineLoader =
    std::conditional_t<Traits::kBoxes, BoxLoader<Traits>,
                       std::conditional_t<Traits::kQuads, QuadLoader<Traits>, WordLoader<Traits>>>;

// The pixels of a piece that have a value: rows from the first that is staged on, columns from the
// first own one on. In shared memory.
struct ValuedPixels {
  int first_row;
  int end_row;
  int first_column;
  int end_column;

  static __device__ __forceinline__ ValuedPixels of(const StripParams& p,
                                                    const PipelinePiece& piece, int first_staged) {
    return {max(piece.first_row, p.value_top) - first_staged,
            min(piece.end_row, p.value_bottom) - first_staged,
            max(0, p.value_left - piece.first_column),
            min(piece.end_column, p.value_right) - piece.first_column};
  }
};

// The L1 term of raw pixels: of a row and its 8 columns from `column` on, both counted as
// ValuedPixels are, which lie in `row1` and `row2` from column kStagedBefore on.
template <class Traits, class Row>
__device__ __forceinline__ float sum_of_row_distances(const ValuedPixels& valued, int row,
                                                      int column, const Row& row1, const Row& row2,
                                                      bool squares) {
  if (row < valued.first_row || row >= valued.end_row) {
    return 0.0f;
  }
  float sum = 0.0f;
#pragma unroll
  for (int first = 0; first < 8; first += Row::kAtOnce) {
    float pixels1[Row::kAtOnce], pixels2[Row::kAtOnce];
    row1.read(Traits::kStagedBefore + first, pixels1);
    row2.read(Traits::kStagedBefore + first, pixels2);
#pragma unroll
    for (int q = 0; q < Row::kAtOnce; q += 4) {
      sum +=
          sum_of_distances(make_float4(pixels1[q], pixels1[q + 1], pixels1[q + 2], pixels1[q + 3]),
                           make_float4(pixels2[q], pixels2[q + 1], pixels2[q + 2], pixels2[q + 3]),
                           valued.first_column - column - first - q,
                           valued.end_column - column - first - q, squares);
    }
  }
  return sum;
}

// Where a row thread stores gradients of a piece.
struct GradientTarget {
  // Of the thread's first column (by words: its lane's) in its (its warp's) next row.
  char* gradient1;
  char* gradient2;
  int y;        // of the thread's next row
  int columns;  // from the thread's first column to the end of the own ones

  // To the next chunk.
  template <class Traits>
  __device__ __forceinline__ void advance(const StripParams& p) {
    y += Traits::kChunkRows;
    gradient1 += Traits::kChunkRows * p.grad1.row;
    if constexpr (Traits::kTwo) {
      gradient2 += Traits::kChunkRows * p.grad2.row;
    }
  }
};

// The gradient of one chunk: filters the partials of this thread's row and 8 columns, stores.
// Returns the L1 term of its pixels.
template <class Traits, bool kL1>
__device__ __forceinline__ float store_gradient_rows(
    const StripParams& p, const PipelinePiece& piece, const PixelShift& shift, const float* own,
    const float* map_row, float* turn, const GradientTarget& target, const char* weights,
    const PixelPlanes<elements_of(Traits::kLoader)>& planes) {
  const int y = target.y;
  const int columns = target.columns;
  const bool active = y >= piece.first_row && y < piece.end_row && columns > 0;
  float first[8];
  float second[8];
  float l1 = 0.0f;
  if (active) {
    float pixels[8];
    const auto read_own = [](const float* from, float (&to)[8]) {
      const float4 low = *reinterpret_cast<const float4*>(from);
      const float4 high = *reinterpret_cast<const float4*>(from + 4);
      to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
      to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
    };
    filter_gradient_row<Traits>(
        typename Traits::Window(p), map_row, [&](float (&to)[8]) { read_own(own, to); },
        [&](float (&to)[8]) { read_own(own + Traits::kImageStride, to); }, pixels, first, second);
    if (kL1 && y >= p.value_top && y < p.value_bottom) {
      l1 = finish_with_l1<Traits>(p, weights, planes, shift.difference_if_equal(), y,
                                  piece.end_column - columns, columns, pixels, first, second);
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

  if constexpr (Traits::kQuads) {
    if (active && (!Traits::kWeighted || p.grad1.data != nullptr)) {
      store_quad<Traits::kLoader>(target.gradient1, first, p.grad1.dtype);
      if (columns > 4) {
        store_quad<Traits::kLoader>(target.gradient1 + quad_bytes<Traits::kLoader>(p.grad1),
                                    first + 4, p.grad1.dtype);
      }
    }
    if (Traits::kTwo && active && (!Traits::kWeighted || p.grad2.data != nullptr)) {
      store_quad<Traits::kLoader>(target.gradient2, second, p.grad2.dtype);
      if (columns > 4) {
        store_quad<Traits::kLoader>(target.gradient2 + quad_bytes<Traits::kLoader>(p.grad2),
                                    second + 4, p.grad2.dtype);
      }
    }
  } else {
    const int lane = Traits::row_thread() % 32;
    const int first_y = y - lane % 8;
    const bool stores = piece.first_column + Traits::row_thread() < piece.end_column;
    const auto store_columns = [&](const OutputImage& image, char* of_lane,
                                   const float (&value)[8]) {
      if (active) {
        store_group(turn + lane % 8 * Traits::kTurnPitch + lane / 8 * 8, value);
      }
      __syncwarp();
      if (stores) {
        const float* from = turn + lane;
        if (!Traits::kHalfWords && image.dtype == DType::kFloat32 && first_y >= piece.first_row &&
            first_y + Traits::kChunkRows <= piece.end_row) {
          char* to = of_lane;
#pragma unroll
          for (int r = 0; r < Traits::kChunkRows; ++r, to += image.row) {
            *reinterpret_cast<float*>(to) = from[r * Traits::kTurnPitch];
          }
        } else {
          char* to = of_lane;
#pragma unroll 1
          for (int r = 0; r < Traits::kChunkRows; ++r, to += image.row) {
            if (first_y + r >= piece.first_row && first_y + r < piece.end_row) {
              store_element(to, from[r * Traits::kTurnPitch], image.dtype);
            }
          }
        }
      }
      __syncwarp();
    };
    if (p.grad1.data != nullptr) {
      store_columns(p.grad1, target.gradient1, first);
    }
    if constexpr (Traits::kTwo) {
      if (p.grad2.data != nullptr) {
        store_columns(p.grad2, target.gradient2, second);
      }
    }
  }
  return l1;
}

// Row warps: one piece. Returns this thread's share of the L1 term.
template <class Traits, bool kL1>
__device__ __forceinline__ double run_rows(const StripParams& p, const PipelinePiece& piece,
                                           float* staged, float* maps, float* turns,
                                           PieceShift* piece_shift,
                                           PipelineCounters<Traits>* counters,
                                           unsigned chunks_before) {
  static_assert(!Traits::kRaw, "run_raw_rows does that");
  unsigned parity = meeting_parity<Traits>(chunks_before);
  const char* plane1 = p.img1.data + piece.batch * p.img1.batch + piece.channel * p.img1.channel;
  const char* plane2 = p.img2.data + piece.batch * p.img2.batch + piece.channel * p.img2.channel;
  const int chunks = piece_chunks<Traits>(p, piece);
  int next_y = first_staged_row<Traits>(piece);  // of the chunk to be stored next
  PipelineLoader<Traits> loader(p, piece, plane1, plane2, next_y, counters, chunks_before);
  const SamplePointers pointers = shift_samples<Traits>(p, piece, plane1, plane2);
  wait_for_previous_launch();
  constexpr int kLoadedBefore = Traits::kQuads ? 2 : 1;
#pragma unroll
  for (int i = 0; i < kLoadedBefore; ++i) {
    loader.load(p, staged + i * Traits::kSlotStride, i);
  }
  const Shift<float> means =
      trimmed_means(pointers.template load<float, elements_of(Traits::kLoader)>(p.img1, p.img2));
  const PixelShift shift = PixelShift::of(means.x, means.y);
  const typename Traits::Window window(p);
  if (Traits::row_thread() % (Traits::kShiftsLate ? 32 : Traits::kColumns) == 0) {
    piece_shift[Traits::row_thread() / 32] = PieceShift::of(window, shift);
  }
  double l1 = 0.0;
  const auto store = [&](float* slot) {
    const float of_chunk = loader.template store<kL1>(p, piece, shift, next_y, slot);
    if (kL1 && !Traits::kGradient) {
      l1 += static_cast<double>(of_chunk);
    }
    next_y += Traits::kChunkRows;
  };
  // While column warps have `chunk`, row warps have the ones above and below. Before their first
  // chunk they have one below, and before that one more to stage. These steps have code of their
  // own (up to 4% faster), but not for words, whose code would be too long for the instruction
  // cache (10% slower).
  constexpr bool kStartsInLoop = !Traits::kQuads;
  constexpr int kFirst = kStartsInLoop ? -2 : 0;
  if constexpr (!kStartsInLoop) {
    store(staged);
    meet(counters, &parity);
  }

  const int row = Traits::row_thread() % 8;
  const int group = Traits::row_thread() / 8;
  const int in_part = group / (Traits::kPartColumns / 8) * Traits::kPartStride +
                      group % (Traits::kPartColumns / 8) * 8;
  // Where strips are narrower than they could be, whole warps have nothing to do.
  const bool is_needed = Traits::row_thread() / 32 * 32 < needed_columns<Traits>(piece);
  const float* windows = kept(staged + row * Traits::kStagedPitch + in_part);
  float* map_rows =
      kept(maps + row * MapPlaces<Traits>::kRow + 8 * MapPlaces<Traits>::kColumn * group);
  // Staged rows of the gradient's pixels: kGradientLag rows above the partials.
  constexpr int kLagRows = Traits::kGradientLag - Traits::kChunkRows;
  const int own_row = row < kLagRows ? row + Traits::kChunkRows - kLagRows : row - kLagRows;
  const float* own =
      kept(staged + own_row * Traits::kStagedPitch + Traits::kStagedBefore + in_part);
  int own_slot = Traits::kStagedSlots + kFirst - (row < kLagRows ? 3 : 2);  // chunks above
  GradientTarget target = {nullptr, nullptr, 0, 0};
  const char* weights = nullptr;
  if constexpr (Traits::kGradient) {
    const int x = piece.first_column + 8 * group;
    target.columns = piece.end_column - x;
    // Rows come out of the chunk before.
    target.y = first_staged_row<Traits>(piece) + (kFirst - 1) * Traits::kChunkRows -
               Traits::kGradientLag + row;
    const int64_t first_y = target.y - (Traits::kQuads ? 0 : row);
    const int64_t first_x = Traits::kQuads ? x : piece.first_column + Traits::row_thread();
    target.gradient1 = p.grad1.data + piece.batch * p.grad1.batch +
                       piece.channel * p.grad1.channel + first_y * p.grad1.row +
                       first_x * p.grad1.column;
    target.gradient2 = p.grad2.data + piece.batch * p.grad2.batch +
                       piece.channel * p.grad2.channel + first_y * p.grad2.row +
                       first_x * p.grad2.column;
  }
  if constexpr (Traits::kWeighted) {
    weights = p.map_gradient.data + piece.batch * p.map_gradient.batch +
              piece.channel * p.map_gradient.channel;
  }
  float* turn = turns + Traits::row_thread() / 32 * Traits::kTurnStride;
  // What target.y is below while a row that is being filtered lies in the window of a value.
  const int last_lagged_row =
      p.value_bottom + Traits::kRadius - 2 * Traits::kChunkRows - Traits::kGradientLag;

  // Rows that no window of a value reaches may be left out. With narrow quads that takes 3% longer.
  const auto filter = [&](int staged_slot, int map_slot, bool all_rows) {
    const bool leaves_out = Traits::kGradient && (Traits::kBoxes || !Traits::kQuads);
    if (is_needed && (!leaves_out || all_rows || target.y < last_lagged_row)) {
      const float* quads = windows + staged_slot * Traits::kSlotStride;
      float* to = map_rows + map_slot * MapPlaces<Traits>::kChunk;
      if constexpr (Traits::kShiftsLate) {
        using Row = StagedRow<DType::kFloat32>;
        filter_row_to_cells<Traits::kSkip>(
            window, Row{quads}, Row{quads + Traits::kImageStride},
            [&shift](float pixel1, float pixel2, float* s, float* d) {
              shift.apply(pixel1, pixel2, s, d);
            },
            to);
      } else {
        filter_staged_row<Traits>(window, quads, quads + Traits::kImageStride, to);
      }
    }
  };
  MapSlot<Traits> map_slot((Traits::kSplit ? chunks_before : 0u) +
                           static_cast<unsigned>(2 * Traits::kMapSlots + kFirst));
  if constexpr (!kStartsInLoop) {
    filter(0, map_slot.slot, true);
    store(staged + Traits::kSlotStride);
    meet(counters, &parity);
  }
  int staged_slot =
      (Traits::kStagedSlots + kFirst + 1) % Traits::kStagedSlots;  // of the chunk below
#pragma unroll 1
  for (int chunk = kFirst;; ++chunk, map_slot.advance()) {
    const int next_slot = staged_slot + 1 == Traits::kStagedSlots ? 0 : staged_slot + 1;
    if (Traits::kQuads && chunk + 2 < chunks) {
      loader.load(p, staged + next_slot * Traits::kSlotStride, 0);
    }
    if (Traits::kGradient && chunk > 2) {
      const float of_chunk =
          store_gradient_rows<Traits, kL1>(p, piece, shift, own + own_slot * Traits::kSlotStride,
                                           map_rows + map_slot.above() * MapPlaces<Traits>::kChunk,
                                           turn, target, weights, {plane1, plane2});
      if constexpr (kL1) {
        l1 += static_cast<double>(of_chunk);
      }
    }
    if (chunk == chunks) {
      break;
    }
    if ((!kStartsInLoop || chunk >= -1) && chunk + 1 < chunks) {
      filter(staged_slot, map_slot.below(), false);
      if constexpr (Traits::kSplit) {
        arrive(&counters->filled[0][map_slot.below()]);
      }
    }
    if (chunk + 2 < chunks) {
      store(staged + next_slot * Traits::kSlotStride);
    }
    const bool all_meet = Traits::kMeets || (kStartsInLoop && chunk < 0);
    uint64_t* counter = all_meet ? &counters->met : &counters->drained[0][map_slot.slot];
    arrive(counter);
    if (!Traits::kQuads && chunk + 3 < chunks) {
      loader.load(p, nullptr, 0);  // into registers, as soon as they are free
    }
    wait_long_for_phase(counter, all_meet ? parity : map_slot.parity);
    parity ^= all_meet ? 1u : 0u;
    staged_slot = next_slot;
    own_slot = own_slot + 1 == Traits::kStagedSlots ? 0 : own_slot + 1;
    if constexpr (Traits::kGradient) {
      target.template advance<Traits>(p);
    }
  }
  return l1;
}

// Row warps where raw pixels are staged: each goes on as soon as its own column warp allows it.
// Calls add_l1() with this thread's share of the L1 term.
template <class Traits, class AddL1>
__device__ __forceinline__ void run_raw_rows(const StripParams& p, const PipelinePiece& piece,
                                             float* staged, float* maps, PieceShift* piece_shift,
                                             ValuedPixels* valued,
                                             PipelineCounters<Traits>* counters,
                                             unsigned chunks_before, const AddL1& add_l1) {
  const char* plane1 = p.img1.data + piece.batch * p.img1.batch + piece.channel * p.img1.channel;
  const char* plane2 = p.img2.data + piece.batch * p.img2.batch + piece.channel * p.img2.channel;
  const int chunks = piece_chunks<Traits>(p, piece);
  const int first_y = first_staged_row<Traits>(piece);
  BoxLoader<Traits> loader(p, piece, plane1, plane2, first_y, counters, chunks_before);
  const SamplePointers pointers = shift_samples<Traits>(p, piece, plane1, plane2);
  wait_for_previous_launch();
  loader.load(p, staged + (chunks_before & 1u) * Traits::kSlotStride, 0);
  Shift<float> means =
      trimmed_means(pointers.template load<float, elements_of(Traits::kLoader)>(p.img1, p.img2));
  if (Traits::kElement == 1) {  // then kOffset and the shift may be subtracted in one
    means = {rintf(means.x), rintf(means.y)};
  }
  const PixelShift shift = PixelShift::of(means.x, means.y);
  const typename Traits::Window window(p);
  const int thread = Traits::row_thread();
  const int warp = thread / 32;
  if (thread % 32 == 0) {
    piece_shift[warp] = PieceShift::of(window, shift);
    valued[warp] = ValuedPixels::of(p, piece, first_y);
  }
  __syncwarp();
  const int row = thread % 8;
  const int group = thread / 8;
  static_assert(Traits::kParts == 1, "else groups lie in parts");
  const int first = 8 * group;
  float* map_rows = kept(maps + row * MapPlaces<Traits>::kRow + first * MapPlaces<Traits>::kColumn);
  // Code of its own for each type, and of values for the L1 term: that asks fewer questions on the
  // way.
  const auto run = [&](auto dtype, auto with_l1) {
    constexpr DType kDType = decltype(dtype)::value;
    using Row = StagedRow<kDType>;
    const float* windows =
        kept(staged + row * Traits::kStagedPitch + (first + Traits::kExtra) * Traits::kElement / 4);
    const PixelShift staged_shift = {shift.x + Row::kOffset * kPixelScale,
                                     shift.y + Row::kOffset * kPixelScale};
    MapSlot<Traits> map_slot(chunks_before);
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const unsigned staged_slot = loader.count & 1u;
      if (chunk + 1 < chunks) {
        loader.load(p, staged + (staged_slot ^ 1u) * Traits::kSlotStride, 1);
      }
      loader.wait();
      wait_for_phase(&counters->drained[warp][map_slot.slot], map_slot.parity ^ 1u);
      const float* quads = windows + staged_slot * Traits::kSlotStride;
      const Row row1 = {quads};
      const Row row2 = {quads + Traits::kImageStride};
      filter_row_to_cells<Traits::kSkip>(
          window, row1, row2,
          [&staged_shift](float pixel1, float pixel2, float* s, float* d) {
            staged_shift.apply(pixel1, pixel2, s, d);
          },
          map_rows + map_slot.slot * MapPlaces<Traits>::kChunk);
      if (decltype(with_l1)::value && p.l1) {
        add_l1(sum_of_row_distances<Traits>(valued[warp], chunk * Traits::kChunkRows + row, first,
                                            row1, row2, Traits::kMse && p.squares));
      }
      arrive(&counters->filled[warp][map_slot.slot]);
      arrive(&counters->emptied[staged_slot]);
      map_slot.advance();
    }
  };
  const auto run_type = [&](auto dtype) {
    if (Traits::kMap || __builtin_expect(p.l1, false)) {
      run(dtype, std::true_type{});
    } else {
      run(dtype, std::false_type{});
    }
  };
  if constexpr (Traits::kElement == 4) {
    run_type(std::integral_constant<DType, DType::kFloat32>{});
  } else if constexpr (Traits::kElement == 1) {
    run_type(std::integral_constant<DType, DType::kUInt8>{});
  } else if (p.img1.dtype == DType::kFloat16) {
    run_type(std::integral_constant<DType, DType::kFloat16>{});
  } else {
    run_type(std::integral_constant<DType, DType::kBFloat16>{});
  }
}

// Column warps: one piece. Returns this thread's sum of ssim_loss() over its own pixels.
template <class Traits>
__device__ __forceinline__ double run_columns(const StripParams& p, const PipelinePiece& piece,
                                              float* maps, const PieceShift* piece_shift,
                                              PipelineCounters<Traits>* counters,
                                              unsigned chunks_before, float* probe) {
  const int m = static_cast<int>(threadIdx.x);
  const int x = piece.first_column - Traits::kMargin + m;
  const int chunks = piece_chunks<Traits>(p, piece);
  const int first_moment_row = first_staged_row<Traits>(piece) - Traits::kRadius;
  // Chunks below the last row with values get no more moments.
  const int moment_chunks =
      Traits::kGradient ? min(chunks, (p.value_bottom - first_moment_row + Traits::kChunkRows - 1) /
                                          Traits::kChunkRows)
                        : chunks;
  const bool is_needed = m < needed_columns<Traits>(piece);
  const bool has_value = is_needed && x >= p.value_left && x < p.value_right;
  const bool own = has_value && x >= piece.first_column && x < piece.end_column;
  const int own_top = max(piece.first_row, p.value_top);
  const int own_bottom = min(piece.end_row, p.value_bottom);
  ColumnJob job = {0.0f, 0.0f, nullptr, nullptr, x - p.value_left};
  if constexpr (Traits::kMap) {
    job.map = p.map == nullptr
                  ? nullptr
                  : p.map + (piece.batch * p.channels.divisor + piece.channel) * p.map_plane;
  }
  if constexpr (Traits::kWeighted) {
    job.weights = p.map_gradient.data + piece.batch * p.map_gradient.batch +
                  piece.channel * p.map_gradient.channel;
  }
  wait_for_previous_launch();
  const typename Traits::Window window(p);
  ColumnState<Traits> state;
  double total = 0.0;
  float* const columns = kept(maps + m * MapPlaces<Traits>::kColumn);
  const int pairing = m / (Traits::kColumns / PipelineCounters<Traits>::kPairings);
  uint64_t* filled = counters->filled[pairing];
  uint64_t* drained = counters->drained[pairing];
  const PieceShift& shift = piece_shift[Traits::kShiftsLate ? m / 32 : 0];
  MapSlot<Traits> map_slot(Traits::kMeets ? 0u : chunks_before);
  unsigned parity = meeting_parity<Traits>(chunks_before);
  if constexpr (!Traits::kRaw) {
    meet(counters, &parity);
    meet(counters, &parity);
  }
  WeightStream<Traits::kRowsAtOnce> weights;
  if constexpr (Traits::kWeighted) {
    weights.start(p, job, has_value, first_moment_row + Traits::kChunkRows);
  }
  const auto begin_chunk = [&] {
    if constexpr (Traits::kRaw) {
      wait_for_phase(&filled[map_slot.slot], map_slot.parity);
    } else if constexpr (Traits::kSplit) {
      wait_long_for_phase(&filled[map_slot.slot], map_slot.parity);
    }
  };
  const auto end_chunk = [&] {
    if constexpr (Traits::kMeets) {
      meet(counters, &parity);
    } else {
      arrive(&drained[map_slot.slot]);
    }
    map_slot.advance();
  };
#pragma unroll 1
  for (int chunk = 0; chunk < moment_chunks; ++chunk) {
    const int first_row = first_moment_row + chunk * Traits::kChunkRows;
    begin_chunk();
    float* column = columns + map_slot.slot * MapPlaces<Traits>::kChunk;
    if (chunk == 0) {
      job.shift_s = shift.means.s;
      job.shift_d = shift.means.d;
      if (!Traits::kGradient && Traits::kSpares && own_top == 0) {
        push_rows_above<Traits>(window, shift.pixels, state);
      }
    }
    if (Traits::kGradient || !Traits::kSpares ? chunk == 0
                                              : first_row + Traits::kChunkRows <= own_top) {
      push_column_rows<Traits>(window, column, state);
    } else if (!has_value) {
      if constexpr (Traits::kGradient) {
        if (is_needed) {
          clear_partials<Traits>(column);
        }
      }
    } else {
      float loss = 0.0f;
      if (first_row >= own_top && first_row + Traits::kChunkRows <= own_bottom) {
        loss = filter_column_rows<Traits, false>(p, job, first_row, own, 0u, 0u, weights, column,
                                                 state);
      } else {
        loss = filter_column_rows<Traits, true>(
            p, job, first_row, own, row_bits(first_row, p.value_top, p.value_bottom),
            row_bits(first_row, own_top, own_bottom), weights, column, state);
      }
      total += static_cast<double>(loss);
    }
    end_chunk();
  }
  if constexpr (Traits::kGradient) {
#pragma unroll 1
    for (int chunk = moment_chunks; chunk < chunks; ++chunk) {
      begin_chunk();
      float* column = columns + map_slot.slot * MapPlaces<Traits>::kChunk;
      if (has_value) {
        flush_partials<Traits>(window, column, state);
      } else if (is_needed) {
        clear_partials<Traits>(column);
      }
      end_chunk();
    }
  } else if (Traits::kSpares && has_value && own_bottom == p.height) {
    total += static_cast<double>(filter_last_rows<Traits>(
        p, job, shift.pixels, first_moment_row + chunks * Traits::kChunkRows, own_bottom, own_top,
        own, state));
  }
  *probe = state.probe;
  return total;
}

// What a block has to remember between pieces. In shared memory: while it works on one, registers
// are short.
struct PipelineProgress {
  int64_t unit;     // the first of the next piece
  int64_t value;    // that the sums belong to
  unsigned chunks;  // loaded so far
  bool is_last;     // the piece under way
};

template <class Traits>
struct PipelineShared {
  PipelineProgress progress;
  PipelineCounters<Traits> counters;
  PieceShift piece_shift[Traits::kRowWarps];                  // one, or one for each
  ValuedPixels valued[Traits::kRaw ? Traits::kRowWarps : 1];  // the same for each
  double totals[Traits::kThreads];                            // of f so far, a thread each
  WarpSums<Traits::kThreads / 32> warp_sums;
  WarpSums<Traits::kColumns / 32> column_sums;
  bool is_summed;
  PlaneRange own;  // kContains: of the piece
};

// The first row of `unit` of a strip; of the unit after the last, the first row after the strip.
__device__ __forceinline__ int row_of_unit(const StripParams& p, int unit) {
  const int row = unit == 0 ? 0 : max(unit - p.strip_change_rows, 0);
  return p.own_top + (unit == static_cast<int>(p.units_per_strip.divisor) ? p.own_rows : row);
}

// All pieces of a block, and its part of the sums.
template <class Traits>
__device__ __forceinline__ void run_pipeline(const StripParams& p) {
  extern __shared__ __align__(128) float shared_floats[];
  __shared__ PipelineShared<Traits> shared;
  float* staged = shared_floats;
  float* maps = staged + 2 * Traits::kImageStride;
  float* turns = maps + Traits::kMapSlots * MapPlaces<Traits>::kChunk;
  volatile PipelineProgress& progress = shared.progress;
  // Addressed anew each time: registers are short.
  const auto total = [&]()->volatile double& { return shared.totals[thread_index()]; };
  const ReductionPlan& plan = p.reduction;
  allow_next_launch();
  if (Traits::kBoxes && threadIdx.x == Traits::kThreads - 32) {
    prefetch(p.tensor1);
    prefetch(p.tensor2);
  }
  if (threadIdx.x == 0) {
    const int64_t unit = unit_begin(plan, blockIdx.x / p.channels_together);
    progress.unit = unit;
    progress.value = plan.values == 1 ? 0 : quotient(unit, plan.units_per_value);
    progress.chunks = 0;
    shared.counters.start();
    shared.is_summed = false;
  }
  total() = 0.0;
  __syncthreads();
#pragma unroll 1
  for (;;) {
    float probe = 0.0f;
    {
      const int64_t unit = progress.unit;
      const int64_t end = unit_begin(plan, blockIdx.x / p.channels_together + 1);
      if (unit >= end) {
        break;
      }
      const int64_t strip = quotient(unit, p.units_per_strip);
      const int64_t strip_begin = strip * p.units_per_strip.divisor;
      const int64_t next = min(end, strip_begin + p.units_per_strip.divisor);
      const int64_t plane = quotient(strip, p.strips_per_plane);
      const bool together = p.channels_together > 1;
      PipelinePiece piece;
      piece.batch = together ? plane : quotient(plane, p.channels);
      piece.channel =
          together ? blockIdx.x % p.channels_together : plane - piece.batch * p.channels.divisor;
      piece.first_column =
          p.own_left + static_cast<int>(strip - plane * p.strips_per_plane.divisor) * p.strip_width;
      piece.end_column = min(piece.first_column + p.strip_width, p.own_right);
      piece.first_row = row_of_unit(p, static_cast<int>(unit - strip_begin));
      piece.end_row = row_of_unit(p, static_cast<int>(next - strip_begin));
      const unsigned chunks_before = progress.chunks;
      __syncthreads();
      if (threadIdx.x == 0) {
        progress.unit = next;
        progress.is_last = next >= end;
        if constexpr (Traits::kContains) {
          shared.own = {piece.batch,   piece.channel,      piece.first_row,
                        piece.end_row, piece.first_column, piece.end_column};
        }
        if (piece.first_row < piece.end_row) {
          progress.chunks = chunks_before + static_cast<unsigned>(piece_chunks<Traits>(p, piece));
        }
      }
      if (piece.first_row < piece.end_row) {
        const auto run_row_warps = [&](auto with_l1) {
          constexpr bool kL1 = decltype(with_l1)::value;
          return run_rows<Traits, kL1>(p, piece, staged, maps, turns, shared.piece_shift,
                                       &shared.counters, chunks_before);
        };
        if (!Traits::is_row_warp()) {
          total() = fma(p.loss_weight,
                        run_columns<Traits>(p, piece, maps, shared.piece_shift, &shared.counters,
                                            chunks_before, &probe),
                        total());
          // The whole sum, while row warps store the last gradients.
          if (Traits::kSumsEarly && plan.fixed_point != 0.0 && !p.l1 && progress.is_last) {
            shared.column_sums.leave(plan, total());
            arrive(&shared.counters.summed);
            if (threadIdx.x < 32) {
              wait_for_phase(&shared.counters.summed, 0);
              add_to_sum<float>(plan, &shared.column_sums);
              shared.is_summed = true;
            }
          }
        } else if constexpr (Traits::kRaw) {
          run_raw_rows<Traits>(p, piece, staged, maps, shared.piece_shift, shared.valued,
                               &shared.counters, chunks_before,
                               [&](double l1) { total() = fma(p.l1_weight, l1, total()); });
        } else if (__builtin_expect(p.l1, false)) {
          total() = fma(p.l1_weight / (Traits::kGradient ? double{kPixelScale} : 1.0),
                        run_row_warps(std::true_type{}), total());
        } else {
          run_row_warps(std::false_type{});
        }
      }
    }
    if constexpr (Traits::kContains) {
      if (__syncthreads_or(!isfinite(probe))) {
        mend_outputs<Traits>(p, shared.own);
      }
    }
    __syncthreads();
    if (plan.value != nullptr && plan.fixed_point == 0.0) {
      const int64_t next = progress.unit;
      const int64_t value = progress.value;
      const int64_t next_value = plan.values == 1 ? 0 : quotient(next, plan.units_per_value);
      if (next_value != value || next >= unit_begin(plan, blockIdx.x / p.channels_together + 1)) {
        wait_for_previous_launch();  // the piece may have had no row
        // Row warps have sums of differences alone.
        if (Traits::kMse && p.squares) {
          store_partials_apart<Traits::kThreads>(plan, value, total());
        } else {
          store_partial<Traits::kThreads>(plan.partials, value, total());
        }
        total() = 0.0;
      }
      __syncthreads();
      if (threadIdx.x == 0) {
        progress.value = next_value;
      }
    }
  }
  wait_for_previous_launch();  // no piece may have had a row
  if (plan.fixed_point != 0.0) {
    if (!shared.is_summed) {
      add_to_sum<float>(plan, &shared.warp_sums, total());
    }
  } else if (plan.value != nullptr) {
    finish_reduction<Traits::kThreads, float, Traits::kMse>(plan);
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocksPerMultiprocessor)
    pipeline_kernel(const __grid_constant__ StripParams p) {
  if constexpr (Traits::kLaunched) {
    run_pipeline<Traits>(p);
  }
}

template <StripKind kKind, StripLoader kLoader, class Window, int kResident>
constexpr StripKernel march_entry() {
  using Traits = PipelineTraits<pipeline_columns(kKind), kKind, kLoader, Window, kResident>;
  return {pipeline_kernel<Traits>, Traits::kThreads, Traits::shared_bytes()};
}
template <StripKind kKind, StripLoader kLoader, class Window>
struct MarchEntry {
  static constexpr StripKernel entry() {
    return march_entry<kKind, kLoader, Window,
                       pipeline_blocks_per_multiprocessor(kKind, kLoader)>();
  }
};

template <class Window>
cudaError_t find_march_kernel(const DeviceFacts& device, StripKind kind, StripLoader loader,
                              bool single_block, StripKernel* found) {
  static constexpr auto kEntries = make_entries<Schedule::kMarch, MarchEntry, Window>();
  static LaunchCache caches[kEntries.size()];
  // For one block a multiprocessor, where that has an instance of its own.
  static constexpr StripKernel kSingleBlockEntries[] = {
      march_entry<StripKind::kValue, StripLoader::kFloatQuads, Window, 1>(),
      march_entry<StripKind::kValue,
                  Window::kIsGiven ? StripLoader::kFloatQuads : StripLoader::kHalfBoxes, Window,
                  1>(),
  };
  static LaunchCache single_block_caches[2];
  if (single_block && has_single_block_instance(kind, loader)) {
    const int index = loader == StripLoader::kHalfBoxes ? 1 : 0;
    *found = kSingleBlockEntries[index];
    return prepare(device, &single_block_caches[index], found);
  }
  const int index = entry_index(kind, loader);
  *found = kEntries[index];
  return prepare(device, &caches[index], found);
}

}  // namespace fused_ssim::cuda
