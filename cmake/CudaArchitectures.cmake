# Which GPU architectures the CUDA library is compiled for. The GPU of the building machine is never
# asked: a binary must not depend on it.
#
#   fused_ssim_cuda_architectures(out_var nvcc_version all_architectures)
#
# The first of these that is set decides:
#   CMAKE_CUDA_ARCHITECTURES   CMake's syntax: "80-real;90" (variable)
#   TORCH_CUDA_ARCH_LIST       torch's syntax: "8.6;9.0+PTX", spaces too (variable or environment)
#   CF_TORCH_CUDA_ARCH_LIST    the same, as conda-forge's compiler packages give it (environment)
#   CUDAARCHS                  CMake's syntax (environment)
#   the default of the toolkit, below
#
# The result is a list of <arch>-real and <arch>-virtual; `all_architectures` is the list of numbers
# that nvcc knows, for the values "all" and "all-major".
#
# A cubin sm_XY runs on GPUs of the same major version with at least that minor: 86 serves 8.7 and 8.9,
# 100 serves 10.3, 120 serves 12.1. PTX compute_XY runs on anything newer of the ordinary line; that of
# compute_120 does not serve 11.0, so where nvcc does not know 110 yet, 90-virtual stands beside it.

function(_fused_ssim_default_architectures out_var nvcc_version)
  if(nvcc_version VERSION_GREATER_EQUAL 13.0)
    set(real 75 80 86 90 100 110 120)
    set(virtual 120)
  elseif(nvcc_version VERSION_GREATER_EQUAL 12.8)
    set(real 75 80 86 90 100 120)
    set(virtual 90 120)
  else()
    set(real 70 75 80 86 90)
    set(virtual 90)
  endif()
  list(TRANSFORM real APPEND -real)
  list(TRANSFORM virtual APPEND -virtual)
  set(${out_var} "${real};${virtual}" PARENT_SCOPE)
endfunction()

# "8.6;9.0+PTX" -> 86-real 90-real 90-virtual
function(_fused_ssim_parse_torch_list out_var value origin)
  # torch's names, with the PTX that torch adds.
  set(Volta 7.0+PTX)
  set(Turing 7.5+PTX)
  set(Ampere 8.0 8.6+PTX)
  set(Ada 8.9+PTX)
  set(Hopper 9.0+PTX)
  set(Blackwell 10.0 10.3 12.0 12.1+PTX)
  string(REGEX REPLACE "[ ,\t]+" ";" entries "${value}")
  set(result)
  foreach(entry IN LISTS entries)
    if(entry MATCHES "^(Volta|Turing|Ampere|Ada|Hopper|Blackwell)$")
      list(APPEND result ${${entry}})
    elseif(entry)
      list(APPEND result ${entry})
    endif()
  endforeach()
  set(entries "${result}")
  set(result)
  foreach(entry IN LISTS entries)
    if(NOT entry MATCHES "^([0-9]+)\\.([0-9][af]?)([+]PTX)?$")
      message(
        FATAL_ERROR
          "${origin}: \"${entry}\" is no architecture. Expected a list like \"8.6;9.0+PTX\" (or \
names: Volta, Turing, Ampere, Ada, Hopper, Blackwell), got \"${value}\""
      )
    endif()
    set(number "${CMAKE_MATCH_1}${CMAKE_MATCH_2}")
    list(APPEND result ${number}-real)
    if(CMAKE_MATCH_3)
      list(APPEND result ${number}-virtual)
    endif()
  endforeach()
  set(${out_var} "${result}" PARENT_SCOPE)
endfunction()

# "80-real;90" -> 80-real 90-real 90-virtual
function(_fused_ssim_parse_cmake_list out_var value origin all_architectures)
  set(result)
  foreach(entry IN LISTS value)
    if(entry MATCHES "^([0-9]+[af]?)(-real|-virtual)?$")
      if(CMAKE_MATCH_2)
        list(APPEND result ${entry})
      else()
        list(APPEND result ${entry}-real ${entry}-virtual)
      endif()
    elseif(entry MATCHES "^all(-major)?(-real)?$")
      set(major "${CMAKE_MATCH_1}")
      set(real_only "${CMAKE_MATCH_2}")
      set(all ${all_architectures})
      list(SORT all COMPARE NATURAL)
      list(GET all -1 newest)
      if(major)
        list(FILTER all INCLUDE REGEX "0$")
      endif()
      list(TRANSFORM all APPEND -real)
      list(APPEND result ${all})
      if(NOT real_only)
        list(APPEND result ${newest}-virtual)
      endif()
    else()
      # "native" among them: it asks the GPU of this machine.
      message(
        FATAL_ERROR
          "${origin}: \"${entry}\" is not supported here. Name the architectures, as in \
\"80-real;90\": the build does not depend on the GPU of the machine it runs on"
      )
    endif()
  endforeach()
  set(${out_var} "${result}" PARENT_SCOPE)
endfunction()

function(fused_ssim_cuda_architectures out_var nvcc_version all_architectures)
  if(CMAKE_CUDA_ARCHITECTURES)
    set(origin CMAKE_CUDA_ARCHITECTURES)
    _fused_ssim_parse_cmake_list(
      result "${CMAKE_CUDA_ARCHITECTURES}" ${origin} "${all_architectures}"
    )
  elseif(TORCH_CUDA_ARCH_LIST)
    set(origin TORCH_CUDA_ARCH_LIST)
    _fused_ssim_parse_torch_list(result "${TORCH_CUDA_ARCH_LIST}" ${origin})
  elseif(NOT "$ENV{TORCH_CUDA_ARCH_LIST}" STREQUAL "")
    set(origin TORCH_CUDA_ARCH_LIST)
    _fused_ssim_parse_torch_list(result "$ENV{TORCH_CUDA_ARCH_LIST}" ${origin})
  elseif(NOT "$ENV{CF_TORCH_CUDA_ARCH_LIST}" STREQUAL "")
    set(origin CF_TORCH_CUDA_ARCH_LIST)
    _fused_ssim_parse_torch_list(result "$ENV{CF_TORCH_CUDA_ARCH_LIST}" ${origin})
  elseif(NOT "$ENV{CUDAARCHS}" STREQUAL "")
    set(origin CUDAARCHS)
    _fused_ssim_parse_cmake_list(result "$ENV{CUDAARCHS}" ${origin} "${all_architectures}")
  else()
    set(origin "default of nvcc ${nvcc_version}")
    _fused_ssim_default_architectures(result "${nvcc_version}")
  endif()
  list(REMOVE_DUPLICATES result)
  list(SORT result COMPARE NATURAL)
  string(REPLACE ";" " " shown "${result}")
  message(STATUS "fused_ssim: CUDA architectures (${origin}): ${shown}")
  set(${out_var} "${result}" PARENT_SCOPE)
endfunction()

# 90-real 90-virtual -> "sm_90 compute_90"
function(fused_ssim_describe_architectures out_var architectures)
  set(real ${architectures})
  list(FILTER real INCLUDE REGEX "-real$")
  list(TRANSFORM real REPLACE "^(.*)-real$" "sm_\\1")
  set(virtual ${architectures})
  list(FILTER virtual INCLUDE REGEX "-virtual$")
  list(TRANSFORM virtual REPLACE "^(.*)-virtual$" "compute_\\1")
  list(JOIN real " " real)
  list(JOIN virtual " " virtual)
  string(STRIP "${real} ${virtual}" described)
  set(${out_var} "${described}" PARENT_SCOPE)
endfunction()
