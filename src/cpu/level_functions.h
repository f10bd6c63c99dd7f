// The kernels of one instruction-set level behind one table of functions.
#pragma once

#include "core/problem.h"
#include "cpu/plan.h"

namespace fused_ssim::cpu {

struct LevelFunctions {
  int64_t (*workspace_bytes)(const Problem&, const Request&, int64_t strip_size);
  void (*run)(const Problem&, const Request&, const Task*, int64_t task_count, int64_t strip_size,
              unsigned char* workspace);
  void (*scale_rows)(const ScaleRequest&, int64_t row_begin, int64_t row_end);
  void (*halve_rows)(const HalveRequest&, int64_t row_begin, int64_t row_end);
  void (*accumulate_rows)(const AccumulateRequest&, int64_t row_begin, int64_t row_end);
  double (*mask_sum)(const Problem&, int64_t batch, int64_t channel);
};

extern const LevelFunctions kBaselineFunctions;
extern const LevelFunctions kAvx2Functions;
extern const LevelFunctions kAvx512Functions;

}  // namespace fused_ssim::cpu
