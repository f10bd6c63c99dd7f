// How messages show values: as Python does.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Layout.h>
#include <c10/core/ScalarType.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>

namespace fused_ssim::detail {

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

// The shortest digits that read back as the same number.
inline std::string number(double value) {
  if (std::isnan(value)) {
    return "nan";
  }
  if (std::isinf(value)) {
    return value > 0 ? "inf" : "-inf";
  }
  const double magnitude = std::fabs(value);
  const auto format = magnitude != 0.0 && (magnitude < 1e-4 || magnitude >= 1e16)
                          ? std::chars_format::scientific
                          : std::chars_format::fixed;
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value, format).ptr;
  std::string result(digits, end);
  if (format == std::chars_format::fixed && result.find('.') == std::string::npos) {
    result += ".0";
  }
  return result;
}

inline std::string shape_of(const at::Tensor& image) {
  std::string result = "[";
  for (const int64_t size : image.sizes()) {
    result += (result.size() > 1 ? ", " : "") + std::to_string(size);
  }
  return result + "]";
}

inline std::string dtype_of(const at::Tensor& image) {
  return text("torch.", c10::getDtypeNames(image.scalar_type()).first);
}

inline std::string layout_of(const at::Tensor& image) {
  switch (image.layout()) {
    case at::kSparse:
      return "torch.sparse_coo";
    case at::kSparseCsr:
      return "torch.sparse_csr";
    case at::kSparseCsc:
      return "torch.sparse_csc";
    case at::kSparseBsr:
      return "torch.sparse_bsr";
    case at::kSparseBsc:
      return "torch.sparse_bsc";
    case at::kMkldnn:
      return "torch._mkldnn";
    case at::kJagged:
      return "torch.jagged";
    default:
      return text(image.layout());
  }
}

}  // namespace fused_ssim::detail
