// Steps 2 and 3 of the strip kernel (strip.h): moments along x into the tile, and along y.
#pragma once

#include "cpu/strip.h"

namespace fused_ssim::cpu {

// Filters one column along y: the carried rows, then 8 fresh ones; carries the last rows on. Under a
// mask moments come out without their references.
template <class Arch, class T, template <class> class Filter, int kImages, bool kNormalized>
template <bool kAreMoments, class Window>
FUSED_SSIM_INLINE void StripKernel<Arch, T, Filter, kImages, kNormalized>::filter_column(
    const Window& window, V* carry, const V* fresh, V (&out)[kChunkRows], V* references) const {
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
    if constexpr (kIsFixed) {
      return k < 2 * kFixedRadius ? carry[k] : fresh[k - 2 * kFixedRadius];
    } else {
      return column_[k];
    }
  };
  unroll<0, kChunkRows / kGroup>([&](auto group) __attribute__((always_inline)) {
    constexpr int kFirst = decltype(group)::value * kGroup;
    const auto mask = [&](int k)
                          __attribute__((always_inline)) { return mask_column_[kFirst + k]; };
    V reference(T(0));
    if constexpr (kAreMoments && kNormalized) {
      reference = masked_reference<kGroup>(
          window, mask, [&](int k) __attribute__((always_inline)) { return input(kFirst + k); });
    } else if constexpr (kAreMoments) {
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
          if constexpr (kAreMoments && kNormalized) {
            return mask(k) * (value - reference);
          } else {
            return kAreMoments ? value - reference : value;
          }
        },
        filtered);
    unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
      constexpr int kI = decltype(i)::value;
      if constexpr (kAreMoments && kNormalized) {
        out[kFirst + kI] = filtered[kI] * seen_reciprocals_[kFirst + kI];
        references[kFirst + kI] = reference;
      } else {
        out[kFirst + kI] = kAreMoments ? filtered[kI] + reference : filtered[kI];
      }
    });
  });
  if constexpr (kIsFixed && !Window::kLoadsInOrder) {
    carry_rows(carry, fresh);
  }
}

// The mean of what a group sees in its middle or, where nothing is seen there, of all that it sees
// together. The middle is inside the image, and the rest may not be: what lies outside is far from what
// lies inside, and seen.
template <class Arch, class T, template <class> class Filter, int kImages, bool kNormalized>
template <int kGroup, class Window, class LoadMask, class Load>
FUSED_SSIM_INLINE typename StripKernel<Arch, T, Filter, kImages, kNormalized>::V
StripKernel<Arch, T, Filter, kImages, kNormalized>::masked_reference(const Window& window,
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
template <class Arch, class T, template <class> class Filter, int kImages, bool kNormalized>
FUSED_SSIM_INLINE void StripKernel<Arch, T, Filter, kImages, kNormalized>::carry_rows(
    V* carry, const V* fresh) const {
  for (int k = 0; k < carried(); ++k) {
    const int from = k + kChunkRows;
    carry[k] = from < carried() ? carry[from] : fresh[from - carried()];
  }
}

// H: the four moments of kCount columns from j on, for the chunk's 8 rows, into the tile.
template <class Arch, class T, template <class> class Filter, int kImages, bool kNormalized>
template <int kCount>
void StripKernel<Arch, T, Filter, kImages, kNormalized>::filter_plain_block(int64_t chunk,
                                                                            int64_t j) {
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
          V out[kGroup];
          window.template apply<kGroup>(
              [&](int k) __attribute__((always_inline)) { return from[k] - reference; }, out);
          unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
            to[decltype(i)::value * kMoments * kChunkRows] = out[decltype(i)::value] + reference;
          });
          window.template apply<kGroup>(
              [&](int k) __attribute__((always_inline)) {
                const V value = from[k];
                return multiply_add(value, value, -reference2);
              },
              out);
          to += 2 * kChunkRows;
          unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
            to[decltype(i)::value * kMoments * kChunkRows] = out[decltype(i)::value] + reference2;
          });
        });
      }
    }
  });
}

// The same under a mask: its own means E[m] and E[m x] / E[m], near which the numbers stay that are
// rounded. References are the weighted means of what a group sees together.
template <class Arch, class T, template <class> class Filter, int kImages, bool kNormalized>
template <int kCount>
void StripKernel<Arch, T, Filter, kImages, kNormalized>::filter_masked_block(int64_t chunk,
                                                                             int64_t j) {
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
        const auto store = [&](int map, const V(&out)[kGroup],
                               V reference) __attribute__((always_inline)) {
          unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
            constexpr int kI = decltype(i)::value;
            to[(kI * kFiltered + map) * kChunkRows] = multiply_add(out[kI], by_seen[kI], reference);
          });
        };
        for (int image = 0; image < 2; ++image) {
          const V* from = images + image * pitch();
          const V reference = masked_reference<kGroup>(
              window, load_mask, [&](int k) __attribute__((always_inline)) { return from[k]; });
          const V reference2 = reference * reference;
          V out[kGroup];
          window.template apply<kGroup>(
              [&](int k) __attribute__((always_inline)) { return mask[k] * (from[k] - reference); },
              out);
          store(image, out, reference);
          window.template apply<kGroup>(
              [&](int k) __attribute__((always_inline)) {
                const V value = from[k];
                return mask[k] * multiply_add(value, value, -reference2);
              },
              out);
          store(2 + image, out, reference2);
        }
      });
    }
  });
}

// Under a mask fewer pixels average out what is rounded, so that references are not added before the
// squares are subtracted: of E[s] = r + e and E[s^2] = q + f the variance is (q - r^2) + f - e (2 r + e).
template <class Arch, class T, template <class> class Filter, int kImages, bool kNormalized>
FUSED_SSIM_INLINE void StripKernel<Arch, T, Filter, kImages, kNormalized>::means_and_variances(
    const References& references, Moments8& moments) {
  for (int image = 0; image < 2; ++image) {
    for (int row = 0; row < kChunkRows; ++row) {
      const V r = references[image][row];
      const V e = moments[image][row];
      const V of_squares =
          multiply_add(-r, r, references[2 + image][row]) + moments[2 + image][row];
      moments[image][row] = r + e;
      moments[2 + image][row] = clamp_to_nonnegative(multiply_add(-e, (r + r) + e, of_squares));
    }
  }
}

// The column of the mask's means along x, which weigh those of the images, and 1 / E[m] of its rows.
template <class Arch, class T, template <class> class Filter, int kImages, bool kNormalized>
FUSED_SSIM_INLINE void StripKernel<Arch, T, Filter, kImages, kNormalized>::begin_masked_column(
    V* carry, const V* fresh) {
  for (int k = 0; k < carried(); ++k) {
    mask_column_[k] = carry[k];
  }
  for (int k = 0; k < kChunkRows; ++k) {
    mask_column_[carried() + k] = fresh[k];
  }
  carry_rows(carry, fresh);
  const Filter<V> filter = filter_y_;
  filter.visit([&](const auto& window) __attribute__((always_inline)) {
    V seen[kChunkRows];
    window.template apply<kChunkRows>(
        [&](int k) __attribute__((always_inline)) { return mask_column_[k]; }, seen);
    for (int row = 0; row < kChunkRows; ++row) {
      seen_reciprocals_[row] = reciprocal_of_seen(seen[row]);
    }
  });
}

}  // namespace fused_ssim::cpu
