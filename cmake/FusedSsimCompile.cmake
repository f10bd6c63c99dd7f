# Compiler options that every target of the project shares, and those of the CPU kernels.
#
#   fused_ssim_compile_options(target)   C++17, hidden symbols, warnings, sanitizers
#   fused_ssim_export_c_functions(target)  a shared library that exports fused_ssim_* alone
#   fused_ssim_torch_library(target)     such a library over libtorch's stable ABI
#   FUSED_SSIM_KERNEL_OPTIONS            options of every CPU kernel file
#   FUSED_SSIM_CPU_LEVELS                levels above the baseline in this build: avx2, avx512
#   FUSED_SSIM_<LEVEL>_OPTIONS           instruction-set options of a level
include_guard()
include(CheckCXXCompilerFlag)

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
  message(
    FATAL_ERROR
      "fused_ssim needs GCC 12 or newer (vector shuffles), found ${CMAKE_CXX_COMPILER_VERSION} at \
${CMAKE_CXX_COMPILER}. Choose another compiler with the environment variable CXX"
  )
endif()

function(fused_ssim_compile_options target)
  target_compile_features(${target} PRIVATE cxx_std_17)
  set_target_properties(
    ${target}
    PROPERTIES CXX_EXTENSIONS OFF
               CXX_VISIBILITY_PRESET hidden
               VISIBILITY_INLINES_HIDDEN ON
               POSITION_INDEPENDENT_CODE ON
  )
  if(CMAKE_CUDA_COMPILER_LOADED)
    target_compile_features(${target} PRIVATE cuda_std_17)
    set_target_properties(
      ${target} PROPERTIES CUDA_EXTENSIONS OFF CUDA_VISIBILITY_PRESET hidden
    )
  endif()
  if(NOT MSVC)
    target_compile_options(
      ${target}
      PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow>
              $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${FUSED_SSIM_WERROR}>>:-Werror>
    )
  endif()
  if(NOT MSVC)
    # Error messages of torch's headers name the file they stand in: not with a path of this machine.
    foreach(folder IN ITEMS "${PROJECT_SOURCE_DIR}" "${TorchStable_INCLUDE_DIR}")
      if(folder)
        target_compile_options(
          ${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-fmacro-prefix-map=${folder}/=>"
        )
      endif()
    endforeach()
  endif()
  if(FUSED_SSIM_SANITIZE)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${FUSED_SSIM_SANITIZE_OPTIONS}>)
    target_link_options(${target} PUBLIC ${FUSED_SSIM_SANITIZE_OPTIONS})
  endif()
endfunction()

# The kernels are few and very long functions, on which instrumented code takes GCC many minutes a
# file. What follows makes that less than three; null pointers fault without help, and
# AddressSanitizer knows the sizes of objects.
if(FUSED_SSIM_SANITIZE)
  set(FUSED_SSIM_SANITIZE_OPTIONS
      -O1 -g1 -fno-omit-frame-pointer -fsanitize=${FUSED_SSIM_SANITIZE} -fno-sanitize-recover=all
      -DFUSED_SSIM_FEW_WINDOWS -DFUSED_SSIM_INLINE=inline
  )
  if(FUSED_SSIM_SANITIZE MATCHES "undefined")
    list(APPEND FUSED_SSIM_SANITIZE_OPTIONS -fno-sanitize=null,object-size)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    list(APPEND FUSED_SSIM_SANITIZE_OPTIONS -fno-tree-pta)
    if(FUSED_SSIM_SANITIZE MATCHES "address")
      list(APPEND FUSED_SSIM_SANITIZE_OPTIONS --param=asan-instrumentation-with-call-threshold=0)
    endif()
  endif()
endif()

# $<LINK_LIBRARY:always_needed,lib>: the result needs `lib` at run time even where it calls nothing of
# it. Linkers that are asked to (--as-needed, the default of some distributions) drop such libraries.
set(CMAKE_CXX_LINK_LIBRARY_USING_always_needed_SUPPORTED TRUE)
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  set(CMAKE_CXX_LINK_LIBRARY_USING_always_needed
      "LINKER:--push-state,--no-as-needed" "<LINK_ITEM>" "LINKER:--pop-state"
  )
else()
  set(CMAKE_CXX_LINK_LIBRARY_USING_always_needed "<LINK_ITEM>")
endif()

function(fused_ssim_export_c_functions target)
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    # Templates of the standard library are visible whatever -fvisibility says; the version script
    # leaves only the project's C functions.
    set(exports "${PROJECT_SOURCE_DIR}/cmake/exports.map")
    target_link_options(${target} PRIVATE "LINKER:--version-script=${exports}")
    set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS "${exports}")
  endif()
endfunction()

function(fused_ssim_torch_library target)
  target_compile_definitions(${target} PRIVATE TORCH_TARGET_VERSION=0x020a000000000000) # 2.10
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    # libtorch exports copies of some functions of the standard library; named first, the standard
    # library itself provides them.
    target_link_libraries(${target} PRIVATE stdc++)
  endif()
  target_link_libraries(${target} PRIVATE "$<LINK_LIBRARY:always_needed,TorchStable::torch>")
  if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
    target_link_libraries(${target} PRIVATE TorchStable::torch_cpu) # every symbol must resolve
  endif()
  fused_ssim_export_c_functions(${target})
endfunction()

# ==================================================================================================
# CPU kernels
# ==================================================================================================
# No -ffast-math: NaN must survive, and the bits must not depend on the level of optimisation beyond
# what the code says. errno and traps only hinder vectorisation.
if(MSVC)
  set(FUSED_SSIM_KERNEL_OPTIONS /fp:precise)
else()
  set(FUSED_SSIM_KERNEL_OPTIONS
      $<$<NOT:$<CONFIG:Debug>>:-O3>
      -ffp-contract=off
      -fno-math-errno
      -fno-trapping-math
  )
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Vectors are passed between functions of one file only, so how GCC 4 passed them is no concern.
    list(APPEND FUSED_SSIM_KERNEL_OPTIONS -Wno-psabi)
  endif()
endif()

if(MSVC)
  set(FUSED_SSIM_AVX2_OPTIONS /arch:AVX2)
  set(FUSED_SSIM_AVX512_OPTIONS /arch:AVX512)
else()
  set(FUSED_SSIM_AVX2_OPTIONS -mavx2 -mfma -mf16c)
  set(FUSED_SSIM_AVX512_OPTIONS -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c)
endif()

if(APPLE AND CMAKE_OSX_ARCHITECTURES)
  set(_processor "${CMAKE_OSX_ARCHITECTURES}") # a list, for a universal binary: baseline only
else()
  set(_processor "${CMAKE_SYSTEM_PROCESSOR}")
endif()
set(FUSED_SSIM_CPU_LEVELS)
if(_processor MATCHES "^(x86_64|AMD64|amd64)$" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
  foreach(level IN ITEMS avx2 avx512)
    string(TOUPPER "${level}" LEVEL)
    string(REPLACE ";" " " CMAKE_REQUIRED_FLAGS "${FUSED_SSIM_${LEVEL}_OPTIONS}")
    check_cxx_compiler_flag("" FUSED_SSIM_COMPILER_HAS_${LEVEL})
    unset(CMAKE_REQUIRED_FLAGS)
    if(FUSED_SSIM_COMPILER_HAS_${LEVEL})
      list(APPEND FUSED_SSIM_CPU_LEVELS ${level})
    endif()
  endforeach()
endif()
string(REPLACE ";" ", " _levels "baseline;${FUSED_SSIM_CPU_LEVELS}")
message(STATUS "fused_ssim: CPU levels: ${_levels}")
