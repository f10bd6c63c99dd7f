// How a problem is cut into tasks for threads, and where the tasks leave their sums.
//
// A plane is cut into strips of columns, narrow enough for a strip's working set to stay in the L2
// cache, and a strip into bands of rows. Rows are processed in chunks of kChunkRows on one fixed
// grid, each chunk adding into a slot of its own, so the bands, and with them the threads, can
// divide a strip anywhere between chunks without changing a bit of any result.
//
// A volume is cut alike: its strips are tiles of rows, its bands and chunks are of slices. The rows
// of a tile are processed in groups of kChunkRows on a fixed grid, too, and each has a slot in every
// chunk, so that tiles as well can depend on the threads.
#pragma once

#include <cstdint>

#include "core/pointwise.h"
#include "core/problem.h"
#include "core/taps.h"

namespace fused_ssim::cpu {

inline constexpr int kChunkRows = 8;
// Widest strip: 960 columns of float32 keep the value-and-gradient kernel at about 640 KB. Between
// 256 and 1920 columns the time changes by less than 10% where L2 has 2 MB; halos favour wide ones.
inline constexpr int64_t kMaxStripColumns = 960;
// Shorter bands would spend too much on the rows that neighbours share (4 radii).
inline constexpr int64_t kMinBandChunks = 12;
// Largest tile of a volume, in columns of voxels, of which the working set is some 500 bytes each.
inline constexpr int64_t kMaxTileColumns = 1 << 15;
// Fewer pixels than these take less time than another thread takes to wake up.
// (Xeon with AVX-512: a value of 1x3x64x64 takes 0.065 ms in two threads, 0.092 in one.)
inline constexpr int64_t kMinThreadPixels = 1 << 13;
// The radius that is fixed at compile time for symmetric windows of up to 11 taps.
inline constexpr int kFixedRadius = kDefaultWindowSize / 2;

// What the windows along both axes have in common; the strip kernel has a filter (cpu/filter.h) for
// each.
enum class WindowKind {
  kFixed,  // 2 kFixedRadius + 1 taps, symmetric, none larger than the middle one, not uniform
  kShort,  // at most so many, symmetric, none larger than the middle one
  kAny,
};
WindowKind window_kind(const Problem& problem);
// That of one axis, for the volume kernel, which has a filter for each.
WindowKind window_kind(const Problem& problem, SpatialAxis axis);
// Code for short windows alone is the same at many sizes. Builds with sanitizers do without, for their
// compiler's time: but for those of 11 taps, and in images of up to 3, which are more exact so, all
// windows go through the loop of run-time length there.
#if defined(FUSED_SSIM_FEW_WINDOWS)
inline constexpr bool kHasShortWindows = false;
inline constexpr int kLongestShortWindow = 3;
#else
inline constexpr bool kHasShortWindows = true;
inline constexpr int kLongestShortWindow = 2 * kFixedRadius + 1;
#endif
// Whether variances are merged (core/merging.h), out of line: levels must not have code that the baseline has.
bool has_merged_variances(const Problem& problem);
// The radius that the kernel works with along an axis: kFixedRadius, or the window's own; at most
// the image's size, since taps further out than that only see zeros (fit_taps() in core/taps.h).
int filter_radius(const Problem& problem, SpatialAxis axis);

// The side of the window that the kernel of whole numbers is for.
inline constexpr int kUniformSize = 7;
// Which kernel computes a problem; there is no other place where this is decided.
enum class Schedule {
  kStrips,
  kVolume,
  kUniform,             // whole numbers
  kUniformInterleaved,  // whole numbers, three channels at a time
};
Schedule schedule_of(const Problem& problem, const Request& request);

// What the kernels' numbers for pixels stand for. Two uint8 images are computed in whole numbers;
// everything else as what it stands for.
inline double pixel_unit(const Problem& problem) {
  const bool whole =
      problem.img1.dtype == FUSED_SSIM_UINT8 && problem.img2.dtype == FUSED_SSIM_UINT8;
  return whole ? 1.0 / problem.uint8_divisor : 1.0;
}

// Those of one image, for sums that are `multiple` times what they are called.
template <class T>
FUSED_SSIM_INLINE DoubledStabilizers<T> doubled_stabilizers(const Problem& problem, int64_t batch,
                                                            double multiple) {
  const T* own = static_cast<const T*>(problem.stabilizers);
  const double scale = multiple / pixel_unit(problem);
  const double c1 = own != nullptr ? static_cast<double>(own[2 * batch]) : problem.c1;
  const double c2 = own != nullptr ? static_cast<double>(own[2 * batch + 1]) : problem.c2;
  return {static_cast<T>(2 * scale * scale * c1),
          static_cast<T>(2 * scale * scale * (has_variance(problem) ? c2 : 1e30))};
}

// Over the pixels that one chunk of one strip owns.
using ChunkSums = PixelSums;

struct Task {
  int64_t plane;
  int64_t column_begin;  // of a strip
  int64_t column_end;
  int64_t row_begin;  // of a volume's tile: a multiple of kChunkRows
  int64_t row_end;
  // Chunk g finishes gradient rows [8g, 8g + 8), evaluates SSIM one radius below them, and reads
  // image rows two radii below; chunks before 0 finish no gradient row but own values near the top.
  // Of a volume: slices.
  int64_t chunk_begin;
  int64_t chunk_end;
  ChunkSums* sums;  // of chunk 0 of this plane and strip, or of the tile's first group of rows
  int64_t slots_per_group;
  int64_t slots_per_plane;
};

class Plan {
 public:
  Plan(const Problem& problem, int threads);

  int64_t tasks() const { return planes_ * strips_ * bands_; }
  // How many tasks make it worth to wake a thread for them.
  int64_t grain() const;
  // Slots to allocate; every task fills those it owns.
  int64_t slots() const { return planes_ * slots_per_plane(); }
  int64_t slots_per_plane() const { return groups_ * (lead_ + chunks_); }
  // Columns of a strip, or rows of a volume's tile.
  int64_t strip_size() const { return strip_size_; }

  Task task(int64_t index, ChunkSums* slots) const;

 private:
  void cut_image(const Problem& problem, int threads);
  void cut_volume(const Problem& problem, int threads);

  bool is_volume_;
  int64_t planes_;
  int64_t extent_;  // of what strips divide
  int64_t strips_;
  int64_t strip_size_;
  int64_t strip_pixels_;  // of a chunk
  int64_t groups_;        // of slots: strips, or groups of a volume's rows
  int64_t lead_;          // chunks before chunk 0
  int64_t chunks_;        // chunks from 0 on
  int64_t bands_;
};

}  // namespace fused_ssim::cpu
