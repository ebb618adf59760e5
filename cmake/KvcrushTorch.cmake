# libtorch from the PyPI wheel as imported targets. The wheel's own TorchConfig.cmake insists on a CUDA toolkit even for a
# CPU build, so it is not used. `kvcrush_torch` carries the headers and must stay PRIVATE to targets that see no protobuf:
# the wheel's include folder has protobuf 3.13 headers that clash with the system's.
if(NOT EXISTS "${KVCRUSH_TORCH_DIR}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "libtorch not found in ${KVCRUSH_TORCH_DIR}; run tools/setup.sh or set KVCRUSH_TORCH_DIR")
endif()

function(kvcrush_import_torch_library name)
  add_library(${name} SHARED IMPORTED GLOBAL)
  set_target_properties(${name} PROPERTIES IMPORTED_LOCATION "${KVCRUSH_TORCH_DIR}/lib/lib${name}.so"
                                           IMPORTED_NO_SONAME FALSE)
endfunction()

kvcrush_import_torch_library(c10)
kvcrush_import_torch_library(torch_cpu)

add_library(kvcrush_torch INTERFACE)
target_include_directories(kvcrush_torch SYSTEM INTERFACE "${KVCRUSH_TORCH_DIR}/include")
target_link_libraries(kvcrush_torch INTERFACE torch_cpu c10)
target_link_options(kvcrush_torch INTERFACE -Wl,-rpath-link,${KVCRUSH_TORCH_DIR}/lib)

if(KVCRUSH_CUDA)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES OR CMAKE_CUDA_ARCHITECTURES STREQUAL "")
    set(CMAKE_CUDA_ARCHITECTURES 80 90a)  # before the language is enabled, which would choose its own
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # a CMake older than the toolkit
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  find_package(CUDAToolkit REQUIRED)
  kvcrush_import_torch_library(c10_cuda)
  kvcrush_import_torch_library(torch_cuda)
  target_link_libraries(kvcrush_torch INTERFACE -Wl,--no-as-needed torch_cuda c10_cuda -Wl,--as-needed CUDA::cudart)
  # The other CUDA libraries of the wheel are found at run time, beside Python's torch or in the toolkit.
  target_link_options(kvcrush_torch INTERFACE -Wl,--allow-shlib-undefined -Wl,--unresolved-symbols=ignore-in-shared-libs)
endif()
