#include "cpu/reference.h"

#include <limits>

#include "core/problem.h"

namespace fused_ssim::cpu {
namespace {

struct TextbookMoments {
  double x = 0;
  double y = 0;
  double xx = 0;
  double yy = 0;
  double xy = 0;
};

int64_t size(const std::vector<double>& taps) { return static_cast<int64_t>(taps.size()); }

class Window {
 public:
  Window(const ReferencePlane& plane, const ReferenceDefinition& d) : plane_(plane), d_(d) {}

  // visit(index of the pixel, weight) for the pixels of the window that lie in the image; those
  // outside count as zeros.
  template <class Visit>
  void for_each(int64_t row, int64_t column, Visit visit) const {
    for (int64_t i = 0; i < size(d_.taps_y); ++i) {
      for (int64_t k = 0; k < size(d_.taps_x); ++k) {
        const int64_t r = row + i - size(d_.taps_y) / 2;
        const int64_t c = column + k - size(d_.taps_x) / 2;
        if (r >= 0 && r < plane_.height && c >= 0 && c < plane_.width) {
          visit(r * plane_.width + c, d_.taps_y[i] * d_.taps_x[k]);
        }
      }
    }
  }

  TextbookMoments moments(int64_t row, int64_t column) const {
    TextbookMoments m;
    for_each(row, column, [&](int64_t pixel, double weight) {
      const double x = plane_.x[pixel];
      const double y = plane_.y[pixel];
      m.x += weight * x;
      m.y += weight * y;
      m.xx += weight * x * x;
      m.yy += weight * y * y;
      m.xy += weight * x * y;
    });
    return m;
  }

 private:
  const ReferencePlane& plane_;
  const ReferenceDefinition& d_;
};

bool has_value(const ReferencePlane& plane, const ReferenceDefinition& d, int64_t row,
               int64_t column) {
  const int64_t crop_y = d.valid ? size(d.taps_y) / 2 : 0;
  const int64_t crop_x = d.valid ? size(d.taps_x) / 2 : 0;
  return row >= crop_y && row < plane.height - crop_y && column >= crop_x &&
         column < plane.width - crop_x;
}

// Luminance = a / c, contrast = b / d; of one of the two alone, the other's are 1.
struct Factors {
  double a;
  double b;
  double c;
  double d;
};

Factors factors(const TextbookMoments& m, const ReferenceDefinition& d) {
  Factors f = {2 * m.x * m.y + d.c1, 2 * (m.xy - m.x * m.y) + d.c2, m.x * m.x + m.y * m.y + d.c1,
               (m.xx - m.x * m.x) + (m.yy - m.y * m.y) + d.c2};
  if (d.statistic == FUSED_SSIM_STATISTIC_CONTRAST) {
    f.a = f.c = 1;
  } else if (d.statistic == FUSED_SSIM_STATISTIC_LUMINANCE) {
    f.b = f.d = 1;
  }
  return f;
}

}  // namespace

std::vector<double> reference_map(const ReferencePlane& plane, const ReferenceDefinition& d) {
  const Window window(plane, d);
  std::vector<double> map(plane.x.size(), std::numeric_limits<double>::quiet_NaN());
  for (int64_t row = 0; row < plane.height; ++row) {
    for (int64_t column = 0; column < plane.width; ++column) {
      if (has_value(plane, d, row, column)) {
        const Factors f = factors(window.moments(row, column), d);
        map[row * plane.width + column] = f.a * f.b / (f.c * f.d);
      }
    }
  }
  return map;
}

ReferenceGradients reference_gradients(const ReferencePlane& plane, const ReferenceDefinition& d,
                                       const std::vector<double>& weight) {
  const Window window(plane, d);
  ReferenceGradients gradients;
  gradients.x.assign(plane.x.size(), 0.0);
  gradients.y.assign(plane.y.size(), 0.0);
  for (int64_t row = 0; row < plane.height; ++row) {
    for (int64_t column = 0; column < plane.width; ++column) {
      if (!has_value(plane, d, row, column)) {
        continue;
      }
      const TextbookMoments m = window.moments(row, column);
      const Factors f = factors(m, d);
      const double value = f.a * f.b / (f.c * f.d);
      // d(value)/d(factor) = value / factor for a and b, -value / factor for c and d; a and b can
      // be zero, so they are divided out of the product instead.
      const bool luminance = d.statistic != FUSED_SSIM_STATISTIC_CONTRAST;
      const bool contrast = d.statistic != FUSED_SSIM_STATISTIC_LUMINANCE;
      const double by_a = luminance ? f.b / (f.c * f.d) : 0;
      const double by_b = contrast ? f.a / (f.c * f.d) : 0;
      const double by_c = luminance ? -value / f.c : 0;
      const double by_d = contrast ? -value / f.d : 0;
      const double by_x = 2 * m.y * by_a - 2 * m.y * by_b + 2 * m.x * by_c - 2 * m.x * by_d;
      const double by_y = 2 * m.x * by_a - 2 * m.x * by_b + 2 * m.y * by_c - 2 * m.y * by_d;
      const double by_squares = by_d;  // E[x^2] and E[y^2] alike
      const double by_product = 2 * by_b;
      const double scale = weight[row * plane.width + column];
      window.for_each(row, column, [&](int64_t pixel, double tap) {
        const double x = plane.x[pixel];
        const double y = plane.y[pixel];
        gradients.x[pixel] += scale * tap * (by_x + 2 * x * by_squares + y * by_product);
        gradients.y[pixel] += scale * tap * (by_y + 2 * y * by_squares + x * by_product);
      });
    }
  }
  return gradients;
}

}  // namespace fused_ssim::cpu
