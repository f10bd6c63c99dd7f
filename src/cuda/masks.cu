// What is done with masks before and after the other kernels.
//
// Before: the sums of a mask over the pixels of each value, since gradients are written once,
// divided by these. In float64, in an order that the sizes fix. Planes that are the same memory are
// read once. A mask of bytes is left in bits on the way, for kernels of the kind "masked" (mask.cuh).
// For those of the kind "normalized", whose moments are means under the mask, another kernel does the
// same and leaves 1 over the mask's mean in the window around each pixel that counts. Its bits and means
// are of an area larger than the image, as far as these kernels load without a question:
//
//     +-------------------------+     kTop rows, kLeft columns ...
//     |   +--------------+      |     in the image      bit: the mask; 1 / mean where there is a value
//     |   |    image     |      |                       and the mask is 1, else 0
//     |   +--------------+      |     around the image  bit: 1, since what lies beyond a border is seen;
//     |                         |                       0 for the mean
//     +-------------------------+     ... kBottom rows, kRight columns
//
// A block has tiles of 32 x 64 pixels of it: a byte of the mask -> 0 or 1 in shared memory -> filtered
// along 42 rows -> filtered down the columns. The sum is divided by that over ones, so that a mask
// of ones has means of exactly 1. A tile of ones or zeros alone, as most of a usual mask is, is not filtered.
//
// After: maps of kernels without a mask become 1 where it is 0.
//
// Memory traffic per pixel of a plane of the mask: its element read, of bytes also 1/8 byte written; with
// means 1.5 bytes read, part of them out of L2, and 4 1/8 written. After: an element read.
#include <algorithm>

#include "cuda/filters.cuh"
#include "cuda/launches.h"
#include "cuda/mask.cuh"
#include "cuda/reduction.cuh"
#include "cuda/requests.h"
#include "cuda/thread.cuh"

namespace fused_ssim::cuda {
namespace {

// ---- sums ---------------------------------------------------------------------------------------

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

// From the sums of blocks to those of values.
struct SumPlan {
  int64_t channels = 1;  // planes that are memory of their own
  int64_t planes = 1;
  int64_t parts = 1;           // of a plane, each one block's
  double* partials = nullptr;  // [planes, parts]; null: sums are not wanted
  void* sums = nullptr;        // [values], accumulation type
  int64_t values = 1;
  int64_t values_per_batch = 1;  // of several values: the channels, or 1
  double copies = 1.0;           // how often a value has each of its planes
  unsigned counter_slot = 0;

  __device__ int64_t items() const { return planes * parts; }
};

struct MaskSumParams {
  InputImage mask;    // from the first pixel that has a value on
  int64_t slice = 0;  // stride in bytes
  Position sizes = {};
  Position step = {};  // kThreads cells
  int64_t rows = 1;    // of pixels
  int64_t part_cells = 1;
  int64_t cells = 1;     // of a plane
  char* bits = nullptr;  // of the first cell; null: not wanted
  int64_t bits_row = 0;  // strides
  int64_t bits_plane = 0;
  SumPlan plan;
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

// The sums of values, by the last block to come here: all that its launch has left in the partials.
template <class T, int kBlockThreads>
__device__ __forceinline__ void finish_sums(const SumPlan& p) {
  __shared__ bool is_last;
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
    const double sum =
        block_sum<kBlockThreads>(add_up(p.partials, p.items(), threadIdx.x, kBlockThreads));
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
  const int workers = by_warps ? kBlockThreads / 32 : kBlockThreads;
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

template <class T>
__global__ void __launch_bounds__(kThreads)
    mask_sums_kernel(const __grid_constant__ MaskSumParams p) {
  const SumPlan& plan = p.plan;
  wait_for_previous_launch();
  const int64_t items = plan.items();
#pragma unroll 1
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t plane = quotient(item, plan.parts);
    const int64_t batch = quotient(plane, plan.channels);
    const int64_t first = (item - plane * plan.parts) * p.part_cells;
    const char* data =
        p.mask.data + batch * p.mask.batch + (plane - batch * plan.channels) * p.mask.channel;
    char* bits = p.bits == nullptr ? nullptr : p.bits + plane * p.bits_plane;
    const int64_t end = min(first + p.part_cells, p.cells);
    double sum = 0.0;
    visit_mask_type(p.mask.dtype, [&](auto zero) {
      sum = sum_of_part<T, decltype(zero)>(p, data, bits, first + threadIdx.x, end);
    });
    const double total = block_sum<kThreads>(sum);
    if (threadIdx.x == 0 && plan.partials != nullptr) {
      plan.partials[item] = total;
    }
  }
  // Not before: all blocks run at once, and those of the next launch would begin beside the last of the
  // launch before. H200, a value of the separable kernels at 1x3x1080x1920: 117 us, and 81 so.
  allow_next_launch();
  finish_sums<T, kThreads>(p.plan);
}

// ---- means --------------------------------------------------------------------------------------

constexpr int kMeanThreads = 352;
constexpr int kTileRows = 32;
constexpr int kTileColumns = 64;
constexpr int kRadius = kDefaultWindowSize / 2;
constexpr int kStagedRows = kTileRows + 2 * kRadius;
constexpr int kStagedColumns = kTileColumns + 2 * kRadius;
// In floats; a filter reads whole quads.
constexpr int kStagedPitch = 76;
constexpr int kFilteredPitch = 68;
static_assert(kStagedPitch >= kStagedColumns && kStagedPitch >= kTileColumns - 8 + 20);
static_assert(kMeanThreads >= kStagedRows * (kTileColumns / 8) &&
                  kMeanThreads >= kTileRows / 8 * kTileColumns,
              "each filter in one go");

// From the first row with a value on, of which groups of kMaskBitRows are counted, and from the first
// column of the image on.
constexpr int kTop = 16;
constexpr int kLeft = 16;
constexpr int kBottom = 32;
constexpr int kRight = 272;
static_assert(kTop % kMaskBitRows == 0 && kLeft % 4 == 0, "whole words of whole groups");

struct MeanArea {
  int64_t rows;
  int64_t columns;

  explicit MeanArea(const Problem& problem)
      : rows(round_up(kTop + image_size(problem, kHeight) + kBottom, kTileRows)),
        columns(round_up(kLeft + image_size(problem, kWidth) + kRight, kTileColumns)) {}
  int64_t pixels() const { return rows * columns; }
};

struct MaskMeanParams : ExtentParams {
  InputImage mask;
  unsigned tiles_down = 0;
  unsigned tiles_across = 0;
  float* means = nullptr;
  char* bits = nullptr;
  SumPlan plan;
};

__global__ void __launch_bounds__(kMeanThreads)
    mask_means_kernel(const __grid_constant__ MaskMeanParams p) {
  __shared__ __align__(16) float staged[kStagedRows * kStagedPitch];
  __shared__ __align__(16) float filtered[kStagedRows * kFilteredPitch];
  const StandardWindow window;
  const float of_ones = filtered_constant(window, 1.0f);
  const int thread = static_cast<int>(threadIdx.x);
  const auto plane = static_cast<unsigned>(blockIdx.x / static_cast<unsigned>(p.plan.parts));
  const unsigned batch = plane / static_cast<unsigned>(p.plan.channels);
  const char* mask =
      p.mask.data + batch * p.mask.batch + (plane - batch * p.plan.channels) * p.mask.channel;
  unsigned count = 0u;  // of this thread's pixels that count
  allow_next_launch();
  wait_for_previous_launch();
#pragma unroll 1
  for (auto tile = static_cast<unsigned>(blockIdx.x - plane * p.plan.parts);
       tile < p.tiles_down * p.tiles_across; tile += static_cast<unsigned>(p.plan.parts)) {
    const unsigned row_of_tiles = tile / p.tiles_across;
    const int area_y = static_cast<int>(row_of_tiles) * kTileRows;
    const int area_x = static_cast<int>(tile - row_of_tiles * p.tiles_across) * kTileColumns;
    const int top = area_y - kTop + p.value_top;  // in the image
    const int left = area_x - kLeft;
    // A warp has rows.
    bool all_seen = true;
    bool none_seen = true;
#pragma unroll 4
    for (int r = thread / 32; r < kStagedRows; r += kMeanThreads / 32) {
      const int y = top - kRadius + r;
      const bool row_inside = y >= 0 && y < p.height;
      const char* row = mask + y * p.mask.row;
#pragma unroll
      for (int i = 0; i < (kStagedPitch + 31) / 32; ++i) {
        const int column = 32 * i + thread % 32;
        const int x = left - kRadius + column;
        bool seen = true;
        if (row_inside && x >= 0 && x < p.width) {
          seen = __ldg(reinterpret_cast<const unsigned char*>(row + x * p.mask.column)) != 0;
        }
        if (column < kStagedPitch) {
          staged[r * kStagedPitch + column] = seen ? 1.0f : 0.0f;
          all_seen = all_seen && seen;
          none_seen = none_seen && !seen;
        }
      }
    }
    const bool is_uniform =
        (__syncthreads_and(all_seen) != 0) | (__syncthreads_and(none_seen) != 0);
    const int filtered_row = thread / (kTileColumns / 8);
    if (!is_uniform && filtered_row < kStagedRows) {
      const int first = 8 * (thread % (kTileColumns / 8));
      float sums[8];
      filter_row<Filter::kRow>(window, staged + filtered_row * kStagedPitch + first, sums);
      float4* to = reinterpret_cast<float4*>(filtered + filtered_row * kFilteredPitch + first);
      to[0] = {sums[0], sums[1], sums[2], sums[3]};
      to[1] = {sums[4], sums[5], sums[6], sums[7]};
    }
    __syncthreads();
    // A thread has 8 rows of a column, and their bits.
    const int column = thread % kTileColumns;
    const int first_row = thread / kTileColumns * 8;
    if (first_row < kTileRows) {
      float sums[8];
      if (is_uniform) {
#pragma unroll
        for (float& sum : sums) {
          sum = of_ones;
        }
      } else {
#pragma unroll
        for (int i = 0; i < 8 + 2 * kRadius; ++i) {
          const float value = filtered[(first_row + i) * kFilteredPitch + column];
#pragma unroll
          for (int o = 0; o < 8; ++o) {
            add_input<Filter::kColumn>(window, value, i, o, &sums[o]);
          }
        }
      }
      const int x = left + column;
      const bool has_values = x >= p.value_left && x < p.value_right;
      const int64_t columns = int64_t{p.tiles_across} * kTileColumns;
      const int64_t row = int64_t{plane} * p.tiles_down * kTileRows + area_y + first_row;
      float* to = p.means + row * columns + area_x + column;
      unsigned bits = 0u;
#pragma unroll
      for (int r = 0; r < 8; ++r, to += columns) {
        const int y = top + first_row + r;
        const bool seen =
            staged[(kRadius + first_row + r) * kStagedPitch + kRadius + column] != 0.0f;
        bits |= seen ? 1u << r : 0u;
        const bool counts = seen && has_values && y >= p.value_top && y < p.value_bottom;
        count += counts ? 1u : 0u;
        *to = !counts ? 0.0f : sums[r] == of_ones ? 1.0f : __fdividef(of_ones, sums[r]);
      }
      p.bits[(row >> kLogMaskBitRows) * columns + area_x + column] = static_cast<char>(bits);
    }
    __syncthreads();  // before the next tile is staged
  }
  if (p.plan.partials != nullptr) {
    const double total = block_sum<kMeanThreads>(static_cast<double>(count));
    if (threadIdx.x == 0) {
      p.plan.partials[blockIdx.x] = total;
    }
  }
  finish_sums<float, kMeanThreads>(p.plan);
}

// ---- maps ---------------------------------------------------------------------------------------

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

// `sums`: null where they are not wanted.
cudaError_t plan_sums(const Problem& problem, int32_t reduction, void* sums, cudaStream_t stream,
                      SumPlan* plan) {
  plan->channels = distinct_mask_planes(problem, FUSED_SSIM_AXIS_CHANNEL);
  plan->planes = distinct_mask_planes(problem);
  plan->parts = parts_of_plane(problem);
  plan->values = value_count(reduction, problem.sizes);
  plan->values_per_batch =
      reduction == FUSED_SSIM_CHANNEL ? problem.sizes[FUSED_SSIM_AXIS_CHANNEL] : 1;
  const int64_t planes_of_value = plan->values == 1                 ? plan->planes
                                  : reduction == FUSED_SSIM_CHANNEL ? 1
                                                                    : plan->channels;
  plan->copies = static_cast<double>(planes_per_value(reduction, problem.sizes)) /
                 static_cast<double>(planes_of_value);
  if (sums != nullptr) {
    plan->sums = sums;
    plan->partials =
        reinterpret_cast<double*>(static_cast<char*>(sums) + sums_bytes(problem, reduction));
  }
  return next_counter_slots(stream, 1, &plan->counter_slot);
}

int64_t means_bytes(const Problem& problem) {
  return round_up(distinct_mask_planes(problem) * MeanArea(problem).pixels() *
                      static_cast<int64_t>(sizeof(float)),
                  256);
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
  const cudaError_t error = plan_sums(problem, reduction, sums, stream, &p.plan);
  if (error != cudaSuccess) {
    return error;
  }
  p.mask = mask_of_values(problem);
  p.slice = problem.mask.strides[FUSED_SSIM_AXIS_DEPTH] * size_of(problem.mask.dtype);
  p.mask.data += crop(problem, kDepth) * p.slice;
  p.sizes = cells_of(problem);
  p.step = position_of(kThreads, p.sizes);
  p.rows = map_size(problem, kHeight);
  p.cells = cell_count(problem);
  p.part_cells = ceil_divide(p.cells, p.plan.parts);
  if (bits != nullptr) {
    const InputImage in_bits = mask_bits(problem, bits);
    p.bits = bits + crop(problem, kWidth);
    p.bits_row = in_bits.row;
    p.bits_plane = in_bits.row * p.sizes.row;
  }
  const auto blocks = static_cast<int>(std::min(p.plan.planes * p.plan.parts, kMostBlocks));
  return accumulates_in_double(problem)
             ? launch_kernel(mask_sums_kernel<double>, p, blocks, kThreads, 0, device, stream)
             : launch_kernel(mask_sums_kernel<float>, p, blocks, kThreads, 0, device, stream);
}

int64_t mask_means_bytes(const Problem& problem) {
  return means_bytes(problem) +
         round_up(distinct_mask_planes(problem) * MeanArea(problem).pixels() / kMaskBitRows, 256);
}

MaskMeans mask_means(const Problem& problem, const void* data) {
  const MeanArea area(problem);
  const auto image_of = [&](const char* first, int64_t element, int rows_of_one) {
    InputImage image;
    image.column = element;
    image.row = area.columns * element;
    image.data = first + kTop / rows_of_one * image.row + kLeft * element;
    const int64_t plane = area.rows / rows_of_one * image.row;
    const int64_t channels = distinct_mask_planes(problem, FUSED_SSIM_AXIS_CHANNEL);
    image.channel = channels > 1 ? plane : 0;
    image.batch = distinct_mask_planes(problem, FUSED_SSIM_AXIS_BATCH) > 1 ? plane * channels : 0;
    return image;
  };
  const auto* first = static_cast<const char*>(data);
  MaskMeans made = {image_of(first, sizeof(float), 1),
                    image_of(first + means_bytes(problem), 1, kMaskBitRows)};
  made.inverse_means.data -= crop(problem, kHeight) * made.inverse_means.row;
  return made;
}

cudaError_t launch_mask_means(const Problem& problem, int32_t reduction, const DeviceFacts& device,
                              void* sums, void* data, cudaStream_t stream) {
  const MeanArea area(problem);
  MaskMeanParams p;
  const cudaError_t error = plan_sums(problem, reduction, sums, stream, &p.plan);
  if (error != cudaSuccess) {
    return error;
  }
  p.mask = bytes_of<const char>(problem.mask);
  set_extents(problem, &p);
  p.tiles_down = static_cast<unsigned>(area.rows / kTileRows);
  p.tiles_across = static_cast<unsigned>(area.columns / kTileColumns);
  p.means = static_cast<float*>(data);
  p.bits = static_cast<char*>(data) + means_bytes(problem);
  const auto blocks = static_cast<int>(p.plan.planes * p.plan.parts);
  return launch_kernel(mask_means_kernel, p, blocks, kMeanThreads, 0, device, stream);
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
