# The components beside smalti::smalti. Included by our own build and, installed, by smalti-config.cmake, so that a component
# needs and gives the same however the library came into a project.
#
#   io      readers of model files      needs nlohmann_json 3.9
#   mpi     transport over MPI          needs MPI (CMake's FindMPI)
#   nccl    transport over NCCL         needs nccl.h and libnccl; looks in NCCL_ROOT (a variable or of the environment) first
#
# The headers of every component are part of the installed headers; a component adds what they include and link.
set(smalti_all_components io mpi nccl)
set(smalti_header_of_io smalti/io/import.hpp)
set(smalti_header_of_mpi smalti/comm/mpi.hpp)
set(smalti_header_of_nccl smalti/comm/nccl.hpp)

# smalti_find_component(COMPONENT INCLUDE_DIR NEEDS WHY): NEEDS is the target that the component links beside
# smalti::smalti; empty if it cannot be had, and then WHY says why.
function(smalti_find_component component include_dir needs why)
  set(target "")
  if(NOT component IN_LIST smalti_all_components)
    list(JOIN smalti_all_components ", " all)
    set(reason "smalti has no component '${component}': there are ${all}")
  elseif(NOT EXISTS ${include_dir}/${smalti_header_of_${component}})
    set(reason "this version of smalti has no ${component}: there is no <${smalti_header_of_${component}}>")
  elseif(component STREQUAL "io")
    set(reason "smalti's component io needs nlohmann_json 3.9 or newer (Debian: nlohmann-json3-dev)")
    if(NOT TARGET nlohmann_json::nlohmann_json)
      find_package(nlohmann_json 3.9 QUIET)
    endif()
    set(target nlohmann_json::nlohmann_json)
  elseif(component STREQUAL "mpi")
    set(reason "smalti's component mpi needs MPI for C++ programs (Debian: libopenmpi-dev)")
    if(NOT TARGET MPI::MPI_CXX)
      set(MPI_CXX_SKIP_MPICXX ON)          # the C interface; the C++ one left MPI with version 3
      find_package(MPI QUIET COMPONENTS CXX)
    endif()
    set(target MPI::MPI_CXX)
  else()
    set(reason "smalti's component nccl needs nccl.h and libnccl: set NCCL_ROOT to the folder that holds include/ and lib/")
    find_path(SMALTI_NCCL_INCLUDE nccl.h HINTS ${NCCL_ROOT} $ENV{NCCL_ROOT} $ENV{NCCL_HOME} PATH_SUFFIXES include)
    find_library(SMALTI_NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${NCCL_ROOT} $ENV{NCCL_ROOT} $ENV{NCCL_HOME} PATH_SUFFIXES lib lib64)
    mark_as_advanced(SMALTI_NCCL_INCLUDE SMALTI_NCCL_LIBRARY)
    set(target smalti::nccl_library)
    if(SMALTI_NCCL_INCLUDE AND SMALTI_NCCL_LIBRARY AND NOT TARGET ${target})
      add_library(${target} INTERFACE IMPORTED)
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${SMALTI_NCCL_INCLUDE}"
        INTERFACE_LINK_LIBRARIES "${SMALTI_NCCL_LIBRARY}")
    endif()
  endif()
  if(target AND TARGET ${target})
    set(${needs} ${target} PARENT_SCOPE)
    set(${why} "" PARENT_SCOPE)
  else()
    set(${needs} "" PARENT_SCOPE)
    set(${why} "${reason}" PARENT_SCOPE)
  endif()
endfunction()
