// Exceptions end here: they become a status and a message for the calling thread.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "fused_ssim/kernels.h"

namespace fused_ssim::c_api {

// A valid request that the kernels do not compute; `reason` says what was expected and what came.
class NotServed : public std::runtime_error {
 public:
  explicit NotServed(const std::string& reason)
      : std::runtime_error(reason + "; the Python package computes this form by torch operations") {
  }
};

// Not in a namespace without a name: each library has one, and only one.
inline std::string& last_error() {
  static thread_local std::string message;
  return message;
}

// Keeps the message if there is memory for it.
inline FusedSsimStatus failure(FusedSsimStatus status, const char* message) noexcept {
  try {
    last_error() = message;
  } catch (...) {
    last_error().clear();
  }
  return status;
}

// The status of work(), which returns one or throws.
template <class Work>
FusedSsimStatus guarded(const Work& work) noexcept {
  try {
    return work();
  } catch (const std::invalid_argument& error) {
    return failure(FUSED_SSIM_INVALID_ARGUMENT, error.what());
  } catch (const NotServed& error) {
    return failure(FUSED_SSIM_NOT_SERVED, error.what());
  } catch (const std::bad_alloc&) {
    return failure(FUSED_SSIM_OUT_OF_MEMORY, "out of memory");
  } catch (const std::length_error&) {  // of containers: more than any memory
    return failure(FUSED_SSIM_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return failure(FUSED_SSIM_INTERNAL_ERROR, error.what());
  } catch (...) {
    return failure(FUSED_SSIM_INTERNAL_ERROR, "unknown exception");
  }
}

}  // namespace fused_ssim::c_api
