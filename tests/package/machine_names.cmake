# The agents (block/) and the policies (policy/) are one text for every machine: none of them names a machine, a
# thread or an instruction, asks for a macro of a compiler or a processor, or lets a closure store an address.
#   cmake -DROOT=<folder with the rooms> -P machine_names.cmake
cmake_minimum_required(VERSION 3.25)
set(before "(^|[^A-Za-z0-9_])")
set(words
  "threadIdx" "blockIdx" "blockDim" "gridDim" "warpSize" "__[a-z]*sync[a-z]*" "__shared__" "__device__" "__global__" "__tile__"
  "__tile_global__" "__shfl[a-z_]*" "__CUDA[A-Z_]*" "_OPENMP" "__AVX[A-Z0-9_]*" "__AMX[A-Z0-9_]*" "__FMA__" "_mm[0-9]*_[a-z0-9_]*"
  "__builtin_ia32[a-z0-9_]*" "asm" "__asm__" "omp_[a-z_]*" "pragma" "ct::" "cuda::" "cuda_tile::" "host::" "cutile" "SMALTI_VERB"
  "SMALTI_DOT_LEVEL" "is_host")
set(files)
set(bad 0)
foreach(room block policy)
  file(GLOB_RECURSE found RELATIVE ${ROOT} ${ROOT}/${room}/*)
  list(APPEND files ${found})
endforeach()
if(NOT files)
  message(FATAL_ERROR "no agents and no policies under ${ROOT}")
endif()
foreach(file IN LISTS files)
  file(READ ${ROOT}/${file} text)
  string(REGEX REPLACE "#[ \t]*pragma once" "" text "${text}")
  string(REGEX REPLACE "//[^\n]*" "" text "${text}")       # a comment may say what a machine makes of a line
  foreach(word IN LISTS words)
    if(text MATCHES "${before}(${word})([^A-Za-z0-9_]|$)" OR (word MATCHES "::$" AND text MATCHES "${before}(${word})"))
      message("${file}: '${CMAKE_MATCH_2}' belongs to a machine")
      math(EXPR bad "${bad} + 1")
    endif()
  endforeach()
  if(text MATCHES "smalti/tile/[a-z_]+/")
    message("${file}: '${CMAKE_MATCH_0}' is a machine's header: include <smalti/tile/vocabulary.hpp>")
    math(EXPR bad "${bad} + 1")
  endif()
  if(text MATCHES "[^a-z]\\[(&[^]]*|this[^]]*|=, *\\*?this[^]]*|=, *&[^]]*)\\] *[({]")
    message("${file}: a closure captures values, not addresses: '[${CMAKE_MATCH_1}]' costs the GPU its registers")
    math(EXPR bad "${bad} + 1")
  endif()
endforeach()
if(bad)
  message(FATAL_ERROR "${bad} place(s) name a machine")
endif()
list(LENGTH files count)
message("${count} agents and policies name no machine")
