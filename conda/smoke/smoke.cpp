// Value and gradient on the CPU, through the headers and libraries of an installation.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "fused_ssim/kernels.h"
#include "fused_ssim/version.h"

namespace {

constexpr int64_t kChannels = 3, kHeight = 33, kWidth = 47, kPixels = kChannels * kHeight * kWidth;

float mean_ssim(const std::vector<float>& img1, const std::vector<float>& img2,
                std::vector<float>* gradient) {
  const FusedSsimImage first = fused_ssim_planar(img1.data(), kChannels, kHeight, kWidth);
  const FusedSsimImage second = fused_ssim_planar(img2.data(), kChannels, kHeight, kWidth);
  const FusedSsimProblem problem = fused_ssim_problem(1, kChannels, kHeight, kWidth, first, second);
  float value = 0;
  FusedSsimRequest request = fused_ssim_request();
  request.value = &value;
  if (gradient != nullptr) {
    request.grad1 = fused_ssim_output(gradient->data(), first);
    request.gradient_of_sum = 1;
  }
  fused_ssim::kernels::run(problem, request, 1);
  return value;
}

}  // namespace

int main() try {
  std::vector<float> image(kPixels), other(kPixels), gradient(kPixels);
  for (int64_t i = 0; i < kPixels; ++i) {
    image[i] = 0.5F + 0.4F * std::sin(0.7F * static_cast<float>(i));
    other[i] = 0.5F + 0.4F * std::sin(0.7F * static_cast<float>(i) + 0.5F);
  }
  const float equal = mean_ssim(image, image, nullptr);
  const float before = mean_ssim(image, other, &gradient);
  for (int64_t i = 0; i < kPixels; ++i) {
    image[i] += 1e-2F * gradient[i];  // uphill
  }
  const float after = mean_ssim(image, other, nullptr);
  std::printf("fused_ssim %s: %g for equal images, %g then %g\n", fused_ssim_cpu_info()->version,
              equal, before, after);
  const bool one_version = std::string(fused_ssim_cpu_info()->version) == FUSED_SSIM_VERSION;
  return one_version && equal == 1.0F && before < after && after < 1.0F ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
