# Which GPUs a .cu file that links smalti::smalti is compiled for. Included by our own build and, installed, by
# smalti-config.cmake.
#
# A target whose CUDA_ARCHITECTURES is a list keeps its list. A target where it is OFF gets ours, from
# SMALTI_CUDA_ARCHITECTURES: listed one by one, because an sm_121 device is reported not to load code for sm_120.
set(smalti_all_architectures 80 86 89 90 100 103 110 120 121)

function(smalti_list_architectures target)
  if(SMALTI_CUDA_ARCHITECTURES)
    set(architectures ${SMALTI_CUDA_ARCHITECTURES})
  else()
    set(architectures ${smalti_all_architectures})
  endif()
  set(ours $<AND:$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>,$<NOT:$<BOOL:$<TARGET_PROPERTY:CUDA_ARCHITECTURES>>>>)
  set(flags)
  foreach(arch IN LISTS architectures)
    list(APPEND flags "$<${ours}:--generate-code=arch=compute_${arch}$<COMMA>code=sm_${arch}>")
  endforeach()
  set_property(TARGET ${target} APPEND PROPERTY INTERFACE_COMPILE_OPTIONS ${flags})
endfunction()

# CMake fills CMAKE_CUDA_ARCHITECTURES with nvcc's own default where the user said nothing. That is sm_75, on which no
# tile kernel runs. OFF gives every other target the same code as before (nvcc's default) and ours the list above.
if(CMAKE_CUDA_ARCHITECTURES MATCHES "^[0-9]+$" AND CMAKE_CUDA_ARCHITECTURES LESS 80)
  message(STATUS "smalti: tile kernels need sm_80 or newer: CMAKE_CUDA_ARCHITECTURES changes from ${CMAKE_CUDA_ARCHITECTURES} "
    "to OFF, so that targets that link smalti::smalti get SMALTI_CUDA_ARCHITECTURES")
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  if(CMAKE_CURRENT_SOURCE_DIR STREQUAL smalti_SOURCE_DIR AND NOT PROJECT_IS_TOP_LEVEL)
    set(CMAKE_CUDA_ARCHITECTURES OFF PARENT_SCOPE)
  endif()
endif()
