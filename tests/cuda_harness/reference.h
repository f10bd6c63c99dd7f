// SSIM in float64 or float32 on the CPU: values, maps and gradients, slow and obvious.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <thread>
#include <vector>

#include "common.h"

namespace harness {

// What is asked of the reference; gradients are those of the sum of f, or of weights * map.
struct Definition {
  const Window* window = &kStandard;
  int32_t padding = FUSED_SSIM_SAME;
  int32_t statistic = FUSED_SSIM_STATISTIC_SSIM;
  double c1 = 0, c2 = 0;
  double statistic_weight = 1, l1_weight = 0, l2_weight = 0;
  const std::vector<double>* mask = nullptr;         // [planes, height, width]
  const std::vector<double>* stabilizers = nullptr;  // [batch, 2]
  bool normalized = false;                           // the mask
};

struct Reference {
  std::vector<double> map;                           // [planes, map height, map width]
  std::vector<double> statistic, absolute, squares;  // [planes]: sums, weighted by the mask
  std::vector<double> weights;                       // [planes]: the mask's sums
  std::vector<double> grads[2];                      // [planes, height, width]
};

void parallel(int64_t n, const std::function<void(int64_t)>& body) {
  const auto available = static_cast<int64_t>(std::thread::hardware_concurrency());
  const int64_t workers = std::max<int64_t>(1, std::min(n, available));
  std::vector<std::thread> threads;
  for (int64_t w = 0; w < workers; ++w) {
    threads.emplace_back([&, w] {
      for (int64_t i = w; i < n; i += workers) body(i);
    });
  }
  for (auto& t : threads) t.join();
}
void for_each(int64_t n, bool in_parallel, const std::function<void(int64_t)>& body) {
  if (in_parallel && n > 1) return parallel(n, body);
  for (int64_t i = 0; i < n; ++i) body(i);
}

constexpr int64_t kLargePlane = 100000;  // pixels from which a plane is shared among threads

// Correlation with `rows` down and `columns` along, zeros beyond the border.
template <class T>
std::vector<T> filter(const std::vector<T>& in, int64_t h, int64_t w, const Taps& rows,
                      const Taps& columns) {
  const auto ry = static_cast<int64_t>(rows.size() / 2);
  const auto rx = static_cast<int64_t>(columns.size() / 2);
  std::vector<T> along(in.size()), out(in.size(), T(0));
  for_each(h, h * w >= kLargePlane, [&](int64_t y) {
    for (int64_t x = 0; x < w; ++x) {
      T sum = 0;
      for (int64_t k = std::max<int64_t>(0, x - rx); k <= std::min(w - 1, x + rx); ++k) {
        sum += T(columns[k - x + rx]) * in[y * w + k];
      }
      along[y * w + x] = sum;
    }
  });
  for_each(h, h * w >= kLargePlane, [&](int64_t y) {
    for (int64_t k = std::max<int64_t>(0, y - ry); k <= std::min(h - 1, y + ry); ++k) {
      const T tap = T(rows[k - y + ry]);
      for (int64_t x = 0; x < w; ++x) out[y * w + x] += tap * along[k * w + x];
    }
  });
  return out;
}

// The textbook's five moments: in float64 the truth, in float32 what everybody writes.
template <class T>
Reference reference(const Definition& d, const std::vector<double>& a, const std::vector<double>& b,
                    const Shape& s, const std::vector<double>* weights, bool gradient) {
  const int64_t h = s.height, w = s.width, n = h * w, planes = s.planes();
  const Taps &rows = d.window->rows, &columns = d.window->columns;
  const Taps mirrored_rows(rows.rbegin(), rows.rend());
  const Taps mirrored_columns(columns.rbegin(), columns.rend());
  const bool valid = d.padding == FUSED_SSIM_VALID;
  const auto top = static_cast<int64_t>(valid ? rows.size() / 2 : 0);
  const auto left = static_cast<int64_t>(valid ? columns.size() / 2 : 0);
  Reference ref;
  for (auto* sums : {&ref.statistic, &ref.absolute, &ref.squares, &ref.weights}) {
    sums->assign(planes, 0.0);
  }
  ref.map.assign(planes * (h - 2 * top) * (w - 2 * left), 0.0);
  for (auto& gradient_of : ref.grads) gradient_of.assign(planes * n, 0.0);
  for_each(planes, n < kLargePlane && planes * n > 20000, [&](int64_t p) {
    const double* own = d.stabilizers ? &(*d.stabilizers)[2 * (p / s.channels)] : nullptr;
    const T c1 = T(own ? own[0] : d.c1), c2 = T(own ? own[1] : d.c2);
    const std::vector<T> x(a.begin() + p * n, a.begin() + (p + 1) * n);
    const std::vector<T> y(b.begin() + p * n, b.begin() + (p + 1) * n);
    std::vector<T> seen(n, T(1));  // what windows see of the mask, which is 1 outside the image
    if (d.normalized) {
      for (int64_t i = 0; i < n; ++i) seen[i] = T((*d.mask)[p * n + i]) - T(1);
      seen = filter(seen, h, w, rows, columns);
      for (T& number : seen) number += T(1);
    }
    const auto means = [&](const std::vector<T>& u, const std::vector<T>* v) {
      std::vector<T> of(n);
      for (int64_t i = 0; i < n; ++i) {
        const T m = T(d.normalized ? (*d.mask)[p * n + i] : 1.0);
        of[i] = m > 0 ? m * (u[i] * (v ? (*v)[i] : T(1))) : T(0);
      }
      of = filter(of, h, w, rows, columns);
      for (int64_t i = 0; i < n; ++i) of[i] = seen[i] > T(1e-14) ? of[i] / seen[i] : T(0);
      return of;
    };
    const auto mx = means(x, nullptr), my = means(y, nullptr);
    const auto exx = means(x, &x), eyy = means(y, &y), exy = means(x, &y);
    std::vector<T> px(n), py(n), pxx(n), pxy(n);  // derivatives by the moments
    std::vector<T> of_difference(n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t row = i / w, column = i % w;
      if (row < top || row >= h - top || column < left || column >= w - left) continue;
      const T b1 = mx[i] * mx[i] + my[i] * my[i] + c1;
      const T b2 = (exx[i] - mx[i] * mx[i]) + (eyy[i] - my[i] * my[i]) + c2;
      const T luminance = (2 * mx[i] * my[i] + c1) / b1;
      const T contrast = (2 * (exy[i] - mx[i] * my[i]) + c2) / b2;
      // The statistic's derivatives by its two factors.
      T by_luminance = contrast, by_contrast = luminance, value = luminance * contrast;
      if (d.statistic == FUSED_SSIM_STATISTIC_CONTRAST) {
        by_luminance = 0, by_contrast = 1, value = contrast;
      } else if (d.statistic == FUSED_SSIM_STATISTIC_LUMINANCE) {
        by_luminance = 1, by_contrast = 0, value = luminance;
      }
      const T difference = x[i] - y[i];
      const int64_t in_map = (p * (h - 2 * top) + row - top) * (w - 2 * left) + column - left;
      double m = d.mask ? (*d.mask)[p * n + i] : 1.0;
      if (d.normalized && !(seen[i] > T(1e-14))) {
        // Of no pixel: counts as one of equal images.
        ref.map[in_map] = 1, ref.statistic[p] += m, ref.weights[p] += m;
        ref.absolute[p] += m * std::fabs(x[i] - y[i]);
        ref.squares[p] += m * (x[i] - y[i]) * (x[i] - y[i]);
        m = 0;
      }
      ref.map[in_map] = m > 0 ? value : T(1);
      if (!(m > 0)) continue;
      ref.statistic[p] += m * value;
      ref.absolute[p] += m * std::fabs(difference);
      ref.squares[p] += m * difference * difference;
      ref.weights[p] += m;
      T g = T(weights ? (*weights)[in_map] : m);
      of_difference[i] = g * (T(d.l1_weight) * T((difference > 0) - (difference < 0)) +
                              T(d.l2_weight) * 2 * difference);
      g /= seen[i];
      px[i] = g * (by_luminance * 2 * (my[i] - mx[i] * luminance) / b1 +
                   by_contrast * 2 * (mx[i] * contrast - my[i]) / b2);
      py[i] = g * (by_luminance * 2 * (mx[i] - my[i] * luminance) / b1 +
                   by_contrast * 2 * (my[i] * contrast - mx[i]) / b2);
      pxx[i] = -g * by_contrast * contrast / b2;
      pxy[i] = g * by_contrast * 2 / b2;
    }
    if (!gradient) return;
    const auto back = [&](const std::vector<T>& by_moment) {
      return filter(by_moment, h, w, mirrored_rows, mirrored_columns);
    };
    const auto fx = back(px), fy = back(py), fxx = back(pxx), fxy = back(pxy);
    for (int64_t i = 0; i < n; ++i) {
      const double m = d.normalized ? (*d.mask)[p * n + i] : 1.0;
      const double weight = m * d.statistic_weight;
      const auto by_statistic = [&](T u, T v, T mean_partial) {
        return m > 0 ? weight * (mean_partial + 2 * u * fxx[i] + v * fxy[i]) : 0.0;
      };
      ref.grads[0][p * n + i] = by_statistic(x[i], y[i], fx[i]) + of_difference[i];
      ref.grads[1][p * n + i] = by_statistic(y[i], x[i], fy[i]) - of_difference[i];
    }
  });
  return ref;
}

}  // namespace harness
