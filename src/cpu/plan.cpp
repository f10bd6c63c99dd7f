#include "cpu/plan.h"

#include <algorithm>

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

}  // namespace

const char* not_served(const Problem& problem, const Request&) {
  if (image_size(problem, kDepth) != 1 || problem.windows[kDepth].size != 1) {
    return "expected 2D images for the CPU kernels, got a depth, or a window along it";
  }
  return nullptr;
}

WindowKind window_kind(const Problem& problem) {
  const WindowKind kind =
      std::max(window_kind(problem.windows[kHeight]), window_kind(problem.windows[kWidth]));
  // In float64 and for windows that a mask weighs nothing is compiled for short windows alone.
  const bool has_short =
      kHasShortWindows && !accumulates_in_double(problem) && !mask_is_normalized(problem);
  return kind == WindowKind::kShort && !has_short ? WindowKind::kAny : kind;
}

int filter_radius(const Problem& problem, SpatialAxis axis) {
  return window_kind(problem) != WindowKind::kAny
             ? kFixedRadius
             : static_cast<int>(
                   std::min<int64_t>(radius(problem, axis), image_size(problem, axis)));
}

Schedule schedule_of(const Problem& problem, const Request& request) {
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
    : planes_(plane_count(problem.sizes)), width_(image_size(problem, kWidth)) {
  strips_ = ceil_divide(width_, kMaxStripColumns);
  strip_columns_ = ceil_divide(width_, strips_);
  lead_ = ceil_divide(2 * filter_radius(problem, kHeight), kChunkRows);
  chunks_ = ceil_divide(image_size(problem, kHeight), kChunkRows);
  // A few tasks a thread even out the load; cutting further only repeats shared rows.
  const int64_t wanted = threads <= 1 ? 1 : 4 * static_cast<int64_t>(threads);
  bands_ = std::clamp<int64_t>(ceil_divide(wanted, planes_ * strips_), 1,
                               std::max<int64_t>(1, chunks_ / kMinBandChunks));
}

int64_t Plan::grain() const {
  const int64_t task_pixels = strip_columns_ * kChunkRows * ceil_divide(chunks_, bands_);
  return ceil_divide(kMinThreadPixels, task_pixels);
}

Task Plan::task(int64_t index, ChunkSums* slots) const {
  const int64_t band = index % bands_;
  const int64_t strip = index / bands_ % strips_;
  const int64_t plane = index / bands_ / strips_;
  Task task;
  task.plane = plane;
  task.column_begin = strip * strip_columns_;
  task.column_end = std::min(width_, task.column_begin + strip_columns_);
  task.chunk_begin = band == 0 ? -lead_ : chunks_ * band / bands_;
  task.chunk_end = chunks_ * (band + 1) / bands_;
  task.sums = slots + (plane * strips_ + strip) * (lead_ + chunks_) + lead_;
  task.slots_per_plane = slots_per_plane();
  return task;
}

}  // namespace fused_ssim::cpu
