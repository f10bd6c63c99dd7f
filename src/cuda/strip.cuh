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
// A warp filters the rows of its own 32 columns, so without a gradient it waits for nobody between
// the row and the column phase, and a chunk has one block barrier, before pixels that other warps
// have made s and d. A gradient's chunk has three: its row phase reads partials of the warp to the
// right, and moments take the place of partials.
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
#include "cuda/strip_loader.cuh"
#include "cuda/thread.cuh"
#include "cuda/window.cuh"

namespace fused_ssim::cuda {

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
  ColumnJob job = {piece.mean_shift_s, piece.mean_shift_d, nullptr, nullptr, 0, {}, {}};
  int first = 0;
  if (Traits::kMap || Traits::kWeighted || Traits::kHasMask || !plain) {
    first = piece.rows.x - Traits::kLeadRows - Traits::kRadius + chunk * Traits::kChunkRows;
    job.map_column = static_cast<int>(threadIdx.x) - piece.columns.x;
  }
  if constexpr (Traits::kMap) {
    job.map = piece.map;
  }
  if constexpr (Traits::kWeighted) {
    job.weights = piece.weights;
  }
  if constexpr (Traits::kHasMask) {
    job.mask = {piece.mask.first, piece.mask.inverse};
    job.stabilizers = {piece.stabilizers.c1, piece.stabilizers.c2};
  }
  const bool own = (flags & kIsOwn) != 0;
  Weights<Traits> weights;
  start_weights<Traits>(p, job, true, first, weights);
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
      const auto finish = [&](const auto& weights) {
        return finish_with_l1<Traits>(p, weights, {piece.plane1, piece.plane2}, equal, y, x,
                                      columns - 8 * group, own, first, second);
      };
      float sum = 0.0f;
      if constexpr (Traits::kHasMask) {
        sum = finish(MaskPlane{piece.mask.first, piece.mask.inverse});
      } else {
        const char* weights = piece.weights;
        sum = finish(weights);
      }
      *total = fma(p.l1_weight / kPixelScale, static_cast<double>(sum), *total);
    } else {
      float scale = p.gradient_scale;
      if constexpr (Traits::kHasMask) {
        scale *= piece.mask.inverse;
      }
      scale_gradients<Traits>(scale, first, second);
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
  if constexpr (Traits::kHasMask) {
    piece->mask = MaskPlane::of(p, batch, channel);
    piece->stabilizers = stabilizers_of(p, batch);
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
    reconverge();
    const Shift<float> means = trimmed_means<Traits::kMap>(samples);
    if (threadIdx.x == 0) {
      const PixelShift shift = PixelShift::of(means.x, means.y);
      piece.shift_x = shift.x;
      piece.shift_y = shift.y;
      const MeanShift mean_shift = MeanShift::of<Traits::kMap ? Centred::kSums : Centred::kNone>(
          typename Traits::Window(p), shift);
      piece.mean_shift_s = mean_shift.s;
      piece.mean_shift_d = mean_shift.d;
    }
  }
  __syncthreads();
  {
    const int column = static_cast<int>(threadIdx.x);
    shared.columns[threadIdx.x] =
        (column >= piece.columns.x && column < piece.columns.y ? kHasValue : 0u) |
        (column >= piece.columns.z && column < piece.columns.w ? kIsOwn : 0u);
  }

  ColumnState<Traits> state;
  double masked_loss = 0.0;  // kHasMask: of the piece's column
  constexpr bool kOneSlot = Traits::kStagedRows == Traits::kChunkRows;
#pragma unroll 1
  for (int chunk = 0;; ++chunk, ++count) {
    // What the chunk needs to know is read before the barrier that it begins with.
    const StripPiece::Control control = read_shared(piece.control);
    if (chunk < control.chunks) {
      convert_chunk<Traits>(p, piece, chunk, count, slot(chunk), shared.loaded, total);
    }
    __syncthreads();
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
      const int fourth_column = Traits::kMap ? piece.first_column - Traits::kMargin +
                                                   Traits::kGroupColumns * place.group + 3
                                             : 0;
      filter_staged_row<Traits>(typename Traits::Window(p), quads, quads + Traits::kImageStride,
                                largest_centre<Traits>(p, fourth_column), map);
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
      push_column_rows<Traits>(p, typename Traits::Window(p),
                               Traits::kMap ? piece.rows.x - Traits::kLeadRows : 0, column, state);
    } else {
      loss = filter_columns<Traits>(p, piece, flags, plain, chunk, column, state);
    }
    if constexpr (Traits::kHasMask) {
      masked_loss += static_cast<double>(loss);
    } else {
      *total = fma(p.loss_weight, static_cast<double>(loss), *total);
    }
  }
  if constexpr (Traits::kContains) {
    if (__syncthreads_or(!isfinite(state.probe))) {
      mend_outputs<Traits>(p, piece.own);
      if (Traits::kHasMask && !isfinite(masked_loss)) {
        masked_loss = loss_of_column<Traits>(
            p, piece.own, piece.own.left - Traits::kFirstOwn + static_cast<int>(threadIdx.x));
      }
    }
  }
  if constexpr (Traits::kHasMask) {
    *total = fma(p.loss_weight, masked_loss, *total);
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
    add_to_sum<float, false, Traits::kHasMask>(plan, &shared.warp_sums, shared.totals[threadIdx.x]);
  } else if (plan.value != nullptr) {
    finish_reduction<Traits::kThreads, float, false, Traits::kHasMask>(plan);
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
