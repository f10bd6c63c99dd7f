// The scratch memory of a kernel, given by its caller.
#pragma once

#include <cstdint>

namespace fused_ssim::cpu {

// Consecutive pieces of a workspace; without one, only their sizes.
class WorkspaceLayout {
 public:
  explicit WorkspaceLayout(unsigned char* workspace) : workspace_(workspace) {}

  template <class Element>
  Element* take(int64_t count) {
    const int64_t offset = bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(Element)) + 63) / 64 * 64;
    return workspace_ == nullptr ? nullptr : reinterpret_cast<Element*>(workspace_ + offset);
  }
  int64_t bytes() const { return bytes_; }

 private:
  unsigned char* workspace_;
  int64_t bytes_ = 0;
};

}  // namespace fused_ssim::cpu
