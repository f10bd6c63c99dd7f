// The formula of src/core against the textbook form, and its partials against finite differences.
#include <cmath>
#include <initializer_list>

#include "check.h"
#include "core/ssim_formula.h"

using namespace fused_ssim;

namespace {

const Stabilizers<double> kStabilizers = {1e-4, 9e-4};

// Through the total derivatives of the kernel's convention: E[s], E[d], E[s^2], E[d^2], shifted.
double value(const Moments<double>& m, double shift_s, double shift_d) {
  return ssim_value(ssim_terms(m, shift_s, shift_d, kStabilizers));
}

double textbook(double mean_x, double mean_y, double var_x, double var_y, double cov) {
  return (2 * mean_x * mean_y + 1e-4) * (2 * cov + 9e-4) /
         ((mean_x * mean_x + mean_y * mean_y + 1e-4) * (var_x + var_y + 9e-4));
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
              const SsimTerms<double> terms = ssim_terms(m, shift_s, shift_d, kStabilizers);
              EXPECT(std::fabs(ssim_value(terms) - textbook(mean_x, mean_y, var_x, var_y, cov)) <
                         1e-12,
                     "the value");
              const Partials<double> p = ssim_partials(m, terms);
              const double analytic[] = {p.by_mean_s, p.by_mean_d, p.by_mean_s2, p.by_mean_d2};
              double Moments<double>::* const fields[] = {
                  &Moments<double>::mean_s, &Moments<double>::mean_d, &Moments<double>::mean_s2,
                  &Moments<double>::mean_d2};
              for (int i = 0; i < 4; ++i) {
                const double h = 1e-6;
                Moments<double> above = m;
                Moments<double> below = m;
                above.*fields[i] += h;
                below.*fields[i] -= h;
                const double difference =
                    (value(above, shift_s, shift_d) - value(below, shift_s, shift_d)) / (2 * h);
                EXPECT(std::fabs(difference - analytic[i]) <= 2e-5 * (1 + std::fabs(analytic[i])),
                       "partial " + std::to_string(i));
              }
            }
          }
        }
      }
    }
  }
  // Identical images: exactly 1, whatever rounding left in the variance of s.
  Moments<float> same = {0.3f, 0.0f, 0.0899999f, 0.0f};
  EXPECT(ssim_value(ssim_terms(same, 0.9f, 0.0f, Stabilizers<float>{1e-4f, 9e-4f})) == 1.0f,
         "identical images");
  return check::report();
}
