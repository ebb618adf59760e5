# Language level, warnings, sanitizers and the helper that every module's CMakeLists uses.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
# Invariants stay checked in release builds; the hot loops have none.
string(REPLACE "-DNDEBUG" "" CMAKE_CXX_FLAGS_RELEASE "${CMAKE_CXX_FLAGS_RELEASE}")
string(REPLACE "-DNDEBUG" "" CMAKE_CXX_FLAGS_RELWITHDEBINFO "${CMAKE_CXX_FLAGS_RELWITHDEBINFO}")

find_program(KVCRUSH_CCACHE ccache)
if(KVCRUSH_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${KVCRUSH_CCACHE}")
endif()

add_library(kvcrush_options INTERFACE)
# -Wno-restrict: GCC 12 reports string concatenation falsely (GCC bug 105651). -Wno-dangling-reference: GCC 13 takes every
# reference that a function with a temporary argument returns for one to it; older ones ignore the option.
target_compile_options(kvcrush_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror -Wpedantic -Wshadow -Wnon-virtual-dtor -Wold-style-cast
    -Woverloaded-virtual $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict;-Wno-dangling-reference>>)
target_include_directories(kvcrush_options INTERFACE "${CMAKE_SOURCE_DIR}")
if(KVCRUSH_SANITIZE)
  add_compile_options(-fsanitize=${KVCRUSH_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${KVCRUSH_SANITIZE})
endif()
if(KVCRUSH_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
  add_compile_definitions(_GLIBCXX_ASSERTIONS)  # an index past a container's end is a finding, in its slack too
endif()
find_package(Threads REQUIRED)

# kvcrush_library(NAME sources... [DEPS public targets...] [PRIVATE_DEPS targets...])
function(kvcrush_library name)
  cmake_parse_arguments(ARG "" "" "DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE kvcrush_options ${ARG_PRIVATE_DEPS})
  target_include_directories(${name} PUBLIC "${CMAKE_SOURCE_DIR}")
endfunction()

# kvcrush_test(NAME sources... DEPS targets... [LABELS ...]): a GoogleTest program, one CTest entry.
function(kvcrush_test name)
  cmake_parse_arguments(ARG "" "" "DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE kvcrush_options ${ARG_DEPS} GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}")
  # Tests use all cores or watch the clock; what may run beside others says so.
  set_tests_properties(${name} PROPERTIES TIMEOUT 1200 LABELS "${ARG_LABELS}" RUN_SERIAL TRUE)
endfunction()
