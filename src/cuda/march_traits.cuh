// What the parts of the marching kernels share: sizes, shared memory, counters, pieces of strips.
#pragma once

#include <type_traits>

#include "cuda/filters.cuh"
#include "cuda/image_access.cuh"
#include "cuda/pixel_shift.cuh"
#include "cuda/policy.h"
#include "cuda/shift.cuh"
#include "cuda/thread.cuh"

namespace fused_ssim::cuda {

// How row warps and column warps hand slots of maps to each other.
enum class Handover {
  kByWarp,   // each row warp to a column warp of its own and back, under counters of these two
  kByBlock,  // all row warps to all column warps and back, under counters of the block: column
             // warps begin as soon as a chunk is there
  kMeeting,  // all warps meet after each chunk
};

template <MarchLayout kLayout_, StripKind kKind_, StripLoader kLoader_, class Window_,
          int kResident>
struct MarchTraits : KindTraits<kKind_, Window_> {
  using Kind = KindTraits<kKind_, Window_>;
  using Kind::kGradient, Kind::kHasMask, Kind::kKind, Kind::kMap, Kind::kMse, Kind::kNormalized,
      Kind::kPartialMaps, Kind::kTwo, Kind::kWeighted;
  using typename Kind::Window;
  static constexpr MarchLayout kLayout = kLayout_;
  static constexpr int kColumns = march_columns(kLayout, kKind);
  // Whether a gradient's pixels stay in shared memory until it is stored; else a chunk's give way to
  // those of the next, and a gradient reads them once more.
  static constexpr bool kKeepsPixels = kLayout == MarchLayout::kRoomy;
  static constexpr int kChunkRows = 8;
  static constexpr StripLoader kLoader = kLoader_;
  static constexpr bool kHalfWords = kLoader == StripLoader::kHalfWords;
  static constexpr bool kAnyWords = kLoader == StripLoader::kAnyWords;
  static constexpr bool kQuads = kLoader != StripLoader::kWords && !kHalfWords && !kAnyWords;
  static constexpr bool kBoxes = marches_by_boxes(kLayout, kLoader);
  static constexpr int kElement = box_element(kLoader);  // in shared memory
  static_assert(kElement == 4 || kKind == StripKind::kValue, "others need s and d once more");
  // Rows of the column warps' code at once: more would be longer than the instruction cache likes,
  // beside that of the row warps. H200, 1x3x1080x1920, us: both gradients with 2 rows 78.9, 4 81.6, 8
  // 82.8; one gradient with room for one chunk's pixels 2 85.9, 4 83.4, 8 82.4, channels_last 4 96.9, 8
  // 99.3, of a map 2 123, 4 95, 8 111.
  static constexpr int kRowsAtOnce =
      kMap && Window::kIsGiven                                           ? 4
      : !kGradient                                                       ? 8
      : kKind == StripKind::kTwoGradients || kKind == StripKind::kMasked ? 2
      : kQuads && !kKeepsPixels && !kWeighted                            ? 8
                                                                         : 4;
#if defined(__CUDA_ARCH__)
  static constexpr bool kLaunched = march_layout(__CUDA_ARCH__ / 10) == kLayout;
#else
  static constexpr bool kLaunched = false;
#endif

  // Raw pixels are staged where the windows' filter makes s and d of them: of boxes, which need no
  // registers on their way, and where s and d are not needed once more.
  static constexpr bool kStagesPixels = kBoxes && !kGradient;
  // Whether the filter shifts pixels that are staged as they are: then each warp's columns may have a
  // shift of their own, and are more exact the nearer it is to them. A map shows the error of each
  // single window; in sums and gradients errors average out.
  static constexpr bool kShiftsLate = kStagesPixels || kMap;
  // Raw pixels need no meeting. Where single pixels go through the registers of row warps and back,
  // these have more to do than column warps, which then do not wait for the end of it.
  static constexpr Handover kHandover = kStagesPixels                          ? Handover::kByWarp
                                        : !kQuads && kGradient && kKeepsPixels ? Handover::kByBlock
                                                                               : Handover::kMeeting;

  // Whether column warps add up the values while row warps store the last gradients. For others
  // than boxes registers are short.
  static constexpr bool kSumsEarly = kGradient && kBoxes && !kWeighted && !kHasMask;

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
  static constexpr int kStagedSlots = !kKeepsPixels ? 1 : kGradient ? 6 : 2;
  static constexpr int kSlotStride = kParts * kPartStride;
  static constexpr int kImageStride = kStagedSlots * kSlotStride;
  static constexpr int kMapSlots = kKeepsPixels && (kStagesPixels || kGradient) ? 3 : 2;
  static_assert(kStagedPitch % 8 == 4, "an odd number of quads");
  // Where gradients are stored one column at a time, each row warp turns its 8 rows x 32 columns
  // here.
  static constexpr int kTurnPitch = 36;
  static constexpr int kTurnStride = kGradient && !kQuads ? kChunkRows * kTurnPitch : 0;
  static constexpr int shared_bytes() {
    return 4 * (2 * kImageStride + kMapSlots * MapPlaces<MarchTraits>::kChunk +
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
struct MarchCounters {
  static constexpr int kPairings = Traits::kHandover == Handover::kByWarp ? Traits::kRowWarps : 1;
  uint64_t loaded[2];                             // the bytes of a chunk have come
  uint64_t emptied[2];                            // kStagesPixels: all row warps have read it
  uint64_t met;                                   // else: all threads have come
  uint64_t summed;                                // all column warps have left their sums
  uint64_t filled[kPairings][Traits::kMapSlots];  // by row warps
  uint64_t drained[kPairings]
                  [Traits::kMapSlots];  // by column warps; kByBlock: and staged by row warps

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
        start_counting(&drained[pairing][slot], Traits::kHandover == Handover::kByWarp
                                                    ? Traits::kColumns / kPairings
                                                    : Traits::kThreads);
      }
    }
    order_counters();
  }
};

// All threads of the block meet, each kind in code of its own; `parity` is that of the meetings
// before.
template <class Traits>
__device__ __forceinline__ void meet(MarchCounters<Traits>* counters, unsigned* parity) {
  if constexpr (!Traits::kKeepsPixels) {
    __syncthreads();  // before Hopper mbarriers are slow or missing
    return;
  }
  arrive(&counters->met);
  wait_long_for_phase(&counters->met, *parity);
  *parity ^= 1u;
}
// Row warps alone meet.
template <class Traits>
__device__ __forceinline__ void meet_row_warps() {
  asm volatile("bar.sync 1, %0;" ::"n"(Traits::kColumns) : "memory");
}
// Before a piece: two meetings begin it and, with kMeeting, one follows each chunk.
template <class Traits>
__device__ __forceinline__ unsigned meeting_parity(unsigned chunks_before) {
  return Traits::kHandover == Handover::kMeeting ? chunks_before & 1u : 0u;
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
struct MarchPiece {
  int64_t batch;
  int64_t channel;
  int first_column;  // X0
  int end_column;    // of the own columns
  int first_row;     // own rows
  int end_row;
};

// The first row that is staged.
template <class Traits>
__device__ __forceinline__ int first_staged_row(const MarchPiece& piece) {
  return piece.first_row - Traits::kLeadRows + (piece.first_row == 0 ? Traits::kSparedLeadRows : 0);
}
// The last rows of values of an image may do without a chunk of rows below it (filter_last_rows()).
template <class Traits>
__device__ __forceinline__ int piece_chunks(const StripParams& p, const MarchPiece& piece) {
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

  template <bool kMap, class Window>
  static __device__ __forceinline__ PieceShift of(const Window& window, const PixelShift& shift) {
    return {shift, MeanShift::of<kMap ? Centred::kSums : Centred::kNone>(window, shift)};
  }
};

// The pixels of a piece that have a value: rows from the first that is staged on, columns from the
// first own one on. In shared memory.
struct ValuedPixels {
  int first_row;
  int end_row;
  int first_column;
  int end_column;

  static __device__ __forceinline__ ValuedPixels of(const StripParams& p, const MarchPiece& piece,
                                                    int first_staged) {
    return {max(piece.first_row, p.value_top) - first_staged,
            min(piece.end_row, p.value_bottom) - first_staged,
            max(0, p.value_left - piece.first_column),
            min(piece.end_column, p.value_right) - piece.first_column};
  }
};

// Columns of moments that somebody needs.
template <class Traits>
__device__ __forceinline__ int needed_columns(const MarchPiece& piece) {
  return piece.end_column - piece.first_column + 2 * Traits::kMargin;
}

// Where the pixels lie that the shift of a row warp's columns is taken from: its own, or all of the piece.
struct SampleArea {
  int top;
  int bottom;
  int left;
  int right;

  template <class Traits>
  static __device__ __forceinline__ SampleArea of(const StripParams& p, const MarchPiece& piece) {
    int left = piece.first_column;
    int right = piece.end_column;
    if constexpr (Traits::kShiftsLate) {
      left = min(left + Traits::row_thread() / 32 * 32, right - 1);
      right = min(left + 32, right);
    }
    return {max(0, piece.first_row - Traits::kRadius),
            min(p.height, piece.end_row + Traits::kRadius), max(0, left - Traits::kRadius),
            min(p.width, right + Traits::kRadius)};
  }
};
template <class Traits>
__device__ __forceinline__ SamplePointers shift_samples(const StripParams& p,
                                                        const MarchPiece& piece, const char* plane1,
                                                        const char* plane2) {
  const SampleArea area = SampleArea::of<Traits>(p, piece);
  return SamplePointers::of(plane1, plane2, p.img1, p.img2, area.top, area.bottom, area.left,
                            area.right);
}

}  // namespace fused_ssim::cuda
