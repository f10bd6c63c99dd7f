// SSIM sums, maps and gradients of large images with symmetric windows of up to 11 taps, in one pass,
// by warps of two kinds.
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
//      row warps        R0      R1   G0 R2   G1 R3   G2 R4   ...      R, G: first and second filter
//      column warps             C0      C1      C2      C3   ...           along rows
//
// That is on multiprocessors with 213 KB of shared memory for a block (MarchLayout::kRoomy). Where there
// is less, a block has room for the maps of two chunks and the pixels of one: row warps store the gradient
// of a chunk, wait for each other, and filter the pixels two below it into the place of its partials; pixels
// come through registers, and s and d of a gradient's rows are read once more.
//
// So the two kinds share a multiprocessor's issue slots whatever each of them waits for, and row
// warps, which need few registers for long, have their loads under way early. For a gradient one
// block has a multiprocessor for itself, and half as many rows above and below its range are
// computed twice as by two blocks that share one.
//
// A slot of shared memory passes from row warps to column warps and back. How they wait for each
// other:
//
//   values and maps  each row warp hands its slots to a column warp of its own and gets them back,
//   of boxes         under counters in shared memory. Pixels are staged as they are, narrow ones
//                    too, and made s and d while they are filtered.
//   other values,    all threads meet after each chunk: while the column warps have chunk c, the
//   gradients        row warps store the gradient of c - 1, filter c + 1 and stage c + 2
//   ... of words     the same, but under counters of all threads: column warps begin as soon as c +
//                    1 is filtered
//   with less room   all threads meet after each chunk, at barriers of the block
//
// Above and below an image nobody needs moments, and all rows are alike. So a gradient's strip
// begins 6 rows above the image instead of 10, and below the last row with values column warps only
// give out what their filters hold; values begin with the first row and may end up to two rows
// early, but for those in three blocks a multiprocessor.
//
// Rows in shared memory are an odd number of quads (16 bytes) apart: lanes that read quads of eight
// rows and lanes that read neighbouring columns both meet no bank conflicts.
//
// Global memory per float32 pixel: 8 B read (with less room 16 for a gradient, half of it out of L2),
// and 4 B written a gradient image; nothing else, but
// for the halos, which come from L2: 22 to 24 columns a strip and 20 rows a range (10 to 20 and 10 for
// values alone) but at an image's border.
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
#include "cuda/march_rows.cuh"
#include "cuda/policy.h"
#include "cuda/reduction.cuh"
#include "cuda/thread.cuh"
#include "cuda/window.cuh"

namespace fused_ssim::cuda {

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
  wait_for_inputs(p);
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
    if constexpr (Traits::kKeepsPixels) {
      meet(counters, &parity);
    }
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
    if constexpr (Traits::kKeepsPixels) {
      shared.counters.start();
    }
    shared.is_summed = false;
  }
  total() = 0.0;
  __syncthreads();
#pragma unroll 1
  for (;;) {
    float probe = 0.0f;
    bool is_lost = false;  // kHasMask, kContains: the sum of this thread's column is no number
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
            if (!Traits::kContains || !is_lost) {
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
        wait_for_inputs(p);  // the piece may have had no row
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
  wait_for_previous_launch();  // no piece may have had a row, and none has waited in a group
  if (plan.fixed_point != 0.0) {
    if (!shared.is_summed) {
      add_to_sum<float, false, Traits::kHasMask>(plan, &shared.warp_sums, total());
    }
  } else if (plan.value != nullptr) {
    finish_reduction<Traits::kThreads, float, Traits::kMse, Traits::kHasMask>(plan);
  }
}

// On the smallest of the multiprocessors that a layout is for; each block takes 1 KB more there.
template <class Traits>
constexpr bool fits_shared_memory() {
  constexpr int kAll = Traits::kLayout == MarchLayout::kRoomy     ? 227
                       : Traits::kLayout == MarchLayout::kCompact ? 96
                                                                  : 64;
  return Traits::shared_bytes() + static_cast<int>(sizeof(MarchShared<Traits>)) <= 1024 * kAll;
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocksPerMultiprocessor)
    march_kernel(const __grid_constant__ StripParams p) {
  if constexpr (Traits::kLaunched) {
    run_march<Traits>(p);
  }
}

template <MarchLayout kLayout, StripKind kKind, StripLoader kLoader, class Window, int kResident>
constexpr StripKernel march_entry() {
  using Traits = MarchTraits<kLayout, kKind, kLoader, Window, kResident>;
  static_assert(fits_shared_memory<Traits>(), "one block");
  return {march_kernel<Traits>, Traits::kThreads, Traits::shared_bytes()};
}
template <MarchLayout kLayout>
struct MarchEntries {
  template <StripKind kKind, StripLoader kLoader, class Window>
  struct Entry {
    static constexpr StripKernel entry() {
      return march_entry<kLayout, kKind, kLoader, Window,
                         march_blocks_per_multiprocessor(kLayout, kKind, kLoader)>();
    }
  };
  static constexpr Schedule kSchedule =
      kLayout == MarchLayout::kRoomy ? Schedule::kMarch : Schedule::kCompactMarch;

  template <class Window>
  static cudaError_t find(const DeviceFacts& device, StripKind kind, StripLoader loader,
                          StripKernel* found) {
    static constexpr auto kEntries = make_entries<kSchedule, Entry, Window>();
    static LaunchCache caches[kEntries.size()];
    const int index = entry_index(kind, loader);
    *found = kEntries[index];
    return prepare(device, &caches[index], found);
  }
};

template <class Window>
cudaError_t find_march_kernel(const DeviceFacts& device, StripKind kind, StripLoader loader,
                              bool single_block, StripKernel* found) {
  // For one block a multiprocessor, where that has an instance of its own.
  constexpr auto kRoomy = MarchLayout::kRoomy;
  static constexpr StripKernel kSingleBlockEntries[] = {
      march_entry<kRoomy, StripKind::kValue, StripLoader::kFloatQuads, Window, 1>(),
      march_entry<kRoomy, StripKind::kValue,
                  Window::kIsGiven ? StripLoader::kFloatQuads : StripLoader::kHalfBoxes, Window,
                  1>(),
  };
  static LaunchCache single_block_caches[2];
  const MarchLayout layout = march_layout(device.architecture);
  if (single_block && has_single_block_instance(layout, kind, loader)) {
    const int index = loader == StripLoader::kHalfBoxes ? 1 : 0;
    *found = kSingleBlockEntries[index];
    return prepare(device, &single_block_caches[index], found);
  }
  switch (layout) {
    case kRoomy:
      return MarchEntries<kRoomy>::find<Window>(device, kind, loader, found);
    case MarchLayout::kNarrow:
      return MarchEntries<MarchLayout::kNarrow>::find<Window>(device, kind, loader, found);
    default:
      return MarchEntries<MarchLayout::kCompact>::find<Window>(device, kind, loader, found);
  }
}

}  // namespace fused_ssim::cuda
