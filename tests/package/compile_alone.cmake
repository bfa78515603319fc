# Compiles each header alone and twice with a second compiler, without making code.
#   cmake -DCOMPILER=clang++ -DFLAGS="a;b" -DINCLUDE=<folder> -DHEADERS="smalti/core/view.hpp;..." -DWORK=<folder> -P compile_alone.cmake
cmake_minimum_required(VERSION 3.25)
file(MAKE_DIRECTORY ${WORK})
set(bad 0)
foreach(header IN LISTS HEADERS)
  string(MAKE_C_IDENTIFIER ${header} id)
  file(WRITE ${WORK}/${id}.cpp "#include <${header}>\n#include <${header}>\n")
  execute_process(COMMAND ${COMPILER} ${FLAGS} -I${INCLUDE} -fsyntax-only ${WORK}/${id}.cpp
    OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE rc)
  if(NOT rc EQUAL 0)
    message("${header}:\n${output}")
    math(EXPR bad "${bad} + 1")
  endif()
endforeach()
if(bad)
  message(FATAL_ERROR "${bad} header(s) do not compile alone")
endif()
