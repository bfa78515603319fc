# For tests/package/conan_test.py only: the system's nlohmann_json (Debian: nlohmann-json3-dev) as a Conan package of the name that
# ConanCenter uses, so that the component io is tested without a network.
import os

from conan import ConanFile
from conan.tools.files import copy


class SystemNlohmannJson(ConanFile):
    name = "nlohmann_json"
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"

    def package(self):
        copy(self, "*.hpp", os.environ["SMALTI_TEST_JSON_INCLUDE"] + "/nlohmann", os.path.join(self.package_folder, "include", "nlohmann"))

    def package_id(self):
        self.info.clear()

    def package_info(self):
        self.cpp_info.bindirs = self.cpp_info.libdirs = []
        self.cpp_info.set_property("cmake_target_name", "nlohmann_json::nlohmann_json")
