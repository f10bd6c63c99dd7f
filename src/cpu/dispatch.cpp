#include "cpu/dispatch.h"

#include <cstddef>
#include <vector>

#include "cpu/level_functions.h"
#include "cpu/levels.h"

namespace fused_ssim::cpu {
namespace {

const LevelFunctions& functions() {
  switch (active_level()) {
#ifdef FUSED_SSIM_CPU_AVX512
    case Level::kAvx512:
      return kAvx512Functions;
#endif
#ifdef FUSED_SSIM_CPU_AVX2
    case Level::kAvx2:
      return kAvx2Functions;
#endif
    default:
      return kBaselineFunctions;
  }
}

}  // namespace

int64_t workspace_bytes(const Problem& problem, const Request& request, const Plan& plan) {
  return functions().workspace_bytes(problem, request, plan.strip_columns());
}

void run_tasks(const Problem& problem, const Request& request, const Plan& plan, int64_t begin,
               int64_t end, ChunkSums* slots, unsigned char* workspace) {
  std::vector<Task> tasks;
  tasks.reserve(static_cast<std::size_t>(end - begin));
  for (int64_t i = begin; i < end; ++i) {
    tasks.push_back(plan.task(i, slots));
  }
  functions().run(problem, request, tasks.data(), end - begin, plan.strip_columns(), workspace);
}

void reduce(const Problem& problem, const Request& request, const Plan& plan,
            const ChunkSums* slots) {
  const int64_t values = reduced_size(request.reduction, problem.shape);
  const int64_t slots_per_value =
      planes_per_value(request.reduction, problem.shape) * plan.slots_per_plane();
  const double divisor = static_cast<double>(reduction_divisor(request.reduction, problem));
  for (int64_t i = 0; i < values; ++i) {
    double ssim = 0.0;
    double l1 = 0.0;
    for (int64_t k = i * slots_per_value; k < (i + 1) * slots_per_value; ++k) {
      ssim += slots[k].ssim;
      l1 += slots[k].l1;
    }
    // l1 is left out rather than multiplied by 0, and the same for SSIM: it may be NaN.
    double sum = 0.0;
    if (request.ssim_weight != 0.0) {
      sum += request.ssim_weight * ssim;
    }
    if (request.l1_weight != 0.0) {
      sum += request.l1_weight * l1;
    }
    const double value = request.offset + sum / divisor;
    if (accumulates_in_double(problem.dtype)) {
      static_cast<double*>(request.value)[i] = value;
    } else {
      static_cast<float*>(request.value)[i] = static_cast<float>(value);
    }
  }
}

void scale_rows(const ScaleRequest& request, int64_t begin, int64_t end) {
  functions().scale_rows(request, begin, end);
}

}  // namespace fused_ssim::cpu
