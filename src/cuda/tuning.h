// Which kernel serves which size on which GPU, and the measurements behind each choice.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "cuda/kernels.h"

namespace fused_ssim::cuda {

// Resident blocks that the compiler limits registers for: 16 warps a multiprocessor at up to 128
// registers, or 12 at up to 168: where the strip is narrow and a gradient wanted, the column filters alone
// hold 70 or 80 of them.
//   H200, values by 128 threads, us at 1x3x1080x1920, 1x3x2160x3840, 5x5x1080x1920: 4 blocks 42.1, 136.7,
//   274.9; 5 blocks 42.6, 138.2, 276.4. By 256 threads, 2 blocks: 45.0, 147.7, 307.6.
constexpr int strip_blocks_per_multiprocessor(StripKind kind, int threads) {
  const bool gradient = kind != StripKind::kValue && kind != StripKind::kMap;
  return (threads == 128 && gradient ? 384 : 512) / threads;
}

// Whether code for `architecture` (10 x major + minor) has the kernels of 256 threads. Before Hopper,
// where copies take instructions of every thread, 128 registers are too few for them; from 12.0 on a
// multiprocessor has too little shared memory.
constexpr bool has_wide_strips(int architecture) {
  return architecture >= 90 && architecture < 120;
}

// Whether code for `architecture` has the pipeline kernels, which need 213 KB of shared memory a block.
constexpr bool has_pipeline(int architecture) { return architecture >= 90 && architecture < 120; }

// Columns of its strips, which are threads of each of its two kinds of warps; and its resident blocks.
#ifndef VALUE_COLUMNS
#define VALUE_COLUMNS 128
#define VALUE_BLOCKS 3
#endif
#ifndef GRAD_COLUMNS
#define GRAD_COLUMNS 256
#define GRAD_BLOCKS 1
#endif
constexpr int pipeline_columns(StripKind kind) {
  return kind == StripKind::kValue || kind == StripKind::kMap ? VALUE_COLUMNS : GRAD_COLUMNS;
}
constexpr int pipeline_blocks_per_multiprocessor(StripKind kind, StripLoader loader) {
  return kind == StripKind::kValue || kind == StripKind::kMap
             ? (loader == StripLoader::kFloatQuads ? VALUE_BLOCKS : 2)
             : GRAD_BLOCKS;
}
#ifndef CHANGE_G
#define CHANGE_G 32
#define CHANGE_V 20
#endif

// Threads a block, which is the widest strip in columns. Wide strips recompute fewer columns for a gradient;
// narrow ones let more warps reside where shared memory is short (two wide blocks take 211 KB), and four
// maps of partials leave registers for 12 warps only.
//   H200, value + gradient, us at 1x3x1080x1920, 1x3x2160x3840, 5x5x1080x1920:
//   256 threads 74.2, 264, 524; 128 threads 89.7, 282, 564 (3 blocks) or 88.1, 289, 573 (4 blocks).
constexpr int strip_threads(StripKind kind, int architecture, int shared_per_multiprocessor) {
  return kind == StripKind::kOneGradient && has_wide_strips(architecture) &&
                 shared_per_multiprocessor >= 128 * 1024
             ? 256
             : 128;
}

// Rows that a block owns at least: shorter ranges recompute too many rows above and below. Matters
// only where tiles don't serve. H200, value + gradient, us at 1x3x256x256 with 4, 8, 16, 24 rows, first
// version of the kernel: 22.0, 21.9, 18.8, 30.6.
constexpr int kStripMinRows = 16;

// How blocks share the strips is decided by counting chunks: whether their ranges of rows end with a strip or
// cross to the next. H200, us of a value with ranges that end, that cross: 42.2, 45.7 at 1x3x1080x1920; 141.8,
// 137.5 at 1x3x2160x3840. The first and the last are what the count chooses.

// Chunks of 8 rows that a block goes through for `rows` own ones.
FUSED_SSIM_INLINE constexpr int strip_chunks(int64_t rows, bool gradient) {
  return static_cast<int>((rows + (gradient ? 20 : 10) + 7) / 8);
}

// What beginning another strip costs a block, in chunks: the halo, and the wait for the first rows.
constexpr int64_t strip_change_chunks(bool gradient) { return gradient ? 4 : 3; }

// The same for the pipeline kernel, in rows: the halo, and the way through the pipeline.
constexpr int pipeline_change_rows(bool gradient) { return gradient ? CHANGE_G : CHANGE_V; }

// Pixels of all planes up to which tiles serve. H200, us, tiles / strips:
//                      1x3x320x320  1x3x384x384  1x3x448x448  1x3x512x512
//   value + gradient   11.6 / 17.3  14.5 / 25.1  19.8 / 25.7  23.1 / 25.6
//   value               7.2 / 10.3   8.7 / 10.8  10.9 / 13.4  14.0 / 13.5
// Larger tiles were last measured before decision 0010: 33.8 / 28.7 for value + gradient at 1x3x576x576.
// Maps are more accurate by tiles (docs/decisions/0006), so those stay with them for longer; kernels with
// four maps of partials, whose strips are narrow, have not been compared.
constexpr int64_t max_tiled_pixels(StripKind kind) {
  return kind == StripKind::kValue ? 750000 : kind == StripKind::kOneGradient ? 900000 : 1500000;
}
constexpr int kMaxTileRows = 128;

// What a tile of `rows` rows costs: instructions of the thread that has most to do, phase by phase, and a
// constant for loads and barriers.
constexpr double tile_cost(int rows, int segment, bool gradient) {
  const auto rounds = [](int items) { return (items + 511) / 512; };
  const int moment_rows = rows + (gradient ? 10 : 0);
  const int segments = (moment_rows + segment - 1) / segment;
  const int own_segments = (rows + segment - 1) / segment;
  double cost = 1500.0;
  cost += rounds((moment_rows + 10) * 22) * 24.0;
  cost += rounds((moment_rows + 10) * 19) * 225.0;
  cost += rounds(segments * 76) * (gradient ? 95.0 : 78.0) * segment;
  if (gradient) {
    cost += rounds(own_segments * 76) * 3.0 * (14.0 * segment + 10.0);
    cost += rounds(rows * 16) * 195.0;
  }
  return cost;
}

}  // namespace fused_ssim::cuda
