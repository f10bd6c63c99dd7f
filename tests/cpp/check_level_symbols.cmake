# An instruction-set level's object offers one symbol to the linker: its table of functions. A weak
# symbol, such as an inline function that was not inlined, might replace the same function of the
# baseline, which then fails on older processors.
#
#   cmake -DNM=nm -DARCHIVE=libfused_ssim_cpu.a "-DLEVELS=avx2;avx512" -P check_level_symbols.cmake
execute_process(
  COMMAND "${NM}" --defined-only --extern-only --format=posix "${ARCHIVE}"
  OUTPUT_VARIABLE listing COMMAND_ERROR_IS_FATAL ANY
)
# A heading stands before the symbols of each object: `libfused_ssim_cpu.a[level_avx2.cpp.o]:`, and
# `level_avx2.cpp.obj:` where nm is LLVM's.
string(REGEX REPLACE "[][]" "" listing "${listing}")
string(REGEX REPLACE "\n([^ \n]+):\n" "\n|\\1|\n" listing "\n${listing}")
foreach(level IN LISTS LEVELS)
  if(NOT listing MATCHES "[|][^|]*level_${level}[.][^|]*[|]\n([^|]*)")
    message(FATAL_ERROR "${ARCHIVE}: expected an object of level ${level}, found:\n${listing}")
  endif()
  string(REGEX MATCHALL "[^\n]+ [A-Za-z] [^\n]+" symbols "${CMAKE_MATCH_1}")
  set(tables ${symbols})
  list(FILTER tables INCLUDE REGEX "Functions[^ ]* [BDR] ")
  list(FILTER symbols EXCLUDE REGEX "Functions[^ ]* [BDR] ")
  list(LENGTH tables count)
  if(NOT count EQUAL 1 OR symbols)
    list(JOIN symbols "\n  " shown)
    message(
      FATAL_ERROR "level ${level}: ${count} tables of functions (expected 1); others:\n  ${shown}"
    )
  endif()
endforeach()
