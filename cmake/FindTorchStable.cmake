# Finds what a library over libtorch's stable ABI needs: torch's headers and libtorch.
#
# torch's own package configuration is not used: it rewrites CUDA flags, ignores
# CMAKE_CUDA_ARCHITECTURES and needs the development files of cuBLAS, cuFFT and others to configure.
#
# Looked for, in this order:
#   1. TorchStable_ROOT, CMAKE_PREFIX_PATH (variables or environment): a plain libtorch, a conda
#      prefix, a folder that holds torch's Python package, or `torch.utils.cmake_prefix_path`
#   2. the torch of the Python that builds (found without importing it)
#   3. the system's folders
#
# Result: TorchStable_FOUND, TorchStable_VERSION, and two targets:
#   TorchStable::torch      headers and libtorch, an empty library that loads libtorch_cpu, and
#                           libtorch_cuda where there is one
#   TorchStable::torch_cpu  where the functions of the stable ABI are, but for those of CUDA

# A build folder may outlive the torch it was configured with (build isolation).
foreach(_cached IN ITEMS TorchStable_INCLUDE_DIR TorchStable_LIBRARY TorchStable_CPU_LIBRARY)
  if(${_cached} AND NOT EXISTS "${${_cached}}")
    unset(${_cached} CACHE)
  endif()
endforeach()

# 1. Prefixes that were named.
set(_hints)
set(_env_root "$ENV{TorchStable_ROOT}")
set(_env_prefixes "$ENV{CMAKE_PREFIX_PATH}")
if(NOT WIN32)
  string(REPLACE ":" ";" _env_prefixes "${_env_prefixes}")
endif()
foreach(_prefix IN LISTS TorchStable_ROOT _env_root CMAKE_PREFIX_PATH _env_prefixes)
  list(APPEND _hints "${_prefix}" "${_prefix}/torch" "${_prefix}/../..")
endforeach()

# 2. The torch of the building Python.
if(NOT TARGET Python::Interpreter)
  find_package(Python COMPONENTS Interpreter QUIET)
endif()
set(_python_torch)
if(TARGET Python::Interpreter)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c [[
import importlib.util, os
spec = importlib.util.find_spec("torch")
print(os.path.dirname(spec.origin) if spec and spec.origin else "", end="")
]]
    OUTPUT_VARIABLE _python_torch
    ERROR_QUIET
  )
  if(_python_torch)
    file(TO_CMAKE_PATH "${_python_torch}" _python_torch)
    list(APPEND _hints "${_python_torch}")
  endif()
endif()

set(_header torch/csrc/stable/library.h)
find_path(
  TorchStable_INCLUDE_DIR ${_header} HINTS ${_hints} PATH_SUFFIXES include
  NO_CMAKE_PATH NO_CMAKE_ENVIRONMENT_PATH NO_SYSTEM_ENVIRONMENT_PATH NO_CMAKE_SYSTEM_PATH
)
find_path(TorchStable_INCLUDE_DIR ${_header})
# Headers and library of one installation, never of two.
cmake_path(GET TorchStable_INCLUDE_DIR PARENT_PATH _root)
find_library(TorchStable_LIBRARY torch HINTS "${_root}" PATH_SUFFIXES lib lib64 NO_DEFAULT_PATH)
find_library(TorchStable_LIBRARY torch)
cmake_path(GET TorchStable_LIBRARY PARENT_PATH _library_dir)
find_library(TorchStable_CPU_LIBRARY torch_cpu HINTS "${_library_dir}" NO_DEFAULT_PATH)
mark_as_advanced(TorchStable_INCLUDE_DIR TorchStable_LIBRARY TorchStable_CPU_LIBRARY)

# The version, as the headers state it.
set(_version_header "${TorchStable_INCLUDE_DIR}/torch/headeronly/version.h")
if(TorchStable_INCLUDE_DIR AND EXISTS "${_version_header}")
  file(STRINGS "${_version_header}" _lines REGEX "^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
  string(REGEX MATCHALL "[0-9]+" _numbers "${_lines}")
  list(JOIN _numbers "." TorchStable_VERSION)
endif()

if(TARGET Python::Interpreter)
  set(_looked "the Python that builds (${Python_EXECUTABLE})")
else()
  set(_looked "a Python (none was found)")
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  TorchStable
  REQUIRED_VARS TorchStable_LIBRARY TorchStable_CPU_LIBRARY TorchStable_INCLUDE_DIR
  VERSION_VAR TorchStable_VERSION
  REASON_FAILURE_MESSAGE
    "torch was looked for in TorchStable_ROOT, CMAKE_PREFIX_PATH and ${_looked}. Install it (pip \
install 'torch>=2.10'), or unpack a libtorch and pass -DCMAKE_PREFIX_PATH=/path/to/libtorch"
)

if(TorchStable_FOUND AND NOT TARGET TorchStable::torch)
  add_library(TorchStable::torch UNKNOWN IMPORTED)
  set_target_properties(
    TorchStable::torch PROPERTIES IMPORTED_LOCATION "${TorchStable_LIBRARY}"
                                  INTERFACE_INCLUDE_DIRECTORIES "${TorchStable_INCLUDE_DIR}"
  )
  add_library(TorchStable::torch_cpu UNKNOWN IMPORTED)
  set_target_properties(
    TorchStable::torch_cpu PROPERTIES IMPORTED_LOCATION "${TorchStable_CPU_LIBRARY}"
  )
  message(STATUS "fused_ssim: torch ${TorchStable_VERSION} at ${_root}")
endif()
