// Which kernel serves which size on which GPU, and the measurements behind each choice.
#pragma once

#include <cstdint>

#include "cuda/kernels.h"

namespace fused_ssim::cuda {

// Resident blocks that the compiler limits registers for.
constexpr int strip_blocks_per_multiprocessor(StripKind kind, int threads) {
  const bool four_maps = kind == StripKind::kTwoGradients || kind == StripKind::kWeighted;
  const bool forward = kind == StripKind::kValue || kind == StripKind::kMap;
  return (four_maps ? 384 : forward ? 768 : 512) / threads;
}

// Threads a block, which is the widest strip in columns.
constexpr int strip_threads(StripKind kind, int capability) {
  const bool four_maps = kind == StripKind::kTwoGradients || kind == StripKind::kWeighted;
  return four_maps || capability < 80 ? 128 : 256;
}

// Rows that a block owns at least: shorter ranges recompute too many rows above and below.
constexpr int kStripMinRows = 16;

}  // namespace fused_ssim::cuda
