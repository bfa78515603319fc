# Header-only. An overlay port: it installs the checkout that it lies in,
#     vcpkg install smalti --overlay-ports=<checkout>/packaging/vcpkg
# A copy of this folder elsewhere (a registry) needs vcpkg_from_github with the hash of a release in place of this line:
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT EXISTS "${SOURCE_PATH}/include/smalti/core/version.hpp")
  message(FATAL_ERROR "the port smalti installs the checkout it lies in, and ${SOURCE_PATH} is none: use it from there with --overlay-ports")
endif()

set(VCPKG_BUILD_TYPE release)
vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    -DSMALTI_TESTS=OFF
    -DSMALTI_BENCH=OFF
    -DSMALTI_EXAMPLES=OFF
    -DSMALTI_CUDA=OFF
    -DSMALTI_INSTALL_CMAKEDIR=share/smalti
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup()
if(NOT "io" IN_LIST FEATURES)
  file(REMOVE "${CURRENT_PACKAGES_DIR}/share/pkgconfig/smalti-io.pc")     # it requires nlohmann_json
endif()
vcpkg_fixup_pkgconfig(SKIP_CHECK)     # the check knows libraries, and smalti-openmp.pc links by -fopenmp

file(REMOVE "${CURRENT_PACKAGES_DIR}/share/smalti/LICENSE")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
