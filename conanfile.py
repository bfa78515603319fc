# `conan create .`: smalti as a Conan 2 package. Header-only: one package for all compilers and settings.
#
#   -o "smalti/*:io=True"     the readers of model files: brings nlohmann_json
#   -o "smalti/*:mpi=True"    the transport over MPI; MPI itself is the system's
#   -o "smalti/*:nccl=True"   the transport over NCCL; NCCL itself is the system's (NCCL_ROOT)
#
# With CMake the consumer gets the same smalti-config.cmake as from `cmake --install`: find_package(smalti COMPONENTS io) and the
# targets smalti::smalti, smalti::io, ... Other generators see the components below.
import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.cmake import CMake, CMakeToolchain
from conan.tools.files import copy, load
from conan.tools.layout import basic_layout
from conan.tools.scm import Version

required_conan_version = ">=2.0"
HEADERS = {"io": "smalti/io/import.hpp", "mpi": "smalti/comm/mpi.hpp", "nccl": "smalti/comm/nccl.hpp"}


class Smalti(ConanFile):
    name = "smalti"
    description = "Header-only C++20/CUDA kernels and parallel primitives for language models"
    license = "Apache-2.0"
    url = homepage = "https://github.com/smalti/smalti"
    topics = ("header-only", "cuda", "gemm", "attention", "quantization", "llm")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {component: [True, False] for component in HEADERS}
    default_options = {component: False for component in HEADERS}
    exports_sources = "CMakeLists.txt", "LICENSE", "cmake/*", "include/*", "packaging/pkgconfig/*"
    no_copy_source = True
    test_package_folder = "packaging/conan/test_package"

    def set_version(self):
        text = load(self, os.path.join(self.recipe_folder, "include", "smalti", "core", "version.hpp"))
        self.version = ".".join(re.search(rf"SMALTI_VERSION_{part} (\d+)", text)[1] for part in ("MAJOR", "MINOR", "PATCH"))

    def layout(self):
        basic_layout(self, src_folder=".")

    def requirements(self):
        if self.options.io:
            self.requires("nlohmann_json/[>=3.9 <4]")

    def package_id(self):
        self.info.clear()

    # The standard is not checked: the target asks for C++20 itself, whatever the profile's default is.
    def validate(self):
        if self.settings.os != "Linux":
            raise ConanInvalidConfiguration("smalti supports Linux only")
        oldest = {"gcc": "12", "clang": "14"}.get(str(self.settings.compiler))
        if oldest is None or Version(self.settings.compiler.version) < oldest:
            raise ConanInvalidConfiguration("smalti needs g++ 12 or newer, or clang 14 or newer")

    def generate(self):
        toolchain = CMakeToolchain(self)
        toolchain.user_presets_path = False
        for part in ("TESTS", "BENCH", "EXAMPLES", "CUDA"):
            toolchain.cache_variables[f"SMALTI_{part}"] = False
        toolchain.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        for component, header in HEADERS.items():
            if self.options.get_safe(component) and not os.path.exists(os.path.join(self.source_folder, "include", header)):
                raise ConanInvalidConfiguration(f"this version of smalti has no component {component}: there is no <{header}>")
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        self.cpp_info.set_property("cmake_find_mode", "none")          # our own config file, which knows components
        core = self.cpp_info.components["smalti"]
        core.set_property("pkg_config_name", "smalti")
        core.includedirs, core.bindirs, core.libdirs = ["include"], [], []
        core.builddirs = [os.path.join("share", "smalti", "cmake")]
        for component, system, requires in (("io", [], ["nlohmann_json::nlohmann_json"]), ("mpi", ["mpi"], []), ("nccl", ["nccl"], [])):
            if self.options.get_safe(component):
                part = self.cpp_info.components[component]
                part.set_property("pkg_config_name", f"smalti-{component}")
                part.includedirs, part.bindirs, part.libdirs = [], [], []
                part.system_libs = system
                part.requires = ["smalti"] + requires
