// Steps 2 and 3 of the strip kernel (strip.h): moments along x into the tile, and along y.
#pragma once

#include "cpu/strip.h"

namespace fused_ssim::cpu {

// Filters one column along y: the carried rows, then 8 fresh ones; carries the last rows on.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
template <bool kAreMoments, class Window>
FUSED_SSIM_INLINE void StripKernel<Arch, T, Filter, kImages, kMerged>::filter_column(
    const Window& window, V* carry, const V* fresh, V (&out)[kChunkRows]) const {
  constexpr bool kIsFixed = Filter<V>::kIsFixed;
  constexpr int kGroup = kAreMoments ? Window::kGroup : kChunkRows;
  if constexpr (!kIsFixed) {
    for (int k = 0; k < carried(); ++k) {
      column_[k] = carry[k];
    }
    for (int k = 0; k < kChunkRows; ++k) {
      column_[carried() + k] = fresh[k];
    }
    for (int k = 0; k < carried(); ++k) {
      carry[k] = column_[k + kChunkRows];
    }
  }
  const auto input = [&](int k) __attribute__((always_inline)) {
    return kIsFixed ? column_at(carry, fresh, k) : column_[k];
  };
  unroll<0, kChunkRows / kGroup>([&](auto group) __attribute__((always_inline)) {
    constexpr int kFirst = decltype(group)::value * kGroup;
    V reference(T(0));
    if constexpr (kAreMoments) {
      reference = window.template reference<kGroup>(
          [&](int k) __attribute__((always_inline)) { return input(kFirst + k); });
    }
    V filtered[kGroup];
    window.template apply<kGroup>(
        [&](int k) __attribute__((always_inline)) {
          const V value = input(kFirst + k);
          if (Window::kLoadsInOrder && k >= kChunkRows) {
            carry[k - kChunkRows] = value;
          }
          return kAreMoments ? value - reference : value;
        },
        filtered);
    unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
      constexpr int kI = decltype(i)::value;
      out[kFirst + kI] = kAreMoments ? filtered[kI] + reference : filtered[kI];
    });
  });
  if constexpr (kIsFixed && !Window::kLoadsInOrder) {
    carry_rows(carry, fresh);
  }
}

// The moments of one column, whose rows have means and variances along x: around a number near the
// means, as along x.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
template <class Window>
FUSED_SSIM_INLINE void StripKernel<Arch, T, Filter, kImages, kMerged>::merge_column(
    const Window& window, V* carry, const V* fresh, Moments8& moments) const {
  constexpr int kGroup = Window::kGroup;
  for (int image = 0; image < 2; ++image) {
    const auto load = [&](int map, int k) __attribute__((always_inline)) {
      return column_at(carry + map * carried(), fresh + map * kChunkRows, k);
    };
    const auto mean = [&](int k) __attribute__((always_inline)) { return load(image, k); };
    unroll<0, kChunkRows / kGroup>([&](auto group) __attribute__((always_inline)) {
      constexpr int kFirst = decltype(group)::value * kGroup;
      const V reference = window.template reference<kGroup>(
          [&](int k) __attribute__((always_inline)) { return mean(kFirst + k); });
      V means[kGroup];
      V squares[kGroup];
      window.template apply<kGroup>(
          [&](int k) __attribute__((always_inline)) { return mean(kFirst + k) - reference; },
          means);
      window.template apply<kGroup>(
          [&](int k) __attribute__((always_inline)) {
            const V difference = mean(kFirst + k) - reference;
            return multiply_add(difference, difference, load(2 + image, kFirst + k));
          },
          squares);
      unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
        constexpr int kI = decltype(i)::value;
        moments[image][kFirst + kI] = means[kI] + reference;
        moments[2 + image][kFirst + kI] = variance_of(means[kI], squares[kI]);
      });
    });
  }
  for (int map = 0; map < kMoments; ++map) {
    carry_rows(carry + map * carried(), fresh + map * kChunkRows);
  }
}

// The mean of what a group sees in its middle or, where nothing is seen there, of all that it sees
// together. The middle is inside the image, and the rest may not be: what lies outside is far from what
// lies inside, and seen.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
template <int kGroup, class Window, class LoadMask, class Load>
FUSED_SSIM_INLINE typename StripKernel<Arch, T, Filter, kImages, kMerged>::V
StripKernel<Arch, T, Filter, kImages, kMerged>::masked_reference(const Window& window,
                                                                 const LoadMask& mask,
                                                                 const Load& load) {
  const auto product = [&](int k) __attribute__((always_inline)) { return mask(k) * load(k); };
  const V near = window.template middle<kGroup>(mask);
  const V seen = select_positive(near, near, window.template shared<kGroup>(mask));
  const V sum = select_positive(near, window.template middle<kGroup>(product),
                                window.template shared<kGroup>(product));
  return reciprocal_of_seen(seen) * sum;
}

// The last rows of a column, for the next chunk.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
FUSED_SSIM_INLINE void StripKernel<Arch, T, Filter, kImages, kMerged>::carry_rows(
    V* carry, const V* fresh) const {
  for (int k = 0; k < carried(); ++k) {
    const int from = k + kChunkRows;
    carry[k] = from < carried() ? carry[from] : fresh[from - carried()];
  }
}

// H: the four moments of kCount columns from j on, for the chunk's 8 rows, into the tile.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
template <int kCount>
void StripKernel<Arch, T, Filter, kImages, kMerged>::filter_plain_block(int64_t chunk, int64_t j) {
  const Filter<V> filter = filter_x_;
  filter.visit([&](const auto& window) __attribute__((always_inline)) {
    constexpr int kShared = std::decay_t<decltype(window)>::kGroup;
    constexpr int kGroup = kCount < kShared ? kCount : kShared;
    const V* rows = ring_chunk(chunk);
    for (int row = 0; row < kChunkRows; ++row) {
      for (int image = 0; image < 2; ++image) {
        unroll<0, kCount / kGroup>([&](auto group) __attribute__((always_inline)) {
          constexpr int kFirst = decltype(group)::value * kGroup;
          const V* from = rows + (2 * row + image) * pitch() + j + kFirst;
          const V reference = window.template reference<kGroup>(
              [&](int k) __attribute__((always_inline)) { return from[k]; });
          const V reference2 = reference * reference;
          V* to = tile_ + (kFirst * kMoments + image) * kChunkRows + row;
          V means[kGroup];
          window.template apply<kGroup>(
              [&](int k) __attribute__((always_inline)) { return from[k] - reference; }, means);
          unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
            to[decltype(i)::value * kMoments * kChunkRows] = means[decltype(i)::value] + reference;
          });
          V squares[kGroup];
          window.template apply<kGroup>(
              [&](int k) __attribute__((always_inline)) {
                const V value = kVariances ? from[k] - reference : from[k];
                return kVariances ? value * value : multiply_add(value, value, -reference2);
              },
              squares);
          to += 2 * kChunkRows;
          unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
            constexpr int kI = decltype(i)::value;
            to[kI * kMoments * kChunkRows] =
                kVariances ? variance_of(means[kI], squares[kI]) : squares[kI] + reference2;
          });
        });
      }
    }
  });
}

// The same under a mask: E[m], and means and variances of what a window sees of its row, which may be
// too few pixels to average out what squares far from zero are rounded by.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
template <int kCount>
void StripKernel<Arch, T, Filter, kImages, kMerged>::filter_masked_block(int64_t chunk, int64_t j) {
  const Filter<V> filter = filter_x_;
  filter.visit([&](const auto& window) __attribute__((always_inline)) {
    constexpr int kShared = std::decay_t<decltype(window)>::kGroup;
    constexpr int kGroup = kCount < kShared ? kCount : kShared;
    const V* rows = ring_chunk(chunk);
    for (int row = 0; row < kChunkRows; ++row) {
      unroll<0, kCount / kGroup>([&](auto group) __attribute__((always_inline)) {
        constexpr int kFirst = decltype(group)::value * kGroup;
        const V* images = rows + kStaged * row * pitch() + j + kFirst;
        const V* mask = images + 2 * pitch();
        V* to = tile_ + kFirst * kFiltered * kChunkRows + row;
        const auto load_mask = [&](int k) __attribute__((always_inline)) { return mask[k]; };
        V seen[kGroup];
        V by_seen[kGroup];
        window.template apply<kGroup>(load_mask, seen);
        unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
          constexpr int kI = decltype(i)::value;
          to[(kI * kFiltered + kMoments) * kChunkRows] = seen[kI];
          by_seen[kI] = reciprocal_of_seen(seen[kI]);
        });
        for (int image = 0; image < 2; ++image) {
          const V* from = images + image * pitch();
          V means[kGroup];
          V variances[kGroup];
          merge_masked<kGroup>(
              window, load_mask, [&](int k) __attribute__((always_inline)) { return from[k]; },
              [](int) __attribute__((always_inline)) { return V(T(0)); }, by_seen, means,
              variances);
          unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
            constexpr int kI = decltype(i)::value;
            to[(kI * kFiltered + image) * kChunkRows] = means[kI];
            to[(kI * kFiltered + 2 + image) * kChunkRows] = variances[kI];
          });
        }
      });
    }
  });
}

// Means and variances of a group's windows under a mask, of inputs that are means and variances
// themselves, around a number near the inputs: `by_seen` is 1 / E[m]. Where that number is far from a
// window's mean, beside what the window's pixels differ by, squares are summed up once more around
// the means: a speck or the border may have made the number.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
template <int kGroup, class Window, class LoadMask, class LoadMean, class LoadVariance>
FUSED_SSIM_INLINE void StripKernel<Arch, T, Filter, kImages, kMerged>::merge_masked(
    const Window& window, const LoadMask& mask, const LoadMean& mean, const LoadVariance& variance,
    const V* by_seen, V* means, V* variances) const {
  const auto square = [&](int k, V from) __attribute__((always_inline)) {
    const V difference = mean(k) - from;
    return mask(k) * multiply_add(difference, difference, variance(k));
  };
  const V reference = masked_reference<kGroup>(window, mask, mean);
  V sums[kGroup];
  V squares[kGroup];
  window.template apply<kGroup>(
      [&](int k) __attribute__((always_inline)) { return mask(k) * (mean(k) - reference); }, sums);
  window.template apply<kGroup>(
      [&](int k) __attribute__((always_inline)) { return square(k, reference); }, squares);
  V far(T(0));
  unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
    constexpr int kI = decltype(i)::value;
    const V from_reference = sums[kI] * by_seen[kI];
    const V offset = from_reference * from_reference;
    means[kI] = reference + from_reference;
    variances[kI] = clamp_to_nonnegative(multiply_add(squares[kI], by_seen[kI], -offset));
    const V excess = multiply_add(V(T(-4)), variances[kI] + doubled_stabilizers_.c2, offset);
    far = select_positive(excess, excess, far);
  });
  if (any_positive(far)) {
    for (int i = 0; i < kGroup; ++i) {
      V own[1];
      window.template apply<1>(
          [&](int k) __attribute__((always_inline)) { return square(i + k, means[i]); }, own);
      variances[i] = own[0] * by_seen[i];
    }
  }
}

// The moments of one column under a mask: E[m] of its rows weighs the means and variances along x.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
template <class Window>
FUSED_SSIM_INLINE void StripKernel<Arch, T, Filter, kImages, kMerged>::merge_masked_column(
    const Window& window, V* carry, const V* fresh, Moments8& moments) {
  constexpr int kGroup = Window::kGroup;
  const auto load = [&](int map, int k) __attribute__((always_inline)) {
    return column_at(carry + map * carried(), fresh + map * kChunkRows, k);
  };
  V seen[kChunkRows];
  window.template apply<kChunkRows>(
      [&](int k) __attribute__((always_inline)) { return load(kMoments, k); }, seen);
  for (int row = 0; row < kChunkRows; ++row) {
    seen_reciprocals_[row] = reciprocal_of_seen(seen[row]);
  }
  for (int image = 0; image < 2; ++image) {
    unroll<0, kChunkRows / kGroup>([&](auto group) __attribute__((always_inline)) {
      constexpr int kFirst = decltype(group)::value * kGroup;
      const auto loads = [&](int map) __attribute__((always_inline)) {
        return [&load, map](int k) __attribute__((always_inline)) { return load(map, kFirst + k); };
      };
      merge_masked<kGroup>(window, loads(kMoments), loads(image), loads(2 + image),
                           seen_reciprocals_ + kFirst, moments[image] + kFirst,
                           moments[2 + image] + kFirst);
    });
  }
  for (int map = 0; map < kFiltered; ++map) {
    carry_rows(carry + map * carried(), fresh + map * kChunkRows);
  }
}

}  // namespace fused_ssim::cpu
