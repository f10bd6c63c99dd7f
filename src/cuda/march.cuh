// SSIM sums, maps and gradients of large images with symmetric windows of up to 11 taps, in one pass,
// by warps of two kinds, on multiprocessors with 213 KB of shared memory for a block.
//
// A block owns strips of kColumns columns and marches down them in chunks of 8 rows. It has
// kColumns threads of each kind. With s = x + y - shift and d = x - y - shift (core/formula.h), a
// chunk goes through
//
//   row warps     load     global memory -> shared memory, by tensor maps, cp.async or through
//                          registers, a chunk ahead; pixels become s and d
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

#include "cuda/columns.cuh"
#include "cuda/containment.cuh"
#include "cuda/division.cuh"
#include "cuda/image_access.cuh"
#include "cuda/kernels.h"
#include "cuda/launches.h"
#include "cuda/loaders.cuh"
#include "cuda/march_gradient.cuh"
#include "cuda/pixel_shift.cuh"
#include "cuda/policy.h"
#include "cuda/reduction.cuh"
#include "cuda/shift.cuh"
#include "cuda/thread.cuh"
#include "cuda/window.cuh"

namespace fused_ssim::cuda {

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

// Row warps: one piece. Returns this thread's share of the L1 term.
template <class Traits, bool kL1>
__device__ __forceinline__ double run_rows(const StripParams& p, const MarchPiece& piece,
                                           float* staged, float* maps, float* turns,
                                           PieceShift* piece_shift, MarchCounters<Traits>* counters,
                                           unsigned chunks_before) {
  static_assert(!Traits::kStagesPixels, "run_raw_rows does that");
  unsigned parity = meeting_parity<Traits>(chunks_before);
  const char* plane1 = p.img1.data + piece.batch * p.img1.batch + piece.channel * p.img1.channel;
  const char* plane2 = p.img2.data + piece.batch * p.img2.batch + piece.channel * p.img2.channel;
  const int chunks = piece_chunks<Traits>(p, piece);
  int next_y = first_staged_row<Traits>(piece);  // of the chunk to be stored next
  MarchLoader<Traits> loader(p, piece, plane1, plane2, next_y, counters, chunks_before);
  const SamplePointers pointers = shift_samples<Traits>(p, piece, plane1, plane2);
  wait_for_previous_launch();
  constexpr int kLoadedBefore = Traits::kQuads ? 2 : 1;
#pragma unroll
  for (int i = 0; i < kLoadedBefore; ++i) {
    loader.load(p, staged + i * Traits::kSlotStride, i);
  }
  const Shift<float> means = trimmed_means<Traits::kMap>(
      pointers.template load<float, elements_of(Traits::kLoader)>(p.img1, p.img2));
  const PixelShift shift = PixelShift::of(means.x, means.y);
  const typename Traits::Window window(p);
  if (Traits::row_thread() % (Traits::kShiftsLate ? 32 : Traits::kColumns) == 0) {
    piece_shift[Traits::row_thread() / 32] = PieceShift::of<Traits::kMap>(window, shift);
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
  const float centre_bound =
      largest_centre<Traits>(p, piece.first_column - Traits::kMargin + 8 * group + 3);
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
  const auto weights = plane_weights<Traits>(p, piece.batch, piece.channel);
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
        filter_row_to_cells<Traits::kSkip, Traits::kMap>(
            window, Row{quads}, Row{quads + Traits::kImageStride}, shift, centre_bound, to);
      } else {
        filter_staged_row<Traits>(window, quads, quads + Traits::kImageStride, centre_bound, to);
      }
    }
  };
  MapSlot<Traits> map_slot((Traits::kHandover == Handover::kByBlock ? chunks_before : 0u) +
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
      if constexpr (Traits::kHandover == Handover::kByBlock) {
        arrive(&counters->filled[0][map_slot.below()]);
      }
    }
    if (chunk + 2 < chunks) {
      store(staged + next_slot * Traits::kSlotStride);
    }
    const bool all_meet = Traits::kHandover == Handover::kMeeting || (kStartsInLoop && chunk < 0);
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
__device__ __forceinline__ void run_raw_rows(const StripParams& p, const MarchPiece& piece,
                                             float* staged, float* maps, PieceShift* piece_shift,
                                             ValuedPixels* valued, MarchCounters<Traits>* counters,
                                             unsigned chunks_before, const AddL1& add_l1) {
  const char* plane1 = p.img1.data + piece.batch * p.img1.batch + piece.channel * p.img1.channel;
  const char* plane2 = p.img2.data + piece.batch * p.img2.batch + piece.channel * p.img2.channel;
  const int chunks = piece_chunks<Traits>(p, piece);
  const int first_y = first_staged_row<Traits>(piece);
  BoxLoader<Traits> loader(p, piece, plane1, plane2, first_y, counters, chunks_before);
  const SamplePointers pointers = shift_samples<Traits>(p, piece, plane1, plane2);
  wait_for_previous_launch();
  loader.load(p, staged + (chunks_before & 1u) * Traits::kSlotStride, 0);
  Shift<float> means = trimmed_means<Traits::kMap>(
      pointers.template load<float, elements_of(Traits::kLoader)>(p.img1, p.img2));
  if (Traits::kElement == 1) {  // then kOffset and the shift may be subtracted in one
    means = {rintf(means.x), rintf(means.y)};
  }
  const PixelShift shift = PixelShift::of(means.x, means.y);
  const typename Traits::Window window(p);
  const int thread = Traits::row_thread();
  const int warp = thread / 32;
  if (thread % 32 == 0) {
    piece_shift[warp] = PieceShift::of<Traits::kMap>(window, shift);
    valued[warp] = ValuedPixels::of(p, piece, first_y);
  }
  __syncwarp();
  const int row = thread % 8;
  const int group = thread / 8;
  static_assert(Traits::kParts == 1, "else groups lie in parts");
  const int first = 8 * group;
  const float centre_bound =
      largest_centre<Traits>(p, piece.first_column - Traits::kMargin + first + 3);
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
      filter_row_to_cells<Traits::kSkip, Traits::kMap>(
          window, row1, row2, staged_shift, centre_bound,
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

// Column warps: one piece. Returns this thread's sum of the losses of its own pixels.
template <class Traits>
__device__ __forceinline__ double run_columns(const StripParams& p, const MarchPiece& piece,
                                              float* maps, const PieceShift* piece_shift,
                                              MarchCounters<Traits>* counters,
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
  ColumnJob job = {0.0f, 0.0f, nullptr, nullptr, x - p.value_left, {}, {}};
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
  if constexpr (Traits::kHasMask) {
    job.mask = MaskPlane::of(p, piece.batch, piece.channel);
    job.stabilizers = stabilizers_of(p, piece.batch);
  }
  const typename Traits::Window window(p);
  ColumnState<Traits> state;
  double total = 0.0;
  float* const columns = kept(maps + m * MapPlaces<Traits>::kColumn);
  const int pairing = m / (Traits::kColumns / MarchCounters<Traits>::kPairings);
  uint64_t* filled = counters->filled[pairing];
  uint64_t* drained = counters->drained[pairing];
  const PieceShift& shift = piece_shift[Traits::kShiftsLate ? m / 32 : 0];
  MapSlot<Traits> map_slot(Traits::kHandover == Handover::kMeeting ? 0u : chunks_before);
  unsigned parity = meeting_parity<Traits>(chunks_before);
  if constexpr (Traits::kHandover != Handover::kByWarp) {
    meet(counters, &parity);
    meet(counters, &parity);
  }
  Weights<Traits> weights;
  start_weights<Traits>(p, job, has_value, first_moment_row + Traits::kChunkRows, weights);
  const auto begin_chunk = [&] {
    if constexpr (Traits::kHandover == Handover::kByWarp) {
      wait_for_phase(&filled[map_slot.slot], map_slot.parity);
    } else if constexpr (Traits::kHandover == Handover::kByBlock) {
      wait_long_for_phase(&filled[map_slot.slot], map_slot.parity);
    }
  };
  const auto end_chunk = [&] {
    if constexpr (Traits::kHandover == Handover::kMeeting) {
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
      push_column_rows<Traits>(p, window, first_row + Traits::kRadius, column, state);
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
struct MarchProgress {
  int64_t unit;     // the first of the next piece
  int64_t value;    // that the sums belong to
  unsigned chunks;  // loaded so far
  bool is_last;     // the piece under way
};

template <class Traits>
struct MarchShared {
  MarchProgress progress;
  MarchCounters<Traits> counters;
  PieceShift piece_shift[Traits::kRowWarps];                           // one, or one for each
  ValuedPixels valued[Traits::kStagesPixels ? Traits::kRowWarps : 1];  // the same for each
  double totals[Traits::kThreads];                                     // of f so far, a thread each
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
__device__ __forceinline__ void run_march(const StripParams& p) {
  extern __shared__ __align__(128) float shared_floats[];
  __shared__ MarchShared<Traits> shared;
  float* staged = shared_floats;
  float* maps = staged + 2 * Traits::kImageStride;
  float* turns = maps + Traits::kMapSlots * MapPlaces<Traits>::kChunk;
  volatile MarchProgress& progress = shared.progress;
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
    bool is_lost = false;  // kHasMask: the sum of this thread's column is no number
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
      MarchPiece piece;
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
          const auto run_column_warps = [&] {
            return run_columns<Traits>(p, piece, maps, shared.piece_shift, &shared.counters,
                                       chunks_before, &probe);
          };
          if constexpr (Traits::kHasMask) {
            const double loss = run_column_warps();
            is_lost = !isfinite(loss);
            if (!is_lost) {
              total() = fma(p.loss_weight, loss, total());
            }
          } else {
            total() = fma(p.loss_weight, run_column_warps(), total());
          }
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
        } else if constexpr (Traits::kStagesPixels) {
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
        if (Traits::kHasMask && is_lost) {
          total() = fma(
              p.loss_weight,
              loss_of_column<Traits>(
                  p, shared.own, shared.own.left - Traits::kMargin + static_cast<int>(threadIdx.x)),
              total());
        }
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
      add_to_sum<float, false, Traits::kHasMask>(plan, &shared.warp_sums, total());
    }
  } else if (plan.value != nullptr) {
    finish_reduction<Traits::kThreads, float, Traits::kMse, Traits::kHasMask>(plan);
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocksPerMultiprocessor)
    march_kernel(const __grid_constant__ StripParams p) {
  if constexpr (Traits::kLaunched) {
    run_march<Traits>(p);
  }
}

template <StripKind kKind, StripLoader kLoader, class Window, int kResident>
constexpr StripKernel march_entry() {
  using Traits = MarchTraits<march_columns(kKind), kKind, kLoader, Window, kResident>;
  return {march_kernel<Traits>, Traits::kThreads, Traits::shared_bytes()};
}
template <StripKind kKind, StripLoader kLoader, class Window>
struct MarchEntry {
  static constexpr StripKernel entry() {
    return march_entry<kKind, kLoader, Window, march_blocks_per_multiprocessor(kKind, kLoader)>();
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
