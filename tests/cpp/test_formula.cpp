// The formula of src/core against the textbook form, and its partials against finite differences.
#include <cmath>
#include <initializer_list>

#include "check.h"
#include "core/pointwise.h"

using namespace fused_ssim;

namespace {

const DoubledStabilizers<double> kStabilizers = {2e-4, 18e-4};

double textbook(int statistic, double mean_x, double mean_y, double var_x, double var_y,
                double cov) {
  const double luminance =
      (2 * mean_x * mean_y + 1e-4) / (mean_x * mean_x + mean_y * mean_y + 1e-4);
  const double contrast = (2 * cov + 9e-4) / (var_x + var_y + 9e-4);
  return statistic == FUSED_SSIM_STATISTIC_CONTRAST    ? contrast
         : statistic == FUSED_SSIM_STATISTIC_LUMINANCE ? luminance
                                                       : luminance * contrast;
}

// The value against the textbook, the partials against its finite differences, by the kernels'
// variables: E[s], E[d], E[s^2], E[d^2], shifted.
template <int kStatistic>
void compare(const Moments<double>& m, double shift_s, double shift_d, double expected) {
  const PixelStatistic<2, double> pixel =
      pixel_statistic<kStatistic, 2>(m, shift_s, shift_d, kStabilizers);
  EXPECT(std::fabs(pixel.value() - expected) < 1e-12, "the value");
  // By the mean of x alone E[s] and E[d] move together, by that of y against each other.
  const double moves[4][4] = {{1, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}, {1, -1, 0, 0}};
  const double factors[4] = {4, 2, 2, 4};  // left out by the formula
  for (int i = 0; i < 4; ++i) {
    const double h = 1e-6;
    const auto value_at = [&](double by) {
      const Moments<double> moved = {m.mean_s + by * moves[i][0], m.mean_d + by * moves[i][1],
                                     m.mean_s2 + by * moves[i][2], m.mean_d2 + by * moves[i][3]};
      return pixel_statistic<kStatistic, 0>(moved, shift_s, shift_d, kStabilizers).value();
    };
    const double analytic = factors[i] * pixel.partials[i];
    const double difference = (value_at(h) - value_at(-h)) / (2 * h);
    EXPECT(std::fabs(difference - analytic) <= 4e-5 * (1 + std::fabs(analytic)),
           "partial " + std::to_string(i) + " of statistic " + std::to_string(kStatistic));
  }
}

}  // namespace

int main() {
  for (const double mean_x : {0.0, 0.1, 0.5, 0.93, -0.4}) {
    for (const double mean_y : {0.0, 0.2, 0.5, 1.0}) {
      for (const double var_x : {0.01, 0.08}) {
        for (const double var_y : {0.02, 0.05}) {
          for (const double correlation : {-0.9, 0.0, 0.6, 0.999}) {
            for (const double shift : {0.0, 0.7}) {
              const double cov = correlation * std::sqrt(var_x * var_y);
              const double shift_s = shift;
              const double shift_d = -0.3 * shift;
              Moments<double> m;
              m.mean_s = mean_x + mean_y - shift_s;
              m.mean_d = mean_x - mean_y - shift_d;
              m.mean_s2 = m.mean_s * m.mean_s + var_x + var_y + 2 * cov;
              m.mean_d2 = m.mean_d * m.mean_d + var_x + var_y - 2 * cov;
              const auto expected = [&](int statistic) {
                return textbook(statistic, mean_x, mean_y, var_x, var_y, cov);
              };
              compare<FUSED_SSIM_STATISTIC_SSIM>(m, shift_s, shift_d, expected(0));
              compare<FUSED_SSIM_STATISTIC_CONTRAST>(m, shift_s, shift_d, expected(1));
              compare<FUSED_SSIM_STATISTIC_LUMINANCE>(m, shift_s, shift_d, expected(2));
            }
          }
        }
      }
    }
  }
  // White against black: the luminance is C1 / (1 + C1), and to the last digits so.
  const Moments<float> flat = {0.0f, 0.0f, 0.0f, 0.0f};
  const SsimTerms<float> opposite =
      ssim_terms(flat, 1.0f, 1.0f, DoubledStabilizers<float>{2e-4f, 18e-4f});
  EXPECT(std::fabs(opposite.luminance - 1e-4 / 1.0001) <= 2e-11, "white against black");
  // And so are the partial derivatives there, as float32 gives them: of x, which is bright, and y.
  {
    const Moments<double> exact_moments = {0.01, 0.02, 0.0104, 0.0106};
    const Moments<float> moments = {0.01f, 0.02f, 0.0104f, 0.0106f};
    const SsimTerms<double> exact = ssim_terms(exact_moments, 0.98, 0.97, kStabilizers);
    const DoubledStabilizers<float> stabilizers = {2e-4f, 18e-4f};
    const SsimTerms<float> terms = ssim_terms(moments, 0.98f, 0.97f, stabilizers);
    for (const double sign : {1.0, -1.0}) {
      const double expected =
          mean_partial(exact_moments, exact, square_partials(exact), kStabilizers, sign);
      const float got = mean_partial(moments, terms, square_partials(terms), stabilizers,
                                     static_cast<float>(sign));
      EXPECT(std::fabs(got / expected - 1.0) <= 1e-5, "partial of bright against black");
    }
  }
  // Identical images: exactly 1, whatever rounding left in the variance of s.
  Moments<float> same = {0.3f, 0.0f, 0.0899999f, 0.0f};
  const SsimTerms<float> agreeing =
      ssim_terms(same, 0.9f, 0.0f, DoubledStabilizers<float>{2e-4f, 18e-4f});
  EXPECT(statistic_value<FUSED_SSIM_STATISTIC_SSIM>(agreeing) == 1.0f, "identical images");
  EXPECT(statistic_value<FUSED_SSIM_STATISTIC_CONTRAST>(agreeing) == 1.0f, "identical images");
  EXPECT(statistic_value<FUSED_SSIM_STATISTIC_LUMINANCE>(agreeing) == 1.0f, "identical images");
  return check::report();
}
