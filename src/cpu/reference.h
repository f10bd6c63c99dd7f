// The kernels' slow, obvious twin: float64, direct two-dimensional windows, the textbook moments
// E[x], E[y], E[x^2], E[y^2], E[xy], the gradient by scattering. Shares no formula with src/core;
// the C++ tests compare the kernels with it.
#pragma once

#include <cstdint>
#include <vector>

namespace fused_ssim::cpu {

// One plane, row-major.
struct ReferencePlane {
  int64_t height = 0;
  int64_t width = 0;
  std::vector<double> x;  // [height, width]
  std::vector<double> y;  // [height, width]
};

struct ReferenceDefinition {
  std::vector<double> taps_y;  // along the height, any odd number of them
  std::vector<double> taps_x;
  double c1 = 1e-4;
  double c2 = 9e-4;
  bool valid = false;
  int statistic = 0;  // FUSED_SSIM_STATISTIC_SSIM, ...
};

// [height, width]; NaN where "valid" gives no value.
std::vector<double> reference_map(const ReferencePlane& plane, const ReferenceDefinition& d);

struct ReferenceGradients {
  std::vector<double> x;  // [height, width]
  std::vector<double> y;
};
// d(sum of weight * statistic)/d(image); weight is [height, width], read where there is a value.
ReferenceGradients reference_gradients(const ReferencePlane& plane, const ReferenceDefinition& d,
                                       const std::vector<double>& weight);

}  // namespace fused_ssim::cpu
