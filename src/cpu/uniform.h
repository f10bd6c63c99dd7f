// Two uint8 images under a uniform window of 7 x 7 pixels, in whole numbers: sums and map, no
// gradient. scikit-image's default on images as they are decoded.
//
// Whole numbers make sums exact, so each column keeps the sums of its 7 rows, and a row further
// down is one addition and one subtraction. With s = x + y and d = x - y, N = 49:
//
//     column sums of s, d (16 bits) and N s^2, N d^2 (32 bits)  ->  sums of 7 columns
//     N^2 var_s = sum of N s^2 - (sum of s)^2                   at most 49^2 * 510^2 < 2^31, exact
//
// Interleaved RGB is computed as it lies, three channels at a time: an element is then a channel of
// a pixel, and the columns of a window are three elements apart. The three channels' tasks have a
// third of the rows each.
//
// Traffic per pixel and plane: 2 B read; the column sums, 12 B, stay in L1.
#pragma once

#include <cstdint>

#include "core/pointwise.h"
#include "core/problem.h"
#include "core/taps.h"
#include "cpu/loader.h"
#include "cpu/plan.h"
#include "cpu/simd.h"
#include "cpu/workspace.h"

namespace fused_ssim::cpu {

// kChannels: 1, or 3 where both images are interleaved RGB.
template <class Arch, int kChannels>
class UniformKernel {
 public:
  // Without a workspace only for workspace_bytes().
  UniformKernel(const Problem& problem, const Request& request, unsigned char* workspace)
      : problem_(problem),
        request_(request),
        crop_(crop(problem, kHeight)),
        height_(image_size(problem, kHeight)),
        width_(image_size(problem, kWidth)) {
    constexpr int64_t kElements = (kColumns + 2 * kRadius) * kChannels;
    WorkspaceLayout layout(workspace);
    sum_s_ = layout.take<int16_t>(kElements);
    sum_d_ = layout.take<int16_t>(kElements);
    sum_s2_ = layout.take<int32_t>(kElements);
    sum_d2_ = layout.take<int32_t>(kElements);
    zeros_ = layout.take<uint8_t>(kElements);
    for (uint8_t*& rows : rows_) {
      rows = layout.take<uint8_t>(kRing * kElements);
    }
    workspace_bytes_ = layout.bytes();
  }

  int64_t workspace_bytes() const { return workspace_bytes_; }

  void run(const Task& task) {
    const int64_t channels = problem_.sizes[FUSED_SSIM_AXIS_CHANNEL];
    const int64_t batch = task.plane / channels;
    const int64_t channel = task.plane % channels;
    const int64_t first_channel = kChannels == 1 ? channel : 0;
    const int64_t share = kChannels == 1 ? 0 : channel;
    const int64_t chunks = task.chunk_end - task.chunk_begin;
    const int64_t chunk_begin = task.chunk_begin + chunks * share / kChannels;
    const int64_t chunk_end = task.chunk_begin + chunks * (share + 1) / kChannels;
    planes_[0] = plane_of(problem_.img1, batch, first_channel);
    planes_[1] = plane_of(problem_.img2, batch, first_channel);
    plane_ = batch * channels + first_channel;
    doubled_stabilizers_ = doubled_stabilizers<float>(problem_, batch, kPixels);
    ChunkSums* sums = task.sums - (channel - first_channel) * task.slots_per_plane;
    for (int k = 0; k < kChannels; ++k) {
      for (int64_t chunk = chunk_begin; chunk < chunk_end; ++chunk) {
        sums[k * task.slots_per_plane + chunk] = {0.0, 0.0, 0.0};
      }
    }
    for (int64_t column = task.column_begin; column < task.column_end; column += kColumns) {
      const int64_t end = column + kColumns < task.column_end ? column + kColumns : task.column_end;
      begin_ = column < crop_ ? crop_ : column;
      end_ = end > width_ - crop_ ? width_ - crop_ : end;
      if (begin_ < end_) {
        run_columns(chunk_begin, chunk_end, sums, task.slots_per_plane);
      }
    }
  }

 private:
  using V = Vec<float, Arch::kVectorBytes>;
  static constexpr int kRadius = kUniformSize / 2;
  static constexpr int kPixels = kUniformSize * kUniformSize;
  static constexpr int kRing = kUniformSize + 1;
  static constexpr int64_t kColumns = 960 / kChannels;
  static constexpr int kBlock = 192;  // elements evaluated at a time, whose numbers stay in L1
  static_assert(kBlock % (kChannels * V::kLanes) == 0, "each block begins with the first channel");
  static constexpr int64_t kRowsAhead = 2;  // that prefetches are ahead of loads

  // Sums of [begin_, end_) x the rows of the chunks.
  void run_columns(int64_t chunk_begin, int64_t chunk_end, ChunkSums* sums,
                   int64_t slots_per_plane) {
    // Column sums begin a radius before the first value; those outside the image stay 0.
    first_ = begin_ - kRadius < 0 ? 0 : begin_ - kRadius;
    last_ = end_ + kRadius > width_ ? width_ : end_ + kRadius;
    for (int64_t e = 0; e < (last_ - first_) * kChannels; ++e) {
      zeros_[e] = 0;
    }
    const int64_t top = chunk_begin * kChunkRows + filter_radius(problem_, kHeight);
    const int64_t bottom = chunk_end * kChunkRows + filter_radius(problem_, kHeight);
    const int64_t first_row = top < crop_ ? crop_ : top;
    const int64_t end_row = bottom > height_ - crop_ ? height_ - crop_ : bottom;
    for (int64_t row = first_row; row < end_row; ++row) {
      if (row == first_row) {
        start_columns(row);
      } else {
        move_columns(row + kRadius, row - kRadius - 1);
      }
      ChunkSums* own = sums + chunk_begin + (row - top) / kChunkRows;
      double totals[kChannels] = {};
      evaluate_row(row, totals);
      for (int k = 0; k < kChannels; ++k) {
        own[k * slots_per_plane].statistic += totals[k];
        add_differences(row, k, own + k * slots_per_plane);
      }
    }
  }

  // A row's elements, zeros outside the image. Rows are asked for in order from above; `fresh` is
  // whether it is for the first time.
  const uint8_t* elements(int image, int64_t row, bool fresh) const {
    if (row < 0 || row >= height_) {
      return zeros_;
    }
    const Plane& plane = planes_[image];
    const int64_t columns = last_ - first_;
    if (fresh && row + kRowsAhead < height_) {
      prefetch(plane, row + kRowsAhead, first_, columns);
    }
    if constexpr (kChannels > 1) {
      return plane.data + row * plane.row_stride + first_ * kChannels;
    } else {
      uint8_t* kept = rows_[image] + row % kRing * columns;
      return fresh || plane.column_stride == 1
                 ? Loader<Arch, float>::bytes(plane, row, first_, columns, kept)
                 : kept;
    }
  }

  void start_columns(int64_t row) {
    for (int64_t e = 0; e < (end_ - begin_ + 2 * kRadius) * kChannels; ++e) {
      sum_s_[e] = sum_d_[e] = 0;
      sum_s2_[e] = sum_d2_[e] = 0;
    }
    for (int64_t r = row - kRadius; r <= row + kRadius; ++r) {
      move_columns(r, -1);
    }
  }

  void move_columns(int64_t entering, int64_t leaving) {
    const int64_t margin = (first_ - (begin_ - kRadius)) * kChannels;
    replace_row(elements(0, entering, true), elements(1, entering, true),
                elements(0, leaving, false), elements(1, leaving, false),
                (last_ - first_) * kChannels, sum_s_ + margin, sum_d_ + margin, sum_s2_ + margin,
                sum_d2_ + margin);
  }

  // This loop and the next one are functions of their own for the sake of their registers.
  __attribute__((noinline)) static void replace_row(const uint8_t* x, const uint8_t* y,
                                                    const uint8_t* old_x, const uint8_t* old_y,
                                                    int64_t count, int16_t* __restrict sum_s,
                                                    int16_t* __restrict sum_d,
                                                    int32_t* __restrict sum_s2,
                                                    int32_t* __restrict sum_d2) {
    for (int64_t e = 0; e < count; ++e) {
      const auto s = static_cast<int16_t>(x[e] + y[e]);
      const auto d = static_cast<int16_t>(x[e] - y[e]);
      const auto old_s = static_cast<int16_t>(old_x[e] + old_y[e]);
      const auto old_d = static_cast<int16_t>(old_x[e] - old_y[e]);
      // a^2 - b^2 = (a - b) (a + b)
      const auto change_s = static_cast<int16_t>(s - old_s);
      const auto change_d = static_cast<int16_t>(d - old_d);
      sum_s[e] = static_cast<int16_t>(sum_s[e] + change_s);
      sum_d[e] = static_cast<int16_t>(sum_d[e] + change_d);
      const auto scaled_s = static_cast<int16_t>(kPixels * change_s);
      const auto scaled_d = static_cast<int16_t>(kPixels * change_d);
      sum_s2[e] += static_cast<int32_t>(scaled_s) * static_cast<int16_t>(s + old_s);
      sum_d2[e] += static_cast<int32_t>(scaled_d) * static_cast<int16_t>(d + old_d);
    }
  }

  template <class Sum>
  static FUSED_SSIM_INLINE Sum of_window(const Sum* column) {
    Sum sum = column[0];
    for (int k = 1; k < kUniformSize; ++k) {
      sum = static_cast<Sum>(sum + column[k * kChannels]);
    }
    return sum;
  }

  // Sums and variances of the windows along a row: N and N^2 times what they are called.
  __attribute__((noinline)) static void sum_windows(const int16_t* __restrict sums,
                                                    const int32_t* __restrict squares, int count,
                                                    float* __restrict sum,
                                                    float* __restrict variance) {
    for (int i = 0; i < count; ++i) {
      const int32_t total = of_window(sums + i);
      sum[i] = static_cast<float>(total);
      variance[i] = static_cast<float>(of_window(squares + i) - total * total);
    }
  }

  void evaluate_row(int64_t row, double (&totals)[kChannels]) {
    switch (problem_.statistic) {
      case FUSED_SSIM_STATISTIC_CONTRAST:
        return evaluate_row<FUSED_SSIM_STATISTIC_CONTRAST>(row, totals);
      case FUSED_SSIM_STATISTIC_LUMINANCE:
        return evaluate_row<FUSED_SSIM_STATISTIC_LUMINANCE>(row, totals);
      default:
        return evaluate_row<FUSED_SSIM_STATISTIC_SSIM>(row, totals);
    }
  }

  template <int kStatistic>
  void evaluate_row(int64_t row, double (&totals)[kChannels]) {
    const DoubledStabilizers<V> doubled = {V(doubled_stabilizers_.c1), V(doubled_stabilizers_.c2)};
    const int64_t all = (end_ - begin_) * kChannels;
    alignas(64) float window[4][kBlock];  // sum and variance of s, of d
    for (int64_t begin = 0; begin < all; begin += kBlock) {
      const int count = static_cast<int>(all - begin < kBlock ? all - begin : kBlock);
      sum_windows(sum_s_ + begin, sum_s2_ + begin, count, window[0], window[1]);
      sum_windows(sum_d_ + begin, sum_d2_ + begin, count, window[2], window[3]);
      for (int i = count; i % (kChannels * V::kLanes) != 0; ++i) {
        window[0][i] = window[1][i] = window[2][i] = window[3][i] = 0.0f;
      }
      // In float32 for a few vectors, as the strip kernel does for the rows of a chunk.
      V sums[kChannels];
      for (V& sum : sums) {
        sum = V(0.0f);
      }
      for (int i = 0; i < count; i += kChannels * V::kLanes) {
        unroll<0, kChannels>([&](auto k) __attribute__((always_inline)) {
          const int at = i + decltype(k)::value * V::kLanes;
          V value = statistic_value<kStatistic>(
              ssim_terms(V::load(window[0] + at), V::load(window[2] + at), V::load(window[1] + at),
                         V::load(window[3] + at), doubled));
          if (at + V::kLanes > count) {
            for (int lane = 0; lane < V::kLanes; ++lane) {
              value.set_lane(lane, at + lane < count ? value.lane(lane) : 0.0f);
            }
          }
          sums[decltype(k)::value] = sums[decltype(k)::value] + value;
          value.store_unaligned(window[0] + at);
        });
      }
      for (int i = 0; i < kChannels * V::kLanes; ++i) {
        totals[i % kChannels] += sums[i / V::kLanes].lane(i % V::kLanes);
      }
      if (request_.map != nullptr) {
        store_map(window[0], count, row, begin / kChannels);
      }
    }
  }

  void store_map(const float* values, int count, int64_t row, int64_t column) const {
    const int64_t map_pixels = map_plane_pixels(problem_);
    float* map = static_cast<float*>(request_.map) + plane_ * map_pixels +
                 (row - crop_) * map_size(problem_, kWidth) + begin_ - crop_ + column;
    for (int k = 0; k < kChannels; ++k) {
      for (int i = 0; i < count / kChannels; ++i) {
        map[k * map_pixels + i] = values[i * kChannels + k];
      }
    }
  }

  void add_differences(int64_t row, int channel, ChunkSums* sums) const {
    const bool wants_squares = request_.l2_weight != 0.0 || request_.mse != nullptr;
    if (request_.l1_weight == 0.0 && !wants_squares) {
      return;
    }
    const int64_t offset = (begin_ - first_) * kChannels + channel;
    const uint8_t* x = elements(0, row, false) + offset;
    const uint8_t* y = elements(1, row, false) + offset;
    int32_t absolute = 0;
    int32_t squares = 0;  // of at most kColumns pixels, each at most 255^2
    for (int64_t e = 0; e < (end_ - begin_) * kChannels; e += kChannels) {
      const int32_t difference = x[e] - y[e];
      absolute += difference < 0 ? -difference : difference;
      squares += difference * difference;
    }
    sums->absolute += absolute;
    sums->squares += squares;
  }

  const Problem& problem_;
  const Request& request_;
  const int crop_;
  const int64_t height_;
  const int64_t width_;
  int64_t workspace_bytes_ = 0;

  // Of the columns [begin - radius, end + radius).
  int16_t* sum_s_;
  int16_t* sum_d_;
  int32_t* sum_s2_;
  int32_t* sum_d2_;
  uint8_t* zeros_;
  uint8_t* rows_[2];  // [kRing][columns], where the images' columns are not contiguous

  // The columns in hand.
  Plane planes_[2] = {};
  int64_t plane_ = 0;
  DoubledStabilizers<float> doubled_stabilizers_;
  int64_t begin_ = 0;  // columns that have a value
  int64_t end_ = 0;
  int64_t first_ = 0;  // columns that are read
  int64_t last_ = 0;
};

}  // namespace fused_ssim::cpu
