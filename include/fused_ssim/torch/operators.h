// The operators of libfused_ssim, below autograd.
#pragma once

#include <ATen/Functions.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "fused_ssim/kernels.h"
#include "fused_ssim/torch/definition.h"
#include "fused_ssim/torch/text.h"

namespace fused_ssim::detail {

template <class Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  const auto handle = c10::Dispatcher::singleton().findSchema({name, ""});
  if (!handle.has_value()) {
    C10_THROW_ERROR(
        NotImplementedError,
        text("fused_ssim: expected the operator ", name,
             ", but libfused_ssim is not in this process; link fused_ssim::fused_ssim, or "
             "libfused_ssim with -Wl,--no-as-needed: nothing refers to its functions by name"));
  }
  return handle->typed<Signature>();
}

// Torch's own error about memory does not come out of the library, which says how much it lacked
// (fail_to_allocate() in src/torch/operators.h): torch is asked once more, and throws here.
inline void ask_for_the_same_memory(const char* message) {
  const char* place = std::strstr(message, "got no ");
  long long bytes = 0;
  char device[16] = {};
  if (place != nullptr && std::sscanf(place, "got no %lld bytes on %15s", &bytes, device) == 2) {
    at::empty({bytes}, at::device(at::Device(std::string(device))).dtype(at::kByte));
  }
}

template <const char* name, class Result, class... Arguments>
Result call(const std::tuple<Arguments...>& arguments) {
  static const auto handle = find_operator<Result(Arguments...)>(name);
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  try {
    return std::apply([](const auto&... each) { return handle.call(each...); }, arguments);
  } catch (const std::runtime_error& error) {
    ask_for_the_same_memory(error.what());
    throw;
  }
}

// FUSED_SSIM_PROBLEM_SCHEMA of src/operators/schemas.h.
inline auto problem(const Images& images, const Definition& d) {
  return std::tuple<const at::Tensor&, const at::Tensor&, at::ArrayRef<double>, at::IntArrayRef,
                    double, double, bool, int64_t, int64_t>(images.img1, images.img2, d.taps,
                                                            d.window_sizes, d.c1, d.c2, d.valid,
                                                            d.statistic, d.uint8_divisor);
}

// FUSED_SSIM_RARE_SCHEMA: no stabilizers of single images.
inline auto rare(const MaskOption& mask) {
  static const std::optional<at::Tensor> none;
  using Optional = const std::optional<at::Tensor>&;
  return std::tuple<Optional, Optional, int64_t>(none, mask.weights, mask.mode);
}

// What is reduced: ssim * S + l1 * |img1 - img2|, and what is added to the result.
struct Weights {
  double ssim = 1.0;
  double l1 = 0.0;
  double offset = 0.0;
};

using TwoTensors = std::tuple<at::Tensor, at::Tensor>;
using ThreeTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
inline constexpr double kNoL2 = 0.0;
inline constexpr char kSsim[] = "fused_ssim::ssim";
inline constexpr char kSsimAndMse[] = "fused_ssim::ssim_and_mse";
inline constexpr char kSsimMap[] = "fused_ssim::ssim_map";
inline constexpr char kSsimMapBackward[] = "fused_ssim::ssim_map_backward";
inline constexpr char kScaleGradient[] = "fused_ssim::scale_gradient";
inline constexpr char kScaleGradientInPlace[] = "fused_ssim::scale_gradient_";

inline constexpr char kMsSsim[] = "fused_ssim::ms_ssim";
inline constexpr char kMsSsimBackward[] = "fused_ssim::ms_ssim_backward";
inline constexpr char kMsSsimBackwardInPlace[] = "fused_ssim::ms_ssim_backward_";

inline ThreeTensors call_ssim(const Images& images, const Definition& d, int64_t reduction,
                              const Weights& weights, bool wants1, bool wants2) {
  return call<kSsim, ThreeTensors>(std::tuple_cat(
      problem(images, d),
      std::tuple(reduction, weights.ssim, weights.l1, weights.offset, wants1, wants2, kNoL2),
      rare(images.mask)));
}

inline TwoTensors call_ssim_and_mse(const Images& images, const Definition& d) {
  return call<kSsimAndMse, TwoTensors>(std::tuple_cat(problem(images, d), rare({})));
}

inline at::Tensor call_ssim_map(const Images& images, const Definition& d) {
  return call<kSsimMap, at::Tensor>(std::tuple_cat(problem(images, d), rare(images.mask)));
}

inline TwoTensors call_ssim_map_backward(const at::Tensor& map_gradient, const Images& images,
                                         const Definition& d, bool wants1, bool wants2) {
  return call<kSsimMapBackward, TwoTensors>(std::tuple_cat(
      std::tie(map_gradient), problem(images, d), std::tuple(wants1, wants2), rare(images.mask)));
}

// What the operator gives of an image that wants a gradient.
struct SavedScales {
  at::Tensor gradient;
  at::Tensor coarser;
};

// value, derivatives, gradient1, coarser1, gradient2, coarser2
using SixTensors =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

inline SixTensors call_ms_ssim(const Images& images, const Definition& d, const Scales& scales,
                               bool wants1, bool wants2) {
  return call<kMsSsim, SixTensors>(
      std::tuple_cat(problem(images, d),
                     std::tuple<at::ArrayRef<double>, int64_t, int64_t, bool, bool>(
                         scales.exponents, scales.negative, scales.odd_sizes, wants1, wants2),
                     rare({})));
}

inline auto backward_arguments(const SavedScales& saved, const at::Tensor& upstream,
                               const at::Tensor& derivatives, int64_t odd_sizes) {
  return std::tuple<const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                    int64_t>(saved.gradient, saved.coarser, upstream, derivatives, odd_sizes);
}

inline at::Tensor call_ms_ssim_backward(const SavedScales& saved, const at::Tensor& upstream,
                                        const at::Tensor& derivatives, int64_t odd_sizes) {
  return call<kMsSsimBackward, at::Tensor>(
      backward_arguments(saved, upstream, derivatives, odd_sizes));
}

inline void call_ms_ssim_backward_(const SavedScales& saved, const at::Tensor& upstream,
                                   const at::Tensor& derivatives, int64_t odd_sizes) {
  call<kMsSsimBackwardInPlace, void>(backward_arguments(saved, upstream, derivatives, odd_sizes));
}

inline auto scale_arguments(const at::Tensor& gradient, const at::Tensor& upstream,
                            const Definition& d, int64_t reduction) {
  return std::tuple<const at::Tensor&, const at::Tensor&, int64_t, at::IntArrayRef, bool>(
      gradient, upstream, reduction, d.window_sizes, d.valid);
}

inline at::Tensor call_scale_gradient(const at::Tensor& gradient, const at::Tensor& upstream,
                                      const Definition& d, int64_t reduction) {
  return call<kScaleGradient, at::Tensor>(scale_arguments(gradient, upstream, d, reduction));
}

inline void call_scale_gradient_(const at::Tensor& gradient, const at::Tensor& upstream,
                                 const Definition& d, int64_t reduction) {
  call<kScaleGradientInPlace, void>(scale_arguments(gradient, upstream, d, reduction));
}

}  // namespace fused_ssim::detail
