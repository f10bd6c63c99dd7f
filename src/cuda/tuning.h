// Which kernel serves which size on which GPU, and the measurements behind each choice.
#pragma once

#include <cstdint>

#include "cuda/kernels.h"

namespace fused_ssim::cuda {

// Resident blocks that the compiler limits registers for: 512 threads a multiprocessor at up to 128
// registers, or 384 at up to 168. Narrow strips serve where shared memory holds no more than 384, and
// four maps of partials, whose filters alone hold 80 registers.
constexpr int strip_blocks_per_multiprocessor(int threads) {
  return threads == 128 ? 384 / threads : 512 / threads;
}

// Whether code for `architecture` (10 x major + minor) has the kernels of 256 threads. Before Hopper,
// where copies take instructions of every thread, 128 registers are too few for them; from 12.0 on a
// multiprocessor has too little shared memory.
constexpr bool has_wide_strips(int architecture) {
  return architecture >= 90 && architecture < 120;
}

// Threads a block, which is the widest strip in columns. Wide strips recompute fewer columns; narrow
// ones let more warps reside where shared memory is short (100 KB or less a multiprocessor), and four
// maps of partials leave registers for 12 warps only.
//   H200, value + gradient, us at 1x3x1080x1920, 1x3x2160x3840, 5x5x1080x1920:
//   256 threads 77, 266, 528; 128 threads 90, 291, 588.
constexpr int strip_threads(StripKind kind, int architecture, int shared_per_multiprocessor) {
  const bool four_maps = kind == StripKind::kTwoGradients || kind == StripKind::kWeighted;
  return four_maps || !has_wide_strips(architecture) || shared_per_multiprocessor < 128 * 1024
             ? 128
             : 256;
}

// Rows that a block owns at least: shorter ranges recompute too many rows above and below. Matters
// only where tiles don't serve. H200, value + gradient, us at 1x3x256x256 with 4, 8, 16, 24 rows, first
// version of the kernel: 22.0, 21.9, 18.8, 30.6.
constexpr int kStripMinRows = 16;

// What beginning another strip costs a block, in rows: the halo, and the wait for the first rows.
// H200, value at 1x3x1080x1920 with three blocks a multiprocessor: 65.5 us where ranges of rows cross
// from strip to strip, 53.8 us with whole ranges.
constexpr double strip_change_rows(bool gradient) { return gradient ? 20.0 : 14.0; }

// Pixels of all planes up to which tiles serve. H200, us, tiles / strips:
//                      1x3x256x256  1x3x448x448  1x3x512x512  1x3x576x576  1x3x640x640
//   value + gradient   10.6 / 19.0  21.9 / 27.9  25.2 / 28.5  33.8 / 28.7  38.9 / 33.4
//   value               8.4 / 12.7  12.8 / 18.2  16.3 / 18.8  19.3 / 18.9  21.7 / 21.7
// Maps are more accurate by tiles (docs/decisions/0006), so those stay with them for longer; kernels with
// four maps of partials, whose strips are narrow, have not been compared.
constexpr int64_t max_tiled_pixels(StripKind kind) {
  return kind == StripKind::kValue || kind == StripKind::kOneGradient ? 900000 : 1500000;
}
constexpr int kMaxTileRows = 96;

// What a tile of `rows` rows costs: instructions a column, and a constant for loads and barriers. It
// finds the best of the heights measured on an H200: value + gradient at 1x3x256x256, us for heights
// 8, 12, 16, 24, 32, 48: 19.2, 15.0, 16.1, 10.8, 11.7, 13.6; at 1x3x512x512: 64.9, 48.2, 41.1, 31.5, 28.2,
// 25.1.
constexpr double tile_cost(int rows, bool gradient) {
  return gradient ? 62.0 * (rows + 20) + 92.0 * (rows + 10) + 78.0 * rows + 2000.0
                  : 62.0 * (rows + 10) + 72.0 * rows + 1500.0;
}

}  // namespace fused_ssim::cuda
