// Which kernel serves which size on which GPU, and the measurements behind each choice.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "cuda/kernels.h"

namespace fused_ssim::cuda {

// How much the marching kernels keep in shared memory, for code of `architecture` (10 x major + minor).
enum class MarchLayout {
  kRoomy,    // up to 213 KB a block: a gradient's pixels until it is stored
  kCompact,  // up to 96 KB a multiprocessor: those of one chunk
  kNarrow,   // up to 64 KB: the same, one block of 128 columns for gradients, too
};
FUSED_SSIM_INLINE constexpr MarchLayout march_layout(int architecture) {
  return has_tensor_maps(architecture) && architecture < 120 ? MarchLayout::kRoomy
         : architecture == 75                                ? MarchLayout::kNarrow
                                                             : MarchLayout::kCompact;
}
// Whether the marching kernels load boxes.
constexpr bool marches_by_boxes(MarchLayout layout, StripLoader loader) {
  return layout == MarchLayout::kRoomy && is_of_boxes(loader);
}

// Columns of the marching kernel's strips, which are threads of each of its two kinds of warps, and
// its resident blocks: 16 warps a multiprocessor at up to 128 registers, or 24 at up to 80, which
// suffice for values whose pixels come in boxes, or 8 at up to 255 where shared memory has no room for more.
//   H100, us at 1x3x1080x1920, 1x3x2160x3840, 5x5x1080x1920:
//   value + gradient, one block of 256 columns 68.1, 231, 471; two of 128 71.9, 248, 506.
//   value, three blocks of 128 columns 40.7, 131.7, 262; two, pixels through registers, 40.7,
//   132.4, 280; one of 256 44.0, 136, 294. All with two hand-overs a chunk.
constexpr int march_columns(MarchLayout layout, StripKind kind) {
  return has_gradient(kind) && layout != MarchLayout::kNarrow ? 256 : 128;
}
constexpr int march_blocks_per_multiprocessor(MarchLayout layout, StripKind kind,
                                              StripLoader loader) {
  return marches_by_boxes(layout, loader) && !has_gradient(kind)                ? 3
         : layout == MarchLayout::kNarrow || march_columns(layout, kind) == 256 ? 1
                                                                                : 2;
}
// Where one block a multiprocessor is enough, it may have more registers: H100, us of values at
// 1x3x512x512, with 80 and with 96 of them: 9.3, 8.9.
constexpr bool has_single_block_instance(MarchLayout layout, StripKind kind, StripLoader loader) {
  return layout == MarchLayout::kRoomy && kind == StripKind::kValue &&
         (loader == StripLoader::kFloatQuads || loader == StripLoader::kHalfBoxes);
}

// Rows that a block owns at least: shorter ranges recompute too many rows above and below. Matters
// only where tiles don't serve. H200, value + gradient, us at 1x3x256x256 with 4, 8, 16, 24 rows,
// first version of the kernel: 22.0, 21.9, 18.8, 30.6.
inline constexpr int kMinRows = 16;

// What beginning another strip costs a block of the marching kernel, in rows: the halo, and the way
// through the schedule. H100, us with 24, 32, 40 rows at 1x3x1080x1920: 69.1, 68.9, 68.0; values
// with 14, 20, 28 rows: 41.7, 41.2, 40.1.
constexpr int march_change_rows(bool gradient) { return gradient ? 40 : 28; }

// Rows that the first block of a strip has more than the others, where whole blocks share it, and
// at most that the last block has: the marching kernel leaves out rows above an image, and most of
// what there is to do below it. H100, us without these, with them: 1x3x512x512 19.6, 18.6; values
// 9.4, 8.9. Values in three blocks a multiprocessor do without: 36.4 instead of 35.5 at
// 1x3x1080x1920.
constexpr bool spares_rows(bool gradient, int resident) { return gradient || resident < 3; }
constexpr int spared_top_rows(bool gradient) { return gradient ? 4 : 5; }
constexpr int spared_bottom_rows(bool gradient) { return gradient ? 5 : 2; }

// Time of the marching kernel where each multiprocessor has `resident` blocks that go through
// `chunks` chunks of 8 rows. H100, us of values, measured with 1, 3 blocks a multiprocessor:
//   1x3x384x384 7.4, 11.1    1x3x512x512 8.9, 11.6     1x3x640x640 12.1, 13.6
//   1x3x768x768 15.5, 15.5   1x3x720x1280 21.4, 20.8   1x3x1024x1024 23.4, 22.5
//   8x3x256x256 15.1, 15.3   1x3x1080x1920 41.0, 35.7
constexpr double march_cost(int resident, int chunks) {
  return 3.24 + 0.31 * resident + (0.22 + 0.545 * resident) * chunks;
}

// Chunks of 8 rows that a block goes through for `rows` own ones.
FUSED_SSIM_INLINE constexpr int strip_chunks(int64_t rows, bool gradient) {
  return static_cast<int>((rows + (gradient ? 20 : 10) + 7) / 8);
}

// Pixels of all planes up to which tiles serve. H100, us, tiles / strips of the marching kernel:
//                      1x3x256x256  1x3x320x320  1x3x352x352  1x3x512x512
//   value + gradient    7.5 / 12.6   9.7 / 13.2  10.7 / 13.3  19.7 / 17.3
//   value               5.0 /  7.8   5.8 /  7.3   6.9 /  7.3            8.9
// Elsewhere an earlier kernel took over from earlier tiles at 0.9 Mpixel (H200); the march with less room has
// not been compared. Maps
// are more accurate by tiles (docs/decisions/0006), so those stay with them for longer, although
// strips are up to twice as fast. Maps of bytes always do (as far as 31 bits can count tiles): by
// strips two photographs were 1.2e-4 off, and where these are wanted time is not what counts.
// Kernels with four maps of partials have not been compared.
constexpr int64_t max_tiled_pixels(StripKind kind, bool bytes, int architecture) {
  return is_masked_kind(kind)                                           ? 0
         : kind == StripKind::kMap && bytes                             ? int64_t{1} << 30
         : kind == StripKind::kMap                                      ? 3000000
         : kind != StripKind::kValue && kind != StripKind::kOneGradient ? 1500000
         : march_layout(architecture) == MarchLayout::kRoomy            ? 400000
         : kind == StripKind::kValue                                    ? 750000
                                                                        : 900000;
}
constexpr int kMaxTileRows = 128;

// Rows of a column that a thread of a tile filters at once.
inline constexpr int kTileSegment = 8;
inline constexpr int kTileThreads = 512;

// What a tile of `rows` rows costs: instructions of the thread that has most to do, phase by phase,
// and a constant for loads and barriers.
constexpr double tile_cost(int rows, bool gradient) {
  const auto rounds = [](int items) { return (items + kTileThreads - 1) / kTileThreads; };
  const int moment_rows = rows + (gradient ? 10 : 0);
  const int segments = (moment_rows + kTileSegment - 1) / kTileSegment;
  const int own_segments = (rows + kTileSegment - 1) / kTileSegment;
  double cost = 1500.0;
  cost += rounds((moment_rows + 10) * 22) * 24.0;
  cost += rounds((moment_rows + 10) * 19) * 225.0;
  cost += rounds(segments * 76) * (gradient ? 95.0 : 78.0) * kTileSegment;
  if (gradient) {
    cost += rounds(own_segments * 76) * 3.0 * (14.0 * kTileSegment + 10.0);
    cost += rounds(rows * 16) * 195.0;
  }
  return cost;
}

// How blocks of the marching kernel share the strips.
struct MarchShares {
  int blocks;
  int change_rows;  // StripParams::strip_change_rows
  int units_per_strip;
};

MarchShares share_strips(const DeviceFacts& device, StripKind kind, StripLoader loader,
                         int own_rows, int64_t strips, int capacity, const StripChoice& choice,
                         bool whole_image);

// The best loader for these types.
StripLoader choose_loader(DType dtype1, DType dtype2, bool quads, bool boxes);

}  // namespace fused_ssim::cuda
