// SSIM for all that the fast kernels lack: long and asymmetric windows, float64, L2 terms, volumes,
// normalized masks. Two passes of one schedule:
//
//   moments   loads pixels and filters s, d, s^2, d^2: sums, map, and the partial derivatives,
//             which go to memory
//   gradient  loads the partial derivatives and filters them with the mirrored windows: gradients
//
//            columns of a strip, and those around them that the window needs
//           +-----------------------------------------+
//   stage   |  next rows of each input                |  asynchronous, while the columns before are
//           +-----------------------------------------+  filtered; pixels become s and d in place
//   rows    |       row by row, 8 columns a thread    |  four maps into a ring of rows
//           +-----------------------------------------+
//   columns |       8 rows of a column a thread       |  ring -> moments -> statistic -> outputs
//           +-----------------------------------------+
//
// A block marches down its strip in chunks of 16 rows (float64: 8, and 4 pixels a thread), with
// two barriers a chunk. Both filters are one function, whose window of inputs stays in registers: a
// tap costs as many multiply-adds as outputs and maps, and the load of one more input.
//
// Global memory per pixel of accumulation type T: the first pass reads both images and writes 3 T
// (4 T for both gradients) of partial derivatives, the second reads these and both images and
// writes the gradients.
#pragma once

#include "cuda/launches.h"
#include "cuda/reduction.cuh"
#include "cuda/separable.h"
#include "cuda/separable_passes.cuh"

namespace fused_ssim::cuda::separable {

// Shared memory, in the order of SeparableLayout.
template <class T>
struct Shared {
  T* row_taps;
  T* column_taps;
  T* staged;
  int staged_input;  // stride from input to input
  Ring<T> ring;
  double* sums;
  StagedPiece* piece;

  template <class Pass>
  static __device__ __forceinline__ Shared of(T* memory, const SeparableLayout& layout) {
    Shared shared;
    shared.row_taps = memory;
    shared.column_taps = shared.row_taps + layout.row_taps;
    shared.staged = shared.column_taps + layout.column_taps;
    shared.staged_input = kSeparableChunkRows<T> * layout.staged_pitch;
    shared.ring.cells =
        reinterpret_cast<Vector<T>*>(shared.staged + Pass::kInputs * shared.staged_input);
    shared.ring.pitch = layout.ring_pitch;
    shared.ring.size = layout.ring_rows * shared.ring.pitch;
    shared.ring.fifth = reinterpret_cast<T*>(
        shared.ring.cells + kSeparableMaps / kSeparableVector<T> * shared.ring.size);
    shared.sums = reinterpret_cast<double*>(shared.ring.fifth +
                                            (Pass::kMaps > kSeparableMaps ? shared.ring.size : 0));
    return shared;
  }
};

// Begins to copy `rows` rows from row `first` of the piece on to shared memory.
template <class T, class Pass>
__device__ __forceinline__ void stage_rows(const SeparableParams<T>& p, const Pass& pass, int first,
                                           int rows, const Shared<T>& shared) {
  const auto at = SeparableRow::of(p, *shared.piece, first);
  if (at.row < rows) {
    pass.stage(at, shared.staged + at.row * p.layout.staged_pitch, shared.staged_input);
  }
}

// What this thread has copied is there, and prepared.
template <class T, class Pass>
__device__ __forceinline__ void finish_staging(const SeparableParams<T>& p, const Pass& pass,
                                               int first, int rows, const Shared<T>& shared) {
  wait_for_copies();
  const auto at = SeparableRow::of(p, *shared.piece, first);
  if (at.row < rows) {
    pass.prepare(at, shared.staged + at.row * p.layout.staged_pitch, shared.staged_input);
  }
}

// Filters the first `rows` staged rows into the ring, from row `slot` of it on.
template <class T, class Pass>
__device__ __forceinline__ void filter_rows(const SeparableParams<T>& p, const Pass& pass, int rows,
                                            int slot, const Shared<T>& shared) {
  constexpr int kOutputs = kSeparableOutputs<T>;
  const int row = thread_index() % kSeparableChunkRows<T>;
  const int column = thread_index() / kSeparableChunkRows<T> * kOutputs;
  if (row >= rows || column >= p.layout.columns ||
      pass.piece.left + column >= p.own.left + p.own.columns) {
    return;
  }
  T filtered[Pass::kMaps][kOutputs];
  pass.filter_row(shared.row_taps, shared.staged + row * p.layout.staged_pitch + column,
                  shared.staged_input, filtered);
  slot += row;
  slot -= slot >= p.layout.ring_rows ? p.layout.ring_rows : 0;
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    T maps[Pass::kMaps];
#pragma unroll
    for (int m = 0; m < Pass::kMaps; ++m) {
      maps[m] = filtered[m][o];
    }
    shared.ring.store(slot * shared.ring.pitch + column + o, maps);
  }
}

// Filters down the columns, and finishes rows [top, top + rows). The first row of the first window
// is at `slot` in the ring.
template <class T, class Pass>
__device__ __forceinline__ void filter_columns(const SeparableParams<T>& p, const Pass& pass,
                                               int64_t top, int rows, int slot,
                                               const Shared<T>& shared, const ThreadSums& sums) {
  constexpr int kOutputs = kSeparableOutputs<T>;
  const int column = thread_index() & (p.layout.columns - 1);
  const int first = (thread_index() >> p.layout.column_bits) * kOutputs;
  const int64_t x = pass.piece.left + column;
  if (first >= rows || x < p.own.left || x >= p.own.left + p.own.columns) {
    return;
  }
  slot += first;
  slot -= slot >= p.layout.ring_rows ? p.layout.ring_rows : 0;
  const int count = min(kOutputs, rows - first);
  const auto pixels = pass.load(top + first, x, count);
  T filtered[Pass::kMaps][kOutputs];
  pass.filter_column(shared.column_taps, shared.ring, slot * shared.ring.pitch + column, filtered);
  pass.finish(top + first, x, count, filtered, pixels, sums);
}

template <class T, class Pass>
__device__ __forceinline__ void march(const SeparableParams<T>& p, Pass& pass,
                                      const Shared<T>& shared, const ThreadSums& sums) {
  constexpr int kChunkRows = kSeparableChunkRows<T>;
  const Piece& piece = pass.piece;
  const int ring_rows = p.layout.ring_rows;
  // Rows above the first window's last come first, so that each chunk of rows from then on
  // completes the windows of as many, which begin at a whole block of the ring.
  const int above = p.window_rows - 1;
  const int all_rows = piece.rows + above;
  int next_rows = min(above % kChunkRows != 0 ? above % kChunkRows : kChunkRows, all_rows);
  int rows = 0;  // of the chunk that is filtered along rows, up to row `done`
  int done = 0;
  int slot = 0;  // of the chunk's first row
  if (thread_index() == 0) {
    shared.piece->start(p, pass);
  }
  __syncthreads();
#pragma unroll 1
  for (;;) {
    if (next_rows > 0) {
      stage_rows(p, pass, done, next_rows, shared);
    }
    const int finished = done - rows - above;  // rows of the piece
    if (done == 0) {
      pass.start();
    } else if (finished >= 0) {
      const int first_slot = slot - above + (slot < above ? ring_rows : 0);
      filter_columns(p, pass, piece.top + finished, rows, first_slot, shared, sums);
    }
    if (next_rows <= 0) {
      return;
    }
    finish_staging(p, pass, done, next_rows, shared);
    __syncthreads();
    slot += rows;
    slot -= slot >= ring_rows ? ring_rows : 0;
    rows = next_rows;
    filter_rows(p, pass, rows, slot, shared);
    __syncthreads();
    done += rows;
    next_rows = min(kChunkRows, all_rows - done);
  }
}

template <class T, class Pass>
__global__ void __launch_bounds__(kThreads, Pass::kBlocks)
    separable_kernel(const __grid_constant__ SeparableParams<T> p) {
  extern __shared__ float4 shared_memory[];
  __shared__ StagedPiece staged_piece;
  Shared<T> shared = Shared<T>::template of<Pass>(reinterpret_cast<T*>(shared_memory), p.layout);
  shared.piece = &staged_piece;
  for (int i = threadIdx.x; i < p.layout.row_taps + p.layout.column_taps; i += kThreads) {
    shared.row_taps[i] = p.taps[i];  // the others follow
  }
  allow_next_launch();
  wait_for_previous_launch();
  const ReductionPlan& plan = p.sums[0];
  const int64_t end = unit_begin(plan, blockIdx.x + 1);
  int64_t unit = unit_begin(plan, blockIdx.x);
  const ThreadSums sums = {shared.sums};
  if constexpr (Pass::kHasSums) {
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      const bool has_carried = blockIdx.x == 0 && threadIdx.x == 0 && p.carried[i] != nullptr;
      sums[i] = has_carried ? *p.carried[i] : 0.0;
    }
  }
#pragma unroll 1
  while (unit < end) {
    const int64_t strip = quotient(unit, p.chunks_per_strip);
    const int64_t chunk = unit - strip * p.chunks_per_strip;
    const int64_t chunks = min(min(p.chunks_per_strip - chunk, end - unit), kMaxPieceChunks);
    const int64_t in_slab = quotient(strip, p.strips_per_plane);
    const int64_t plane = p.first_plane + in_slab;
    Pass pass{p, {}};
    Piece& piece = pass.piece;
    piece.batch = quotient(plane, p.channels);
    piece.channel = static_cast<int>(plane - piece.batch * p.channels);
    piece.left = p.strips_left + (strip - in_slab * p.strips_per_plane) * p.layout.columns;
    piece.top = p.own.top + chunk * kSeparableChunkRows<T>;
    piece.rows =
        static_cast<int>(min(chunks * kSeparableChunkRows<T>, p.own.top + p.own.rows - piece.top));
    march(p, pass, shared, sums);
    const int64_t next = unit + (piece.rows + kSeparableChunkRows<T> - 1) / kSeparableChunkRows<T>;
    if constexpr (Pass::kHasSums) {
      const int64_t value = quotient(unit, plan.units_per_value);
      const int64_t next_value = quotient(next, plan.units_per_value);
      if (value != next_value || next == end) {
#pragma unroll 1
        for (int i = 0; i < 2; ++i) {
          if (p.sums[i].value != nullptr) {
            store_partial<kThreads>(p.sums[i].partials, value, sums[i]);
          }
          sums[i] = 0.0;
        }
      }
    }
    unit = next;
  }
  if constexpr (Pass::kHasSums) {
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      if (p.sums[i].value != nullptr) {
        __syncthreads();  // all threads know whether their block was the last, the time before
        finish_reduction<kThreads, T, /*kHasMse=*/false, /*kDivides=*/true>(p.sums[i], p.carries);
      }
    }
  }
}

template <class T, class Pass>
cudaError_t launch(const SeparableParams<T>& params, int blocks, const DeviceFacts& device,
                   cudaStream_t stream) {
  void (*kernel)(const SeparableParams<T>) = separable_kernel<T, Pass>;
  // Always as much, whatever this launch needs: another thread may be between here and its launch.
  const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 device.shared_per_block - kSeparableStaticShared);
  return error != cudaSuccess ? error
                              : launch_kernel(kernel, params, blocks, kThreads,
                                              params.layout.shared_bytes, device, stream);
}

}  // namespace fused_ssim::cuda::separable
