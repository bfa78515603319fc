# Whether the GPU half is built, with which nvcc, and what a .cu file needs.
#
# CUDA is never needed to configure. The GPU half is on by itself where an nvcc that knows tile code is given
# (CMAKE_CUDA_COMPILER, CUDACXX) or on the PATH; -DSMALTI_CUDA=ON in our own checkout lets scripts/cuda.sh find
# or install one.
#
# CMake's find_package(CUDAToolkit) is not used: it may choose the libcudart.so of a system toolkit that does not
# belong to this nvcc. The CUDA language links the static cudart that lies beside nvcc.
set(smalti_cuda_minimum 13.3)

function(smalti_nvcc_version nvcc out)
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE text ERROR_QUIET RESULT_VARIABLE rc)
  if(rc EQUAL 0 AND text MATCHES "release ([0-9]+\\.[0-9]+)")
    set(${out} ${CMAKE_MATCH_1} PARENT_SCOPE)
  else()
    set(${out} 0 PARENT_SCOPE)
  endif()
endfunction()

set(smalti_given_nvcc "")
if(CMAKE_CUDA_COMPILER)
  set(smalti_given_nvcc ${CMAKE_CUDA_COMPILER})
elseif(DEFINED ENV{CUDACXX})
  set(smalti_given_nvcc $ENV{CUDACXX})
else()
  find_program(SMALTI_NVCC_ON_PATH nvcc NO_CMAKE_PATH NO_CMAKE_ENVIRONMENT_PATH NO_CMAKE_SYSTEM_PATH)
  mark_as_advanced(SMALTI_NVCC_ON_PATH)
  if(SMALTI_NVCC_ON_PATH)
    set(smalti_given_nvcc ${SMALTI_NVCC_ON_PATH})
  endif()
endif()
set(smalti_given_version 0)
if(smalti_given_nvcc)
  smalti_nvcc_version(${smalti_given_nvcc} smalti_given_version)
endif()
set(smalti_cuda_default OFF)
if(PROJECT_IS_TOP_LEVEL AND smalti_given_version VERSION_GREATER_EQUAL smalti_cuda_minimum)
  set(smalti_cuda_default ON)
endif()
option(SMALTI_CUDA "Build the GPU half of tests, benchmarks and examples (nvcc >= ${smalti_cuda_minimum})" ${smalti_cuda_default})

if(PROJECT_IS_TOP_LEVEL)
  set(SMALTI_CUDA_ARCHITECTURES 80 90 100 120 CACHE STRING "What our own .cu files are compiled for")
endif()

if(SMALTI_CUDA)
  if(NOT smalti_given_version VERSION_GREATER_EQUAL smalti_cuda_minimum)
    if(CMAKE_CUDA_COMPILER)
      message(FATAL_ERROR "smalti: ${smalti_given_nvcc} is CUDA ${smalti_given_version}; tile code needs ${smalti_cuda_minimum} or "
        "newer: configure with -DSMALTI_CUDA=OFF or give a newer CMAKE_CUDA_COMPILER (scripts/cuda.sh installs one)")
    endif()
    execute_process(COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/scripts/cuda.sh
      OUTPUT_VARIABLE smalti_cuda_root OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE rc)
    if(NOT rc EQUAL 0)
      message(FATAL_ERROR "smalti: no nvcc >= ${smalti_cuda_minimum} was found or installed: configure with -DSMALTI_CUDA=OFF for the "
        "host half, or give CMAKE_CUDA_COMPILER")
    endif()
    set(smalti_given_nvcc ${smalti_cuda_root}/bin/nvcc)
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${smalti_given_nvcc} CACHE FILEPATH "nvcc")
  endif()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES OFF)      # smalti_cuda_options lists them
  endif()
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)   # binaries run on a machine that has a driver and nothing else
  enable_language(CUDA)
endif()

# What .cu files get that link `target`: tile code, and C++20 unless the user's target asks for a standard itself. An
# option and not a feature, because CMake 3.25 does not know the C++20 flag of an nvcc newer than itself.
function(smalti_cuda_options target)
  set(nvcc $<COMPILE_LANG_AND_ID:CUDA,NVIDIA>)
  set(tiles $<VERSION_GREATER_EQUAL:$<CUDA_COMPILER_VERSION>,${smalti_cuda_minimum}>)
  set(standard $<BOOL:$<TARGET_PROPERTY:CUDA_STANDARD>>)
  target_compile_options(${target} INTERFACE
    $<$<AND:${nvcc},${tiles}>:--enable-tile>
    $<$<AND:${nvcc},$<NOT:${standard}>>:-std=c++20>)
endfunction()
include(${CMAKE_CURRENT_LIST_DIR}/architectures.cmake)
