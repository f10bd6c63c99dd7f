// Instantiates the kernels for one level; included by level_*.cpp alone, each compiled with the
// flags of its instruction set.
#pragma once

#include "cpu/level_functions.h"
#include "cpu/scale.h"
#include "cpu/strip.h"

namespace fused_ssim::cpu {

template <class Arch>
struct LevelInstance {
  static int64_t workspace_bytes(const Problem& problem, const Request& request,
                                 int64_t strip_columns) {
    int64_t bytes = 0;
    visit(problem, request, [&](auto kernel) __attribute__((always_inline)) {
      using Kernel = typename decltype(kernel)::template Type<AnyFilter>;  // FixedFilter's, too
      bytes = Kernel(problem, request, strip_columns, nullptr).workspace_bytes();
    });
    return bytes;
  }

  static void run(const Problem& problem, const Request& request, const Task* tasks,
                  int64_t task_count, int64_t strip_columns, unsigned char* workspace) {
    // Statistics, |x - y| and (x - y)^2 are symmetric: the gradient of img2 alone is that of img1
    // with the two exchanged.
    Problem exchanged_problem = problem;
    Request exchanged_request = request;
    if (request.grad1.data == nullptr && request.grad2.data != nullptr) {
      exchanged_problem.img1 = problem.img2;
      exchanged_problem.img2 = problem.img1;
      exchanged_request.grad1 = request.grad2;
      exchanged_request.grad2 = Image();
    }
    visit(exchanged_problem, exchanged_request, [&](auto kernel) __attribute__((always_inline)) {
      run_kernel<decltype(kernel)>(exchanged_problem, exchanged_request, tasks, task_count,
                                   strip_columns, workspace);
    });
  }

 private:
  template <class T, int kImages>
  struct Kernel {
    template <template <class> class Filter>
    using Type = StripKernel<Arch, T, Filter, kImages>;
  };

  template <class Visitor>
  static FUSED_SSIM_INLINE void visit(const Problem& problem, const Request& request,
                                      Visitor visitor) {
    if (accumulates_in_double(problem)) {
      visit_images<double>(request, visitor);
    } else {
      visit_images<float>(request, visitor);
    }
  }

  template <class T, class Visitor>
  static FUSED_SSIM_INLINE void visit_images(const Request& request, Visitor visitor) {
    if (!wants_gradient(request)) {
      visitor(Kernel<T, 0>());
    } else if (request.grad1.data == nullptr || request.grad2.data == nullptr) {
      visitor(Kernel<T, 1>());
    } else {
      visitor(Kernel<T, 2>());
    }
  }

  template <class Kernel>
  static void run_kernel(const Problem& problem, const Request& request, const Task* tasks,
                         int64_t task_count, int64_t strip_columns, unsigned char* workspace) {
    const bool fixed = has_fixed_radius(problem);
    for (int64_t i = 0; i < task_count; ++i) {
      bool done = false;
      if (fixed) {
        typename Kernel::template Type<FixedFilter> strip(problem, request, strip_columns,
                                                          workspace);
        strip.run(tasks[i]);
        done = !strip.spread_nonfinite();
      }
      if (!done) {
        typename Kernel::template Type<AnyFilter> strip(problem, request, strip_columns, workspace);
        strip.run(tasks[i]);
      }
    }
  }
};

template <class Arch>
constexpr LevelFunctions level_functions() {
  return {&LevelInstance<Arch>::workspace_bytes, &LevelInstance<Arch>::run,
          &ScaleKernel<Arch>::run};
}

}  // namespace fused_ssim::cpu
