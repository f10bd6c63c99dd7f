// The Python module `_C`: loading it loads libfused_ssim, which registers the operators with torch;
// its one function says how that library was built. It includes no torch header, so that one binary
// serves every torch that libfused_ssim serves.
#include <pybind11/pybind11.h>

#include "fused_ssim/build_facts.h"

namespace py = pybind11;

namespace {

py::dict build_facts() {
  const FusedSsimBuildFacts& facts = *fused_ssim_build_facts();
  py::dict result;
  // None for null.
  result["version"] = facts.version;
  result["compiler"] = facts.compiler;
  result["torch_version"] = facts.torch_version;
  result["torch_minimum"] = facts.torch_minimum;
  result["cpu_levels_compiled"] = facts.cpu_levels_compiled;
  result["cpu_levels_supported"] = facts.cpu_levels_supported;
  result["cpu_level_active"] = facts.cpu_level_active;
  result["cpu_level_error"] = facts.cpu_level_error;
  result["cuda_toolkit"] = facts.cuda_toolkit;
  result["cuda_architectures"] = facts.cuda_architectures;
  return result;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Loads libfused_ssim; says how it was built.";
  module.def("build_facts", &build_facts, "How libfused_ssim was built, and its CPU level.");
}
