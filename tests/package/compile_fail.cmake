# Compiles a file that must not compile and compares the message.
#   cmake -DCOMPILER=... -DFLAGS="a;b" -DSOURCE=... -P compile_fail.cmake
#
# The file says what is expected:
#   // expect: text        on the first error line, as a user reads it
#   // expect-also: text   somewhere in the output
#   // without: option     the file is compiled without this option
#   // pretend: nvcc 13.0  the file is read by the host compiler as that nvcc's host pass would read it
# Where the file tests SMALTI_REMEDY, it must compile once that is defined: the mistake is then the only thing wrong.
cmake_minimum_required(VERSION 3.25)
file(STRINGS ${SOURCE} firsts REGEX "^// expect: ")
file(STRINGS ${SOURCE} others REGEX "^// expect-also: ")
file(READ ${SOURCE} text)
if(NOT firsts)
  message(FATAL_ERROR "${SOURCE} has no line  // expect: ...")
endif()
file(STRINGS ${SOURCE} lines REGEX "^// without: ")
foreach(line IN LISTS lines)
  string(REPLACE "// without: " "" option "${line}")
  list(REMOVE_ITEM FLAGS "${option}")
endforeach()

execute_process(COMMAND ${COMPILER} ${FLAGS} ${SOURCE} OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE rc)
if(rc EQUAL 0)
  message(FATAL_ERROR "it compiles: ${SOURCE}")
endif()
string(REGEX MATCH "[^\n]*error[: #][^\n]*" first_error "${output}")
foreach(line IN LISTS firsts)
  string(REPLACE "// expect: " "" expected "${line}")
  string(FIND "${first_error}" "${expected}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "expected on the first error line: ${expected}\nthe line: ${first_error}\nall of it:\n${output}")
  endif()
endforeach()
foreach(line IN LISTS others)
  string(REPLACE "// expect-also: " "" expected "${line}")
  string(FIND "${output}" "${expected}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "expected: ${expected}\ngot:\n${output}")
  endif()
endforeach()
message("${first_error}")

if(text MATCHES "SMALTI_REMEDY")
  execute_process(COMMAND ${COMPILER} ${FLAGS} -DSMALTI_REMEDY ${SOURCE} OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE rc)
  if(NOT rc EQUAL 0)
    message(FATAL_ERROR "it does not compile with its remedy:\n${output}")
  endif()
endif()
