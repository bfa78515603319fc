# `cmake --build BUILD --target package_source`, or `cpack --config BUILD/CPackSourceConfig.cmake`: the sources of a release as
# smalti-<version>.tar.gz: this folder, without what a build or git leaves in it.
set(CPACK_SOURCE_GENERATOR TGZ)
set(CPACK_SOURCE_PACKAGE_FILE_NAME smalti-${PROJECT_VERSION})
set(CPACK_PACKAGE_VENDOR smalti)
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_VERBATIM_VARIABLES ON)
string(REGEX REPLACE "([][+.*()^$?|\\\\])" "\\\\\\1" here "${PROJECT_SOURCE_DIR}")
string(REGEX REPLACE "([][+.*()^$?|\\\\])" "\\\\\\1" build "${PROJECT_BINARY_DIR}")
set(CPACK_SOURCE_IGNORE_FILES "^${here}/[.]git$" "^${here}/[.]git/" "^${here}/build/" "^${here}/build-[^/]*/" "^${here}/[.]cache/" "^${build}/"
  "^${here}/packaging/conan/test_package/build/"
  "^${here}/compile_commands[.]json$" "^${here}/CMakeUserPresets[.]json$" "/__pycache__/" "[.]pyc$")
include(CPack)
