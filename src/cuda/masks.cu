// What is done with masks before and after the other kernels.
//
// Before: the sums of a mask over the pixels of each value, since gradients are written once,
// divided by these. In float64, in an order that the sizes fix. Planes that are the same memory are
// read once. A mask of bytes is left in bits on the way, for kernels of the kind "masked" (mask.cuh).
// After: maps of kernels without a mask become 1 where it is 0.
#include <algorithm>

#include "cuda/launches.h"
#include "cuda/mask.cuh"
#include "cuda/reduction.cuh"
#include "cuda/requests.h"

namespace fused_ssim::cuda {
namespace {

constexpr int kThreads = 256;
// A thread takes so many rows of a column at a time: a cell.
constexpr int kRows = kMaskBitRows;
// Blocks for all planes together where each plane has one at least: as many as run at once on large
// GPUs, so that none waits for another to end.
constexpr int64_t kMostParts = 512;
constexpr int64_t kMostBlocks = 1 << 16;

// A cell of a plane, among those of pixels that have a value.
struct Position {
  int64_t slice;
  int64_t row;  // of cells
  int64_t column;
};

struct MaskSumParams {
  InputImage mask;    // from the first pixel that has a value on
  int64_t slice = 0;  // stride in bytes
  Position sizes = {};
  Position step = {};    // kThreads cells
  int64_t rows = 1;      // of pixels
  int64_t channels = 1;  // planes that are memory of their own
  int64_t planes = 1;
  int64_t parts = 1;  // of a plane, each one block's
  int64_t part_cells = 1;
  int64_t cells = 1;     // of a plane
  char* bits = nullptr;  // of the first cell; null: not wanted
  int64_t bits_row = 0;  // strides
  int64_t bits_plane = 0;
  double* partials = nullptr;  // [planes, parts]; null: sums are not wanted
  void* sums = nullptr;        // [values], accumulation type
  int64_t values = 1;
  int64_t values_per_batch = 1;  // of several values: the channels, or 1
  double copies = 1.0;           // how often a value has each of its planes
  unsigned counter_slot = 0;
};

Position position_of(int64_t cell, const Position& sizes) {
  const int64_t row = cell / sizes.column;
  return {row / sizes.row, row % sizes.row, cell % sizes.column};
}
// The same by quotient().
__device__ __forceinline__ Position position_in_32_bits(int64_t cell, const Position& sizes) {
  const int64_t row = quotient(cell, sizes.column);
  const int64_t slice = quotient(row, sizes.row);
  return {slice, row - slice * sizes.row, cell - row * sizes.column};
}

// The sum over every kThreads-th cell of a part, from cell `first` on.
template <class T, class Element>
__device__ __forceinline__ double sum_of_part(const MaskSumParams& p, const char* plane, char* bits,
                                              int64_t first, int64_t end) {
  const MaskNumber<T> number = {p.mask.dtype};
  Position at = position_in_32_bits(first, p.sizes);
  double sum = 0.0;
#pragma unroll 1
  for (int64_t cell = first; cell < end; cell += kThreads) {
    const char* element =
        plane + at.slice * p.slice + at.row * (kRows * p.mask.row) + at.column * p.mask.column;
    const int64_t rows = p.rows - at.row * kRows;
    Element elements[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      elements[i] = Element(0);
      if (i < rows) {
        elements[i] = __ldg(reinterpret_cast<const Element*>(element + i * p.mask.row));
      }
    }
    if constexpr (sizeof(Element) == 1) {
      unsigned set = 0u;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        set |= elements[i] != 0 ? 1u << i : 0u;
      }
      if (bits != nullptr) {
        bits[at.row * p.bits_row + at.column] = static_cast<char>(set);
      }
      sum += __popc(set);
    } else {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        sum += static_cast<double>(number(elements[i]));
      }
    }
    at.column += p.step.column;
    const bool next_row = at.column >= p.sizes.column;
    at.column -= next_row ? p.sizes.column : 0;
    at.row += p.step.row + (next_row ? 1 : 0);
    const bool next_slice = at.row >= p.sizes.row;
    at.row -= next_slice ? p.sizes.row : 0;
    at.slice += p.step.slice + (next_slice ? 1 : 0);
  }
  return sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    mask_sums_kernel(const __grid_constant__ MaskSumParams p) {
  __shared__ bool is_last;
  wait_for_previous_launch();
  const int64_t items = p.planes * p.parts;
#pragma unroll 1
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t plane = quotient(item, p.parts);
    const int64_t batch = quotient(plane, p.channels);
    const int64_t first = (item - plane * p.parts) * p.part_cells;
    const char* data =
        p.mask.data + batch * p.mask.batch + (plane - batch * p.channels) * p.mask.channel;
    char* bits = p.bits == nullptr ? nullptr : p.bits + plane * p.bits_plane;
    const int64_t end = min(first + p.part_cells, p.cells);
    double sum = 0.0;
    visit_mask_type(p.mask.dtype, [&](auto zero) {
      sum = sum_of_part<T, decltype(zero)>(p, data, bits, first + threadIdx.x, end);
    });
    const double total = block_sum<kThreads>(sum);
    if (threadIdx.x == 0 && p.partials != nullptr) {
      p.partials[item] = total;
    }
  }
  // Not before: all blocks run at once, and those of the next launch would begin beside the last of the
  // launch before. H200, a value of the separable kernels at 1x3x1080x1920: 117 us, and 81 so.
  allow_next_launch();
  if (p.partials == nullptr) {
    return;
  }
  if (threadIdx.x == 0) {
    __threadfence();
    auto* count = reinterpret_cast<unsigned*>(&finished_blocks[p.counter_slot]);
    is_last = atomicInc(count, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) {
    return;
  }
  __threadfence();
  T* sums = static_cast<T*>(p.sums);
  const auto add_up = [&](const double* partials, int64_t count, int64_t first, int64_t step) {
    double sum = 0.0;
#pragma unroll 4
    for (int64_t i = first; i < count; i += step) {
      sum += __ldcg(partials + i);
    }
    return sum;
  };
  if (p.values == 1) {
    const double sum = block_sum<kThreads>(add_up(p.partials, items, threadIdx.x, kThreads));
    if (threadIdx.x == 0) {
      sums[0] = static_cast<T>(p.copies * sum);
    }
    return;
  }
  // A warp for each value, or a thread where there is little to add up.
  const int64_t batches = quotient(p.planes, p.channels);
  const int64_t planes_per_value = p.values_per_batch > 1 ? 1 : p.channels;
  const int64_t count = planes_per_value * p.parts;
  const bool by_warps = count > 32;
  const int lane = by_warps ? lane_index() : 0;
  const int workers = by_warps ? kThreads / 32 : kThreads;
#pragma unroll 1
  for (int64_t value = by_warps ? threadIdx.x / 32 : threadIdx.x; value < p.values;
       value += workers) {
    const int64_t batch = quotient(value, p.values_per_batch);
    const int64_t channel = value - batch * p.values_per_batch;
    const int64_t plane = (batches > 1 ? batch : 0) * p.channels + (p.channels > 1 ? channel : 0);
    double sum = add_up(p.partials + plane * p.parts, count, lane, by_warps ? 32 : 1);
    sum = by_warps ? warp_sum(sum) : sum;
    if (lane == 0) {
      sums[value] = static_cast<T>(p.copies * sum);
    }
  }
}

struct MaskMapParams {
  InputImage mask;  // from the first pixel that has a value on
  Divisor channels;
  Divisor rows;
  Divisor columns;
  int64_t elements = 0;
  float* map = nullptr;  // [planes, rows, columns]
};

__global__ void __launch_bounds__(kThreads)
    mask_map_kernel(const __grid_constant__ MaskMapParams p) {
  allow_next_launch();
  wait_for_previous_launch();
  visit_mask_type(p.mask.dtype, [&](auto zero) {
    using Element = decltype(zero);
    const MaskNumber<float> number = {p.mask.dtype};
    const int64_t step = int64_t{gridDim.x} * kThreads;
#pragma unroll 4
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < p.elements; i += step) {
      const int64_t row = quotient(i, p.columns);
      const int64_t plane = quotient(row, p.rows);
      const int64_t batch = quotient(plane, p.channels);
      const char* element = p.mask.data + batch * p.mask.batch +
                            (plane - batch * p.channels.divisor) * p.mask.channel +
                            (row - plane * p.rows.divisor) * p.mask.row +
                            (i - row * p.columns.divisor) * p.mask.column;
      if (!(number(__ldg(reinterpret_cast<const Element*>(element))) > 0.0f)) {
        p.map[i] = 1.0f;
      }
    }
  });
}

// Of a plane.
Position cells_of(const Problem& problem) {
  return {map_size(problem, kDepth), ceil_divide(map_size(problem, kHeight), kRows),
          map_size(problem, kWidth)};
}
int64_t cell_count(const Problem& problem) {
  const Position cells = cells_of(problem);
  return cells.slice * cells.row * cells.column;
}
int64_t parts_of_plane(const Problem& problem) {
  const int64_t wanted = ceil_divide(cell_count(problem), kThreads);
  return std::clamp<int64_t>(kMostParts / distinct_mask_planes(problem), 1, wanted);
}
int64_t sums_bytes(const Problem& problem, int32_t reduction) {
  return round_up(value_count(reduction, problem.sizes) * size_of(accumulation_dtype(problem)),
                  256);
}

// The mask from the first pixel that has a value on; of volumes in slice 0.
InputImage mask_of_values(const Problem& problem) {
  auto mask = bytes_of<const char>(problem.mask);
  mask.data += crop(problem, kHeight) * mask.row + crop(problem, kWidth) * mask.column;
  return mask;
}

}  // namespace

int64_t mask_sums_bytes(const Problem& problem, const Request& request) {
  if (!has_mask(problem) || problem.mask_sums != nullptr || !wants_divisor(request)) {
    return 0;
  }
  const int64_t partials = distinct_mask_planes(problem) * parts_of_plane(problem);
  return sums_bytes(problem, request.reduction) +
         round_up(partials * static_cast<int64_t>(sizeof(double)), 256);
}

InputImage mask_bits(const Problem& problem, const void* data) {
  InputImage bits;
  bits.data = static_cast<const char*>(data);
  bits.row = round_up(image_size(problem, kWidth), 4);
  bits.column = 1;
  const int64_t plane = bits.row * cells_of(problem).row;
  const int64_t channels = distinct_mask_planes(problem, FUSED_SSIM_AXIS_CHANNEL);
  bits.channel = channels > 1 ? plane : 0;
  bits.batch = distinct_mask_planes(problem, FUSED_SSIM_AXIS_BATCH) > 1 ? plane * channels : 0;
  return bits;
}

int64_t mask_bits_bytes(const Problem& problem) {
  const InputImage bits = mask_bits(problem, nullptr);
  return round_up(distinct_mask_planes(problem) * cells_of(problem).row * bits.row, 256);
}

cudaError_t launch_mask_sums(const Problem& problem, int32_t reduction, const DeviceFacts& device,
                             void* sums, char* bits, cudaStream_t stream) {
  MaskSumParams p;
  p.mask = mask_of_values(problem);
  p.slice = problem.mask.strides[FUSED_SSIM_AXIS_DEPTH] * size_of(problem.mask.dtype);
  p.mask.data += crop(problem, kDepth) * p.slice;
  p.sizes = cells_of(problem);
  p.step = position_of(kThreads, p.sizes);
  p.rows = map_size(problem, kHeight);
  p.channels = distinct_mask_planes(problem, FUSED_SSIM_AXIS_CHANNEL);
  p.planes = distinct_mask_planes(problem);
  p.cells = cell_count(problem);
  p.parts = parts_of_plane(problem);
  p.part_cells = ceil_divide(p.cells, p.parts);
  p.values = value_count(reduction, problem.sizes);
  p.values_per_batch = reduction == FUSED_SSIM_CHANNEL ? problem.sizes[FUSED_SSIM_AXIS_CHANNEL] : 1;
  const int64_t planes_of_value = p.values == 1                     ? p.planes
                                  : reduction == FUSED_SSIM_CHANNEL ? 1
                                                                    : p.channels;
  p.copies = static_cast<double>(planes_per_value(reduction, problem.sizes)) /
             static_cast<double>(planes_of_value);
  if (bits != nullptr) {
    const InputImage in_bits = mask_bits(problem, bits);
    p.bits = bits + crop(problem, kWidth);
    p.bits_row = in_bits.row;
    p.bits_plane = in_bits.row * p.sizes.row;
  }
  if (sums != nullptr) {
    p.sums = sums;
    p.partials =
        reinterpret_cast<double*>(static_cast<char*>(sums) + sums_bytes(problem, reduction));
  }
  const cudaError_t error = next_counter_slots(stream, 1, &p.counter_slot);
  if (error != cudaSuccess) {
    return error;
  }
  const auto blocks = static_cast<int>(std::min(p.planes * p.parts, kMostBlocks));
  return accumulates_in_double(problem)
             ? launch_kernel(mask_sums_kernel<double>, p, blocks, kThreads, 0, device, stream)
             : launch_kernel(mask_sums_kernel<float>, p, blocks, kThreads, 0, device, stream);
}

cudaError_t launch_mask_map(const Problem& problem, float* map, const DeviceFacts& device,
                            cudaStream_t stream) {
  MaskMapParams p;
  p.mask = mask_of_values(problem);
  p.channels = Divisor(problem.sizes[FUSED_SSIM_AXIS_CHANNEL]);
  p.rows = Divisor(map_size(problem, kHeight));
  p.columns = Divisor(map_size(problem, kWidth));
  p.elements = plane_count(problem.sizes) * map_plane_pixels(problem);
  p.map = map;
  const int64_t blocks =
      std::min<int64_t>(ceil_divide(p.elements, kThreads), int64_t{device.multiprocessors} * 8);
  return launch_kernel(mask_map_kernel, p, static_cast<int>(blocks), kThreads, 0, device, stream);
}

}  // namespace fused_ssim::cuda
