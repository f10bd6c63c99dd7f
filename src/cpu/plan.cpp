#include "cpu/plan.h"

#include <algorithm>

namespace fused_ssim::cpu {
namespace {

constexpr int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Plan::Plan(const Problem& problem, int threads)
    : planes_(problem.shape.planes()), width_(problem.shape.width) {
  strips_ = ceil_divide(width_, kMaxStripColumns);
  strip_columns_ = ceil_divide(width_, strips_);
  lead_ = ceil_divide(2 * problem.radius(), kChunkRows);
  chunks_ = ceil_divide(problem.shape.height, kChunkRows);
  // A few tasks a thread even out the load; cutting further only repeats shared rows.
  const int64_t wanted = threads <= 1 ? 1 : 4 * static_cast<int64_t>(threads);
  bands_ = std::clamp<int64_t>(ceil_divide(wanted, planes_ * strips_), 1,
                               std::max<int64_t>(1, chunks_ / kMinBandChunks));
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
  return task;
}

}  // namespace fused_ssim::cpu
