// MS-SSIM from scale to scale, by the public C interface: halves against plain means, the way back as
// their adjoint, the product of the means and its derivatives, bad arguments.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "fused_ssim/kernels.h"

namespace {

double number(std::size_t i) { return 0.125 * static_cast<double>(i * i % 37) - 2.0; }

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

// The sizes of one plane.
void halve_and_back(int64_t depth, int64_t height, int64_t width, int32_t dims, int32_t odd) {
  const std::string what = std::to_string(depth) + "x" + std::to_string(height) + "x" +
                           std::to_string(width) + (odd == FUSED_SSIM_ODD_PAD ? " pad" : " crop");
  constexpr int64_t kPlanes = 2;
  const int64_t sizes[] = {depth, height, width};
  int64_t halved[3];
  int64_t lead[3];
  for (int axis = 0; axis < 3; ++axis) {
    const bool is_halved = axis >= 3 - dims;
    halved[axis] = is_halved ? fused_ssim_halved_size(sizes[axis], odd) : sizes[axis];
    lead[axis] = is_halved && odd == FUSED_SSIM_ODD_PAD ? sizes[axis] % 2 : 0;
  }
  const int64_t pixels = depth * height * width;
  const int64_t cells = halved[0] * halved[1] * halved[2];
  std::vector<double> image(static_cast<std::size_t>(kPlanes * pixels));
  for (std::size_t i = 0; i < image.size(); ++i) {
    image[i] = number(i);
  }
  std::vector<double> half(static_cast<std::size_t>(kPlanes * cells), NAN);

  FusedSsimHalveRequest halve = {};
  halve.struct_size = sizeof halve;
  const int64_t shape[] = {1, kPlanes, depth, height, width};
  std::copy(shape, shape + FUSED_SSIM_AXES, halve.sizes);
  halve.spatial_dims = dims;
  halve.odd_sizes = odd;
  halve.uint8_divisor = 1;
  halve.dtype = FUSED_SSIM_FLOAT64;
  halve.images[0] = {
      image.data(), {kPlanes * pixels, pixels, height * width, width, 1}, FUSED_SSIM_FLOAT64};
  halve.halves[0] = half.data();
  const int64_t rows = kPlanes * halved[0] * halved[1];
  EXPECT(fused_ssim_cpu_halve_rows(&halve, 0, 1) == FUSED_SSIM_OK, what);  // any split of the rows
  EXPECT(fused_ssim_cpu_halve_rows(&halve, 1, rows) == FUSED_SSIM_OK, what);
  EXPECT(fused_ssim_cpu_halve_rows(&halve, 0, rows + 1) == FUSED_SSIM_INVALID_ARGUMENT, what);

  std::vector<double> expected(half.size(), 0.0);
  for (int64_t i = 0; i < kPlanes * pixels; ++i) {
    const int64_t at[] = {i / width / height % depth, i / width % height, i % width};
    int64_t cell = i / pixels;
    bool inside = true;
    for (int axis = 0; axis < 3; ++axis) {
      const bool is_halved = axis >= 3 - dims;
      const int64_t index = is_halved ? (at[axis] + lead[axis]) / 2 : at[axis];
      inside = inside && index < halved[axis];
      cell = cell * halved[axis] + index;
    }
    if (inside) {
      expected[static_cast<std::size_t>(cell)] +=
          image[static_cast<std::size_t>(i)] / std::pow(2.0, dims);
    }
  }
  EXPECT(half == expected, what);  // multiples of 2^-6: no rounding

  // <halve(image), g> = <image, its adjoint(g)>, beside a gradient of the image's own scale.
  std::vector<double> coarser(half.size());
  for (std::size_t i = 0; i < coarser.size(); ++i) {
    coarser[i] = number(3 * i + 1);
  }
  std::vector<double> out(image.size(), NAN);
  const double upstream[] = {0.5, -1.0};
  const double derivatives[] = {4.0, 0.25};
  FusedSsimAccumulateRequest back = {};
  back.struct_size = sizeof back;
  std::copy(shape, shape + FUSED_SSIM_AXES, back.sizes);
  back.spatial_dims = dims;
  back.odd_sizes = odd;
  back.unit = halve.images[0];
  back.out = fused_ssim_output(out.data(), back.unit);
  back.upstream = upstream;
  back.derivatives = derivatives;
  back.coarser = coarser.data();
  back.factor = 2.0;
  EXPECT(fused_ssim_cpu_accumulate_rows(&back, 0, kPlanes * depth * height) == FUSED_SSIM_OK, what);
  for (int64_t i = 0; i < kPlanes * pixels; ++i) {
    const auto plane = static_cast<std::size_t>(i / pixels);
    out[static_cast<std::size_t>(i)] -=
        2.0 * upstream[plane] * derivatives[plane] * image[static_cast<std::size_t>(i)];
  }
  EXPECT(std::fabs(dot(half, coarser) - dot(image, out)) < 1e-9, what);
}

void factors() {
  const double means[] = {0.9, -0.5, 0.25, 0.5, 0.75, 0.001};  // three scales of two planes
  const double exponents[] = {0.5, 2.0, 1.0};
  const double divisors[] = {1.0, 2.0, 4.0};
  double products[2];
  double derivatives[6];
  FusedSsimFactorsRequest request = {};
  request.struct_size = sizeof request;
  request.scales = 3;
  request.planes = 2;
  request.dtype = FUSED_SSIM_FLOAT64;
  request.exponents = exponents;
  request.divisors = divisors;
  request.means = means;
  request.products = products;
  request.derivatives = derivatives;
  EXPECT(fused_ssim_cpu_factors(&request) == FUSED_SSIM_OK, "relu");
  EXPECT(std::fabs(products[0] - std::sqrt(0.9) * 0.0625 * 0.75) < 1e-15, "the first plane");
  EXPECT(std::fabs(derivatives[2] - std::sqrt(0.9) * 2.0 * 0.25 * 0.75 / 2.0) < 1e-15, "its slope");
  EXPECT(products[1] == 0.0 && derivatives[1] == 0.0, "a mean below zero");
  request.negative = FUSED_SSIM_NEGATIVE_SMOOTH;
  EXPECT(fused_ssim_cpu_factors(&request) == FUSED_SSIM_OK, "smooth");
  const double below = std::sqrt(0.01) / (1.0 + 0.5 * 0.51 / 0.01);
  const double last = 0.01 / (1.0 + 0.009 / 0.01);
  EXPECT(std::fabs(products[1] - below * 0.25 * last) < 1e-15, "means below t");
  EXPECT(derivatives[1] > 0.0 && derivatives[5] > 0.0, "a gradient that is alive");
  request.scales = 0;
  EXPECT(fused_ssim_cpu_factors(&request) == FUSED_SSIM_INVALID_ARGUMENT, "no scales");
}

}  // namespace

int main() {
  for (const int32_t odd : {FUSED_SSIM_ODD_PAD, FUSED_SSIM_ODD_CROP}) {
    for (const int64_t height : {6, 7}) {
      for (const int64_t width : {8, 9, 2051}) {  // rows are taken in parts
        halve_and_back(1, height, width, 2, odd);
        halve_and_back(3, height, width, 3, odd);
        halve_and_back(3, height, width, 1, odd);
      }
    }
  }
  factors();
  return check::report();
}
