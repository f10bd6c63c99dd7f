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

// Number i of an array in the accumulation type.
void write(const Problem& problem, void* to, int64_t i, double value) {
  if (accumulates_in_double(problem)) {
    static_cast<double*>(to)[i] = value;
  } else {
    static_cast<float*>(to)[i] = static_cast<float>(value);
  }
}

}  // namespace

int64_t workspace_bytes(const Problem& problem, const Request& request, const Plan& plan) {
  return functions().workspace_bytes(problem, request, plan.strip_size());
}

void run_tasks(const Problem& problem, const Request& request, const Plan& plan, int64_t begin,
               int64_t end, ChunkSums* slots, unsigned char* workspace) {
  std::vector<Task> tasks;
  tasks.reserve(static_cast<std::size_t>(end - begin));
  for (int64_t i = begin; i < end; ++i) {
    tasks.push_back(plan.task(i, slots));
  }
  functions().run(problem, request, tasks.data(), end - begin, plan.strip_size(), workspace);
}

void reduce(const Problem& problem, const Request& request, const Plan& plan,
            const ChunkSums* slots) {
  const int64_t values = value_count(request.reduction, problem.sizes);
  const int64_t slots_per_value =
      planes_per_value(request.reduction, problem.sizes) * plan.slots_per_plane();
  const double unit = pixel_unit(problem);
  if (request.value == nullptr && request.mse == nullptr) {
    return;
  }
  for (int64_t i = 0; i < values; ++i) {
    PixelSums sums = {0.0, 0.0, 0.0};
    for (int64_t k = i * slots_per_value; k < (i + 1) * slots_per_value; ++k) {
      sums.statistic += slots[k].statistic;
      sums.absolute += slots[k].absolute;
      sums.squares += slots[k].squares;
    }
    sums.absolute *= unit;
    sums.squares *= unit * unit;
    const double divisor = reduction_divisor(problem, request, i);
    if (request.value != nullptr) {
      write(problem, request.value, i, reduced_value(problem, request, sums, divisor));
    }
    if (request.mse != nullptr) {
      write(problem, request.mse, i, sums.squares / divisor);
    }
  }
}

void mask_sums(const Problem& problem, int32_t reduction, void* sums) {
  const int64_t channels = problem.sizes[FUSED_SSIM_AXIS_CHANNEL];
  std::vector<double> of_planes(static_cast<std::size_t>(plane_count(problem.sizes)));
  const auto plane_sum = [&](std::size_t plane) {
    const auto batch = static_cast<int64_t>(plane) / channels;
    const auto channel = static_cast<int64_t>(plane) % channels;
    // A mask that planes share is read once.
    if (channel > 0 && problem.mask.strides[FUSED_SSIM_AXIS_CHANNEL] == 0) {
      return of_planes[plane - 1];
    }
    if (batch > 0 && problem.mask.strides[FUSED_SSIM_AXIS_BATCH] == 0) {
      return of_planes[plane - static_cast<std::size_t>(channels)];
    }
    return functions().mask_sum(problem, batch, channel);
  };
  const auto planes = static_cast<std::size_t>(planes_per_value(reduction, problem.sizes));
  double sum = 0.0;
  for (std::size_t plane = 0; plane < of_planes.size(); ++plane) {
    of_planes[plane] = plane_sum(plane);
    sum = (plane % planes == 0 ? 0.0 : sum) + of_planes[plane];
    if ((plane + 1) % planes == 0) {
      write(problem, sums, static_cast<int64_t>(plane / planes), sum);
    }
  }
}

void scale_rows(const ScaleRequest& request, int64_t begin, int64_t end) {
  functions().scale_rows(request, begin, end);
}

void halve_rows(const HalveRequest& request, int64_t begin, int64_t end) {
  functions().halve_rows(request, begin, end);
}

void accumulate_rows(const AccumulateRequest& request, int64_t begin, int64_t end) {
  functions().accumulate_rows(request, begin, end);
}

}  // namespace fused_ssim::cpu
