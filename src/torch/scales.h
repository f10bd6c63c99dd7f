// MS-SSIM as operators: from the finest scale to the coarsest, and the gradient back. What concerns a
// single scale is that of operators.h.
//
// ScaleOperators<Backend> needs of a backend, beside run():
//   static Tensor workspace(const FusedSsimProblem&, const FusedSsimRequest&, const Tensor& on_device);
//   static void run_in(const Tensor& workspace, ...);  run() in memory that was there before
//   static void halve(const std::vector<FusedSsimHalveRequest>&, const Tensor& on_device);
//   static void accumulate(const FusedSsimAccumulateRequest&, const Tensor& on_device);
//   static void factors(const FusedSsimFactorsRequest&, const Tensor& on_device);
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fused_ssim/kernels.h"
#include "torch/operators.h"

namespace fused_ssim::torch_ops {

inline int64_t element_size(int32_t accumulation) {
  return accumulation == FUSED_SSIM_FLOAT64 ? sizeof(double) : sizeof(float);
}

inline int64_t plane_count(const Sizes& sizes) {
  return sizes[FUSED_SSIM_AXIS_BATCH] * sizes[FUSED_SSIM_AXIS_CHANNEL];
}

inline int64_t pixel_count(const Sizes& sizes) {
  return sizes[FUSED_SSIM_AXIS_DEPTH] * sizes[FUSED_SSIM_AXIS_ROW] * sizes[FUSED_SSIM_AXIS_COLUMN];
}

inline FusedSsimImage contiguous_image(void* data, int32_t dtype, const Sizes& sizes) {
  FusedSsimImage image = {};
  image.data = data;
  image.dtype = dtype;
  int64_t stride = 1;
  for (std::size_t axis = FUSED_SSIM_AXES; axis-- > 0;) {
    image.strides[axis] = stride;
    stride *= sizes[axis];
  }
  return image;
}

// The sizes of the images of all scales.
inline std::vector<Sizes> scale_sizes(const Tensor& image, int64_t scales, int32_t odd_sizes) {
  std::vector<Sizes> sizes = {sizes_of(image)};
  for (int64_t scale = 1; scale < scales; ++scale) {
    Sizes next = sizes.back();
    for (int64_t i = 2; i < image.dim(); ++i) {
      int64_t& size = next[static_cast<std::size_t>(axis_of(i, image.dim()))];
      size = fused_ssim_halved_size(size, odd_sizes);
    }
    sizes.push_back(next);
  }
  return sizes;
}

// Gradients of all scales but the finest, one behind the other in one tensor.
class CoarserGradients {
 public:
  CoarserGradients(const std::vector<Sizes>& sizes, int32_t accumulation)
      : sizes_(sizes), accumulation_(accumulation), offsets_(sizes.size(), 0) {
    for (std::size_t scale = 1; scale < sizes.size(); ++scale) {
      offsets_[scale] = elements_;
      elements_ += plane_count(sizes[scale]) * pixel_count(sizes[scale]);
    }
  }
  int64_t elements() const { return elements_; }
  FusedSsimImage image(const Tensor& memory, std::size_t scale) const {
    auto* data = const_cast<char*>(static_cast<const char*>(memory.const_data_ptr()));
    return contiguous_image(data + offsets_[scale] * element_size(accumulation_), accumulation_,
                            sizes_[scale]);
  }

 private:
  const std::vector<Sizes>& sizes_;
  int32_t accumulation_;
  std::vector<int64_t> offsets_;
  int64_t elements_ = 0;
};

inline Tensor new_vector(const Tensor& like, int64_t elements, int32_t dtype) {
  return new_empty(like, &elements, 1, dtype);
}

template <class Backend>
struct ScaleOperators {
  static void ms_ssim(StableIValue* values, uint64_t, uint64_t) {
    Stack stack(values);
    TensorProblem given(&stack);
    const auto exponents = stack.next<std::vector<double>>();
    const auto negative = stack.next<int64_t>();
    const auto odd_sizes = stack.next<int64_t>();
    const bool wants1 = stack.next<bool>();
    const bool wants2 = stack.next<bool>();
    given.complete(&stack);
    if (given.mask.has_value()) {
      fail("expected no mask with several scales, got one");
    }
    if (exponents.empty()) {
      fail("expected an exponent for each scale, got none");
    }
    const std::size_t scales = exponents.size();
    const int32_t accumulation = given.accumulation();
    const int32_t odd = narrow(odd_sizes, "odd_sizes");
    const std::vector<Sizes> sizes = scale_sizes(given.img1, static_cast<int64_t>(scales), odd);
    const CoarserGradients layout(sizes, accumulation);

    const Tensor coarser1 = new_vector(given.img1, wants1 ? layout.elements() : 0, accumulation);
    const Tensor coarser2 = new_vector(given.img1, wants2 ? layout.elements() : 0, accumulation);
    const int64_t planes = plane_count(sizes[0]);
    const Tensor means =
        new_vector(given.img1, static_cast<int64_t>(scales) * planes, accumulation);

    std::vector<FusedSsimProblem> problems(scales, given.problem);
    std::vector<Tensor> memory;
    std::vector<FusedSsimHalveRequest> halvings;
    for (std::size_t scale = 1; scale < scales; ++scale) {
      memory.push_back(next_scale(problems[scale - 1], given.img1, sizes[scale], odd, accumulation,
                                  &problems[scale], &halvings));
    }
    if (!halvings.empty()) {
      Backend::halve(halvings, given.img1);
    }

    // Gradients are those of sums, which float16 can hold; the derivatives are divided instead.
    std::vector<double> pixels(scales);
    const auto request_of = [&](std::size_t scale, int32_t group, const FusedSsimImage& gradient1,
                                const FusedSsimImage& gradient2) {
      FusedSsimProblem& problem = problems[scale];
      problem.statistic =
          scale + 1 == scales ? given.problem.statistic : FUSED_SSIM_STATISTIC_CONTRAST;
      FusedSsimRequest request = fused_ssim_request();
      request.reduction = FUSED_SSIM_CHANNEL;
      request.gradient_of_sum = 1;
      request.group = group;
      request.value = static_cast<char*>(means.mutable_data_ptr()) +
                      static_cast<int64_t>(scale) * planes * element_size(accumulation);
      request.grad1 = gradient1;
      request.grad2 = gradient2;
      Sizes map_sizes;
      kernels::check(fused_ssim_map_sizes(&problem, map_sizes.data()));
      pixels[scale] = static_cast<double>(pixel_count(map_sizes));
      return request;
    };
    // The finest scale last, when the memory of the others can be that of its gradient.
    const auto part = [&](bool wanted, const Tensor& gradients, std::size_t scale) {
      return wanted ? layout.image(gradients, scale) : FusedSsimImage{};
    };
    // All memory of a group is there before its first request: what is freed meanwhile, by another
    // thread, may still be in use.
    std::vector<FusedSsimRequest> group;
    std::vector<Tensor> workspaces;
    for (std::size_t scale = 1; scale < scales; ++scale) {
      group.push_back(request_of(scale, scale == 1 ? FUSED_SSIM_GROUP_FIRST : FUSED_SSIM_GROUP_NEXT,
                                 part(wants1, coarser1, scale), part(wants2, coarser2, scale)));
      workspaces.push_back(Backend::workspace(problems[scale], group.back(), given.img1));
    }
    for (std::size_t i = 0; i < group.size(); ++i) {
      Backend::run_in(workspaces[i], problems[i + 1], group[i], given.img1);
    }
    memory.clear();
    workspaces.clear();
    FusedSsimImage finest1 = {};
    FusedSsimImage finest2 = {};
    const Tensor gradient1 = new_gradient(given.img1, wants1, &finest1);
    const Tensor gradient2 = new_gradient(given.img2, wants2, &finest2);
    Backend::run(problems[0], request_of(0, FUSED_SSIM_GROUP_NONE, finest1, finest2), given.img1);

    FusedSsimFactorsRequest factors = {};
    factors.struct_size = sizeof(factors);
    factors.scales = static_cast<int64_t>(scales);
    factors.planes = planes;
    factors.dtype = accumulation;
    factors.negative = narrow(negative, "negative");
    factors.exponents = exponents.data();
    factors.divisors = pixels.data();
    factors.means = means.const_data_ptr();
    const Tensor product = new_empty(given.img1, sizes[0].data(), 2, accumulation);
    factors.products = product.mutable_data_ptr();
    const int64_t shape[] = {wants1 || wants2 ? factors.scales : 0, sizes[0][0], sizes[0][1]};
    const Tensor derivatives = new_empty(given.img1, shape, 3, FUSED_SSIM_FLOAT64);
    if (wants1 || wants2) {
      factors.derivatives = static_cast<double*>(derivatives.mutable_data_ptr());
    }
    Backend::factors(factors, given.img1);
    stack.finish(product, derivatives, gradient1, coarser1, gradient2, coarser2);
  }

  static void ms_ssim_backward(StableIValue* values, uint64_t, uint64_t) {
    Stack stack(values);
    const Tensor gradient = stack.next<Tensor>();
    const Tensor coarser = stack.next<Tensor>();
    check_rank("gradient", gradient);
    const Tensor out = new_like(gradient);
    accumulate_into(gradient, coarser, out, new_like(coarser), &stack);
    stack.finish(out);
  }

  static void ms_ssim_backward_(StableIValue* values, uint64_t, uint64_t) {
    Stack stack(values);
    const Tensor gradient = stack.next<Tensor>();
    const Tensor coarser = stack.next<Tensor>();
    check_rank("gradient", gradient);
    accumulate_into(gradient, coarser, gradient, coarser, &stack);
  }

 private:
  // The next scale's problem, the request that makes its images, and their memory.
  static Tensor next_scale(const FusedSsimProblem& problem, const Tensor& like, const Sizes& sizes,
                           int32_t odd_sizes, int32_t accumulation, FusedSsimProblem* next,
                           std::vector<FusedSsimHalveRequest>* halvings) {
    FusedSsimHalveRequest request = {};
    request.struct_size = sizeof(request);
    std::copy(std::begin(problem.sizes), std::end(problem.sizes), request.sizes);
    request.spatial_dims = static_cast<int32_t>(like.dim() - 2);
    request.odd_sizes = odd_sizes;
    request.uint8_divisor = problem.uint8_divisor;
    request.dtype = accumulation;
    request.images[0] = problem.img1;
    request.images[1] = problem.img2;
    // The second image begins where kernels can load it by quads, too.
    const int64_t elements = (plane_count(sizes) * pixel_count(sizes) + 3) / 4 * 4;
    Tensor halves = new_vector(like, 2 * elements, accumulation);
    auto* data = static_cast<char*>(halves.mutable_data_ptr());
    request.halves[0] = data;
    request.halves[1] = data + elements * element_size(accumulation);
    halvings->push_back(request);
    next->img1 = contiguous_image(request.halves[0], accumulation, sizes);
    next->img2 = contiguous_image(request.halves[1], accumulation, sizes);
    std::copy(sizes.begin(), sizes.end(), next->sizes);
    return halves;
  }

  // From the coarsest scale to the finest; what is written may be what is read.
  static void accumulate_into(const Tensor& gradient, const Tensor& coarser, const Tensor& out,
                              const Tensor& coarser_out, Stack* stack) {
    const Tensor upstream = stack->next<Tensor>();
    const Tensor derivatives = stack->next<Tensor>();
    const auto odd_sizes = stack->next<int64_t>();
    if (gradient.numel() == 0) {
      return;
    }
    const int32_t dtype = dtype_of(gradient);
    const int32_t accumulation = dtype == FUSED_SSIM_FLOAT64 ? dtype : FUSED_SSIM_FLOAT32;
    const int64_t planes = gradient.size(0) * gradient.size(1);
    const int64_t scales = derivatives.numel() / planes;
    FusedSsimAccumulateRequest request = {};
    request.struct_size = sizeof(request);
    request.spatial_dims = static_cast<int32_t>(gradient.dim() - 2);
    request.odd_sizes = narrow(odd_sizes, "odd_sizes");
    request.factor = 1.0;
    const std::vector<Sizes> sizes = scale_sizes(gradient, scales, request.odd_sizes);
    const CoarserGradients layout(sizes, accumulation);
    check_saved("upstream", upstream, gradient, planes, accumulation);
    check_saved("derivatives", derivatives, gradient, std::max<int64_t>(1, scales) * planes,
                FUSED_SSIM_FLOAT64);
    check_saved("coarser", coarser, gradient, layout.elements(), accumulation);
    request.upstream = upstream.const_data_ptr();
    for (auto scale = static_cast<std::size_t>(scales); scale-- > 0;) {
      std::copy(sizes[scale].begin(), sizes[scale].end(), request.sizes);
      request.unit = scale == 0 ? image_of(gradient) : layout.image(coarser, scale);
      request.out = scale == 0 ? image_of(out) : layout.image(coarser_out, scale);
      request.derivatives = static_cast<const double*>(derivatives.const_data_ptr()) +
                            static_cast<int64_t>(scale) * planes;
      Backend::accumulate(request, gradient);
      request.coarser = request.out.data;
    }
  }

  static void check_saved(const char* name, const Tensor& tensor, const Tensor& gradient,
                          int64_t elements, int32_t dtype) {
    if (tensor.numel() != elements || dtype_of(tensor) != dtype || !tensor.is_contiguous() ||
        tensor.is_cuda() != gradient.is_cuda()) {
      fail("expected contiguous ", name, " of ", elements,
           " elements as `ms_ssim` gave them, on the gradient's device, got ", shape_text(tensor));
    }
  }
};

template <class Backend>
void register_scale_operators(torch::stable::detail::StableLibrary& library) {
  using Ops = ScaleOperators<Backend>;
  library.impl("ms_ssim", &Ops::ms_ssim);
  library.impl("ms_ssim_backward", &Ops::ms_ssim_backward);
  library.impl("ms_ssim_backward_", &Ops::ms_ssim_backward_);
}

}  // namespace fused_ssim::torch_ops
