# An instruction-set level's object offers one symbol to the linker: its table of functions. A weak
# symbol, such as an inline function that was not inlined, might replace the same function of the
# baseline, which then fails on older processors.
#
#   cmake -DNM=nm -DOBJECT=level_avx2.cpp.o -P check_level_symbols.cmake
execute_process(
  COMMAND "${NM}" --defined-only --extern-only --format=posix "${OBJECT}"
  OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY
)
string(REGEX MATCHALL "[^\n]+" symbols "${symbols}")
set(tables ${symbols})
list(FILTER tables INCLUDE REGEX "Functions[^ ]* [BDR] ")
list(FILTER symbols EXCLUDE REGEX "Functions[^ ]* [BDR] ")
list(LENGTH tables count)
if(NOT count EQUAL 1 OR symbols)
  list(JOIN symbols "\n  " shown)
  message(
    FATAL_ERROR "${OBJECT}: ${count} tables of functions (expected 1); other symbols:\n  ${shown}"
  )
endif()
