// For means under a mask of bytes: 1 over the mask's mean in the window around each pixel that counts,
// and the mask in bits, ahead of marching kernels of the kind "normalized".
//
// Both are written for an area larger than the image, as far as those kernels load without a question:
//
//     +-------------------------+     kTop rows, kLeft columns ...
//     |   +--------------+      |     in the image     bit: the mask; 1 / mean where it has a value
//     |   |    image     |      |                      and the mask is 1, else 0
//     |   +--------------+      |     around the image bit: 1, since what lies beyond a border is seen;
//     |                         |                      0 for the mean
//     +-------------------------+     ... kBottom rows, kRight columns
//
// A block has tiles of 32 x 64 pixels of it: a byte of the mask -> 0 or 1 in shared memory -> filtered
// along 42 rows -> filtered down the columns. The sum is divided by that over ones, so that a mask
// of ones has means of exactly 1. A tile of ones or zeros alone, as most of a usual mask is, is not filtered.
//
// Memory traffic per pixel of a plane of the mask: 1 byte read (1.5 with what tiles share, out of L2),
// 4 1/8 written.
#include <algorithm>

#include "cuda/filters.cuh"
#include "cuda/launches.h"
#include "cuda/mask.cuh"
#include "cuda/requests.h"
#include "cuda/thread.cuh"

namespace fused_ssim::cuda {
namespace {

constexpr int kThreads = 352;
constexpr int kWarps = kThreads / 32;
constexpr int kRows = 32;
constexpr int kColumns = 64;
constexpr int kRadius = kDefaultWindowSize / 2;
constexpr int kStagedRows = kRows + 2 * kRadius;
constexpr int kStagedColumns = kColumns + 2 * kRadius;
// In floats; a filter reads whole quads.
constexpr int kStagedPitch = 76;
constexpr int kFilteredPitch = 68;
static_assert(kStagedPitch >= kStagedColumns && kStagedPitch >= kColumns - 8 + 20);
static_assert(kThreads >= kStagedRows * (kColumns / 8) && kThreads >= kRows / 8 * kColumns,
              "each filter in one go");

// From the first row with a value on, of which groups of kMaskBitRows are counted, and from the first
// column of the image on.
constexpr int kTop = 16;
constexpr int kLeft = 16;
constexpr int kBottom = 32;
constexpr int kRight = 272;
static_assert(kTop % kMaskBitRows == 0 && kLeft % 4 == 0, "whole words of whole groups");

struct Area {
  int64_t rows;
  int64_t columns;

  explicit Area(const Problem& problem)
      : rows(round_up(kTop + image_size(problem, kHeight) + kBottom, kRows)),
        columns(round_up(kLeft + image_size(problem, kWidth) + kRight, kColumns)) {}
  int64_t pixels() const { return rows * columns; }
};

struct MaskMeanParams {
  InputImage mask;
  unsigned channels = 1;  // planes that are memory of their own
  int height = 0;
  int width = 0;
  int value_top = 0;
  int value_bottom = 0;
  int value_left = 0;
  int value_right = 0;
  unsigned tiles_down = 0;
  unsigned tiles_across = 0;
  unsigned tiles = 0;  // of all planes
  float* means = nullptr;
  char* bits = nullptr;
};

__global__ void __launch_bounds__(kThreads)
    mask_means_kernel(const __grid_constant__ MaskMeanParams p) {
  __shared__ __align__(16) float staged[kStagedRows * kStagedPitch];
  __shared__ __align__(16) float filtered[kStagedRows * kFilteredPitch];
  const StandardWindow window;
  const float of_ones = filtered_constant(window, 1.0f);
  const int thread = static_cast<int>(threadIdx.x);
  allow_next_launch();
  wait_for_previous_launch();
#pragma unroll 1
  for (unsigned tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
    const unsigned row_of_tiles = tile / p.tiles_across;
    const unsigned plane = row_of_tiles / p.tiles_down;
    const int area_y = static_cast<int>(row_of_tiles - plane * p.tiles_down) * kRows;
    const int area_x = static_cast<int>(tile - row_of_tiles * p.tiles_across) * kColumns;
    const int top = area_y - kTop + p.value_top;  // in the image
    const int left = area_x - kLeft;
    const unsigned batch = plane / p.channels;
    const char* mask =
        p.mask.data + batch * p.mask.batch + (plane - batch * p.channels) * p.mask.channel;
    // A warp has rows.
    bool all_seen = true;
    bool none_seen = true;
#pragma unroll 1
    for (int r = thread / 32; r < kStagedRows; r += kWarps) {
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
    const int filtered_row = thread / (kColumns / 8);
    if (!is_uniform && filtered_row < kStagedRows) {
      const int first = 8 * (thread % (kColumns / 8));
      float sums[8];
      filter_row<Filter::kRow>(window, staged + filtered_row * kStagedPitch + first, sums);
      float4* to = reinterpret_cast<float4*>(filtered + filtered_row * kFilteredPitch + first);
      to[0] = {sums[0], sums[1], sums[2], sums[3]};
      to[1] = {sums[4], sums[5], sums[6], sums[7]};
    }
    __syncthreads();
    // A thread has 8 rows of a column, and their bits.
    const int column = thread % kColumns;
    const int first_row = thread / kColumns * 8;
    if (first_row < kRows) {
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
      const int64_t columns = int64_t{p.tiles_across} * kColumns;
      const int64_t rows = int64_t{p.tiles_down} * kRows;
      const int64_t row = plane * rows + area_y + first_row;
      float* to = p.means + row * columns + area_x + column;
      unsigned bits = 0u;
#pragma unroll
      for (int r = 0; r < 8; ++r, to += columns) {
        const int y = top + first_row + r;
        const bool seen =
            staged[(kRadius + first_row + r) * kStagedPitch + kRadius + column] != 0.0f;
        bits |= seen ? 1u << r : 0u;
        const bool counts = seen && has_values && y >= p.value_top && y < p.value_bottom;
        *to = !counts ? 0.0f : sums[r] == of_ones ? 1.0f : __fdividef(of_ones, sums[r]);
      }
      p.bits[(row >> kLogMaskBitRows) * columns + area_x + column] = static_cast<char>(bits);
    }
    __syncthreads();  // before the next tile is staged
  }
}

int64_t means_bytes(const Problem& problem) {
  return round_up(
      distinct_mask_planes(problem) * Area(problem).pixels() * static_cast<int64_t>(sizeof(float)),
      256);
}

}  // namespace

int64_t mask_means_bytes(const Problem& problem) {
  return means_bytes(problem) +
         round_up(distinct_mask_planes(problem) * Area(problem).pixels() / kMaskBitRows, 256);
}

MaskMeans mask_means(const Problem& problem, const void* data) {
  const Area area(problem);
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

cudaError_t launch_mask_means(const Problem& problem, const DeviceFacts& device, void* data,
                              cudaStream_t stream) {
  const Area area(problem);
  MaskMeanParams p;
  p.mask = bytes_of<const char>(problem.mask);
  p.channels = static_cast<unsigned>(distinct_mask_planes(problem, FUSED_SSIM_AXIS_CHANNEL));
  p.height = static_cast<int>(image_size(problem, kHeight));
  p.width = static_cast<int>(image_size(problem, kWidth));
  p.value_top = crop(problem, kHeight);
  p.value_bottom = p.height - p.value_top;
  p.value_left = crop(problem, kWidth);
  p.value_right = p.width - p.value_left;
  p.tiles_down = static_cast<unsigned>(area.rows / kRows);
  p.tiles_across = static_cast<unsigned>(area.columns / kColumns);
  p.tiles = static_cast<unsigned>(distinct_mask_planes(problem)) * p.tiles_down * p.tiles_across;
  p.means = static_cast<float*>(data);
  p.bits = static_cast<char*>(data) + means_bytes(problem);
  const auto blocks =
      static_cast<int>(std::min<int64_t>(p.tiles, int64_t{device.multiprocessors} * 8));
  return launch_kernel(mask_means_kernel, p, blocks, kThreads, 0, device, stream);
}

}  // namespace fused_ssim::cuda
