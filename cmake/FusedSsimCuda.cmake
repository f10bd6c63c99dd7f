# Decides whether the CUDA library is built, and enables the CUDA language if so.
#
# In:  FUSED_SSIM_CUDA (AUTO, ON, OFF)
# Out: FUSED_SSIM_HAS_CUDA, CMAKE_CUDA_ARCHITECTURES, and FUSED_SSIM_CUDA_ARCHITECTURES as people
#      read it ("sm_75 sm_90 compute_90")
include_guard()
include(CheckLanguage)
include(CudaArchitectures)

set(FUSED_SSIM_HAS_CUDA OFF)
string(TOUPPER "${FUSED_SSIM_CUDA}" _cuda)
if(_cuda STREQUAL "") # an environment variable that is set to nothing
  set(_cuda AUTO)
endif()
if(_cuda STREQUAL "OFF")
  message(STATUS "fused_ssim: CUDA library: no (FUSED_SSIM_CUDA=OFF)")
  return()
elseif(NOT _cuda MATCHES "^(AUTO|ON)$")
  message(FATAL_ERROR "FUSED_SSIM_CUDA: expected AUTO, ON or OFF, got \"${FUSED_SSIM_CUDA}\"")
endif()

# ==================================================================================================
# nvcc
# ==================================================================================================
if(NOT CMAKE_CUDA_COMPILER) # what an earlier configuration may have found not to compile
  unset(CMAKE_CUDA_COMPILER CACHE)
endif()
# torch's users point to a toolkit with CUDA_HOME; CMake itself looks at CUDACXX and PATH.
if(NOT CMAKE_CUDA_COMPILER AND "$ENV{CUDACXX}" STREQUAL "")
  find_program(
    _nvcc nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin NO_CACHE
  )
  if(_nvcc)
    set(ENV{CUDACXX} "${_nvcc}") # where both check_language and enable_language look
  endif()
endif()
if(CMAKE_CUDA_COMPILER)
  set(_nvcc "${CMAKE_CUDA_COMPILER}")
else()
  set(_nvcc "$ENV{CUDACXX}")
endif()

if(NOT _nvcc)
  if(_cuda STREQUAL "ON")
    message(
      FATAL_ERROR
        "FUSED_SSIM_CUDA=ON, but nvcc was not found on PATH, in CUDACXX, CUDA_HOME, CUDA_PATH or \
/usr/local/cuda. Install the CUDA toolkit (11.8 or newer) and put its bin folder on PATH or set \
CUDA_HOME, or build for the CPU alone with FUSED_SSIM_CUDA=OFF"
    )
  endif()
  message(STATUS "fused_ssim: CUDA library: no (FUSED_SSIM_CUDA=AUTO, and nvcc was not found)")
  return()
endif()

# ==================================================================================================
# Architectures: known before the language is enabled, which otherwise picks a default of its own
# ==================================================================================================
execute_process(
  COMMAND "${_nvcc}" --version OUTPUT_VARIABLE _nvcc_says ERROR_VARIABLE _nvcc_says
)
execute_process(
  COMMAND "${_nvcc}" --list-gpu-arch OUTPUT_VARIABLE _nvcc_knows ERROR_QUIET
)
if(NOT _nvcc_says MATCHES "release ([0-9]+\\.[0-9]+)")
  message(FATAL_ERROR "${_nvcc} --version says no release: ${_nvcc_says}")
endif()
set(_nvcc_version "${CMAKE_MATCH_1}")
string(REGEX MATCHALL "[0-9]+" _all "${_nvcc_knows}")
fused_ssim_cuda_architectures(CMAKE_CUDA_ARCHITECTURES "${_nvcc_version}" "${_all}")
fused_ssim_describe_architectures(FUSED_SSIM_CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")

# ==================================================================================================
# The language
# ==================================================================================================
if(_cuda STREQUAL "AUTO")
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    message(
      WARNING
        "fused_ssim: CUDA library: no (FUSED_SSIM_CUDA=AUTO: ${_nvcc} was found but does not compile; \
FUSED_SSIM_CUDA=ON shows why)"
    )
    return()
  endif()
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(FUSED_SSIM_HAS_CUDA ON)
message(
  STATUS
    "fused_ssim: CUDA library: yes (FUSED_SSIM_CUDA=${_cuda}, nvcc ${CMAKE_CUDA_COMPILER_VERSION})"
)
