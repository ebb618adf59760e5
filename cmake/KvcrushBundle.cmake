# Libraries from a folder instead of Debian's packages: for machines that have only nvcc, CMake and PyTorch.
# tests/gpu/pack.sh fills such a folder: include/ (nlohmann, CLI, pcre2.h, utf8proc.h), lib/ (libpcre2-8.a, libutf8proc.a),
# googletest/.
add_library(kvcrush_bundled_pcre2 STATIC IMPORTED GLOBAL)
set_target_properties(kvcrush_bundled_pcre2 PROPERTIES IMPORTED_LOCATION "${KVCRUSH_DEPS_DIR}/lib/libpcre2-8.a"
                      INTERFACE_INCLUDE_DIRECTORIES "${KVCRUSH_DEPS_DIR}/include"
                      INTERFACE_COMPILE_DEFINITIONS PCRE2_STATIC)
add_library(PkgConfig::PCRE2 ALIAS kvcrush_bundled_pcre2)
add_library(kvcrush_bundled_utf8proc STATIC IMPORTED GLOBAL)
set_target_properties(kvcrush_bundled_utf8proc PROPERTIES IMPORTED_LOCATION "${KVCRUSH_DEPS_DIR}/lib/libutf8proc.a"
                      INTERFACE_INCLUDE_DIRECTORIES "${KVCRUSH_DEPS_DIR}/include"
                      INTERFACE_COMPILE_DEFINITIONS UTF8PROC_STATIC)
add_library(PkgConfig::UTF8PROC ALIAS kvcrush_bundled_utf8proc)
foreach(name nlohmann_json CLI11)
  add_library(kvcrush_bundled_${name} INTERFACE)
  target_include_directories(kvcrush_bundled_${name} SYSTEM INTERFACE "${KVCRUSH_DEPS_DIR}/include")
  add_library(${name}::${name} ALIAS kvcrush_bundled_${name})
endforeach()
set(INSTALL_GTEST OFF)
add_subdirectory("${KVCRUSH_DEPS_DIR}/googletest" "${CMAKE_BINARY_DIR}/googletest" EXCLUDE_FROM_ALL)
foreach(name gtest gtest_main)
  if(NOT TARGET GTest::${name})
    add_library(GTest::${name} ALIAS ${name})
  endif()
endforeach()
