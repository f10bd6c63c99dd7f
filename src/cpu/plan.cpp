#include "cpu/plan.h"

#include <algorithm>

#include "core/merging.h"
#include "core/taps.h"

namespace fused_ssim::cpu {
namespace {

WindowKind window_kind(const Window& window) {
  const double* end = window.taps + window.size;
  if (window.size > 2 * kFixedRadius + 1 || !is_symmetric(window) ||
      *std::max_element(window.taps, end) > window.taps[window.size / 2]) {
    return WindowKind::kAny;
  }
  return window.size == 2 * kFixedRadius + 1 && !is_uniform(window) ? WindowKind::kFixed
                                                                    : WindowKind::kShort;
}

// In float64 and where variances are merged nothing is compiled for short windows alone.
bool has_short(const Problem& problem, bool is_compiled) {
  return is_compiled && !accumulates_in_double(problem) && !has_merged_variances(problem);
}

}  // namespace

WindowKind window_kind(const Problem& problem, SpatialAxis axis) {
  const WindowKind kind = window_kind(problem.windows[axis]);
  return kind == WindowKind::kShort && !has_short(problem, kHasShortWindows) ? WindowKind::kAny
                                                                             : kind;
}

WindowKind window_kind(const Problem& problem) {
  const WindowKind kind =
      std::max(window_kind(problem.windows[kHeight]), window_kind(problem.windows[kWidth]));
  const int longest = std::max(problem.windows[kHeight].size, problem.windows[kWidth].size);
  return kind == WindowKind::kShort && !has_short(problem, longest <= kLongestShortWindow)
             ? WindowKind::kAny
             : kind;
}

bool has_merged_variances(const Problem& problem) {
  return merges_variances(problem, has_narrow_window(problem));
}

int filter_radius(const Problem& problem, SpatialAxis axis) {
  const WindowKind kind = is_volume(problem) ? window_kind(problem, axis) : window_kind(problem);
  return kind != WindowKind::kAny ? kFixedRadius
                                  : static_cast<int>(std::min<int64_t>(radius(problem, axis),
                                                                       image_size(problem, axis)));
}

Schedule schedule_of(const Problem& problem, const Request& request) {
  if (is_volume(problem)) {
    return Schedule::kVolume;
  }
  const auto is_uniform_bytes = [](const Image& image, const Window& window) {
    return image.dtype == FUSED_SSIM_UINT8 && window.size == kUniformSize && is_uniform(window);
  };
  const auto is_rgb = [](const Image& image) {
    return image.strides[FUSED_SSIM_AXIS_CHANNEL] == 1 &&
           image.strides[FUSED_SSIM_AXIS_COLUMN] == 3;
  };
  if (is_uniform_bytes(problem.img1, problem.windows[kHeight]) &&
      is_uniform_bytes(problem.img2, problem.windows[kWidth]) && !wants_gradient(request) &&
      !has_mask(problem)) {
    return problem.sizes[FUSED_SSIM_AXIS_CHANNEL] == 3 && is_rgb(problem.img1) &&
                   is_rgb(problem.img2)
               ? Schedule::kUniformInterleaved
               : Schedule::kUniform;
  }
  return Schedule::kStrips;
}

Plan::Plan(const Problem& problem, int threads)
    : is_volume_(is_volume(problem)), planes_(plane_count(problem.sizes)) {
  const SpatialAxis march = is_volume_ ? kDepth : kHeight;
  lead_ = ceil_divide(2 * filter_radius(problem, march), kChunkRows);
  chunks_ = ceil_divide(image_size(problem, march), kChunkRows);
  if (is_volume_) {
    cut_volume(problem, threads);
  } else {
    cut_image(problem, threads);
  }
}

void Plan::cut_image(const Problem& problem, int threads) {
  extent_ = image_size(problem, kWidth);
  strips_ = ceil_divide(extent_, kMaxStripColumns);
  strip_size_ = ceil_divide(extent_, strips_);
  strip_pixels_ = strip_size_ * kChunkRows;
  groups_ = strips_;
  // A few tasks a thread even out the load; cutting further only repeats shared rows.
  const int64_t wanted = threads <= 1 ? 1 : 4 * static_cast<int64_t>(threads);
  bands_ = std::clamp<int64_t>(ceil_divide(wanted, planes_ * strips_), 1,
                               std::max<int64_t>(1, chunks_ / kMinBandChunks));
}

// Of all ways to have a task for each thread the one whose tasks take the least time in a row: a
// tile and a band repeat some two radii of their neighbours' rows and slices.
void Plan::cut_volume(const Problem& problem, int threads) {
  extent_ = image_size(problem, kHeight);
  groups_ = ceil_divide(extent_, kChunkRows);
  const int64_t width = image_size(problem, kWidth);
  const int64_t shared_rows = 2 * filter_radius(problem, kHeight);
  const int64_t shared_slices = 2 * filter_radius(problem, kDepth);
  double least = 0.0;
  for (int64_t rows = kChunkRows * groups_; rows > 0; rows -= kChunkRows) {
    const int64_t strips = ceil_divide(extent_, rows);
    const int64_t bands = std::min(chunks_, ceil_divide(threads, planes_ * strips));
    const int64_t slices = kChunkRows * ceil_divide(chunks_, bands);
    const double time = static_cast<double>(ceil_divide(planes_ * strips * bands, threads)) *
                        static_cast<double>(rows + (strips > 1 ? shared_rows : 0)) *
                        static_cast<double>(slices + (bands > 1 ? shared_slices : 0));
    const bool fits = rows * width <= kMaxTileColumns || rows == kChunkRows;
    if (fits && (least == 0.0 || time < least)) {
      least = time;
      strips_ = strips;
      strip_size_ = rows;
      bands_ = bands;
    }
  }
  strip_pixels_ = strip_size_ * width * kChunkRows;
}

int64_t Plan::grain() const {
  return ceil_divide(kMinThreadPixels, strip_pixels_ * ceil_divide(chunks_, bands_));
}

Task Plan::task(int64_t index, ChunkSums* slots) const {
  const int64_t band = index % bands_;
  const int64_t strip = index / bands_ % strips_;
  const int64_t plane = index / bands_ / strips_;
  const int64_t begin = strip * strip_size_;
  const int64_t end = std::min(extent_, begin + strip_size_);
  Task task = {};
  task.plane = plane;
  (is_volume_ ? task.row_begin : task.column_begin) = begin;
  (is_volume_ ? task.row_end : task.column_end) = end;
  task.chunk_begin = band == 0 ? -lead_ : chunks_ * band / bands_;
  task.chunk_end = chunks_ * (band + 1) / bands_;
  const int64_t group = is_volume_ ? begin / kChunkRows : strip;
  task.slots_per_group = lead_ + chunks_;
  task.sums = slots + (plane * groups_ + group) * task.slots_per_group + lead_;
  task.slots_per_plane = slots_per_plane();
  return task;
}

}  // namespace fused_ssim::cpu
