// Instantiates the kernels for one level; included by level_*.cpp alone, each compiled with the
// flags of its instruction set.
#pragma once

#include "cpu/level_functions.h"
#include "cpu/scale_kernel.h"
#include "cpu/strip_kernel.h"

namespace fused_ssim::cpu {

template <class Arch>
struct LevelInstance {
  template <class Visitor>
  static FUSED_SSIM_INLINE void visit(const Problem& problem, const Request& request,
                                      Visitor visitor) {
    if (accumulates_in_double(problem.dtype)) {
      visit_radius<double>(problem, request, visitor);
    } else {
      visit_radius<float>(problem, request, visitor);
    }
  }

  static int64_t workspace_bytes(const Problem& problem, const Request& request,
                                 int64_t strip_columns) {
    int64_t bytes = 0;
    visit(problem, request, [&](auto kernel) {
      bytes = decltype(kernel)::Type::workspace_bytes(problem, request, strip_columns);
    });
    return bytes;
  }

  static void run(const Problem& problem, const Request& request, const Task* tasks,
                  int64_t task_count, int64_t strip_columns, unsigned char* workspace) {
    // SSIM and |x - y| are symmetric: the gradient of img2 alone is that of img1 with the two
    // exchanged.
    Problem exchanged_problem = problem;
    Request exchanged_request = request;
    if (request.grad1.data == nullptr && request.grad2.data != nullptr) {
      exchanged_problem.img1 = problem.img2;
      exchanged_problem.img2 = problem.img1;
      exchanged_request.grad1 = request.grad2;
      exchanged_request.grad2 = MutableImage();
    }
    visit(exchanged_problem, exchanged_request, [&](auto kernel) {
      typename decltype(kernel)::Type strip(exchanged_problem, exchanged_request, strip_columns,
                                            workspace);
      for (int64_t i = 0; i < task_count; ++i) {
        strip.run(tasks[i]);
      }
    });
  }

 private:
  template <class Kernel>
  struct Tag {
    using Type = Kernel;
  };

  template <class T, class Visitor>
  static FUSED_SSIM_INLINE void visit_radius(const Problem& problem, const Request& request,
                                             Visitor visitor) {
    if (problem.window.size == kDefaultWindowSize) {
      visit_images<T, kDefaultWindowSize / 2>(request, visitor);
    } else {
      visit_images<T, 0>(request, visitor);
    }
  }

  template <class T, int kFixedRadius, class Visitor>
  static FUSED_SSIM_INLINE void visit_images(const Request& request, Visitor visitor) {
    if (!request.wants_gradient()) {
      visitor(Tag<StripKernel<Arch, T, kFixedRadius, 0>>());
    } else if (request.grad1.data == nullptr || request.grad2.data == nullptr) {
      visitor(Tag<StripKernel<Arch, T, kFixedRadius, 1>>());
    } else {
      visitor(Tag<StripKernel<Arch, T, kFixedRadius, 2>>());
    }
  }
};

template <class Arch>
constexpr LevelFunctions level_functions() {
  return {&LevelInstance<Arch>::workspace_bytes, &LevelInstance<Arch>::run,
          &ScaleKernel<Arch>::run};
}

}  // namespace fused_ssim::cpu
