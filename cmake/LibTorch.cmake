# Finds LibTorch and defines LibTorch::torch, and LibTorch::gloo when Gloo's headers are installed.
#
#   Torch_DIR          <LibTorch>/share/cmake/Torch; nothing else is looked at when given
#   CMAKE_PREFIX_PATH  an unpacked LibTorch archive, or a wheel's torch/share/cmake
#   .venv              the PyPI wheel installed by ./run
#   KVSMITH_CUDA       AUTO: with nvcc and a CUDA LibTorch; ON: or fail; OFF: never
#
# LibTorch's own find_package(Torch) is not used: a CUDA flavour insists on a CUDA Toolkit even to
# build code without a kernel, and CMake 3.25 with nvcc 13 fails while it looks for GPUs.
include_guard()
set(kvsmith_oldest_torch 2.6)

set(KVSMITH_CUDA AUTO CACHE STRING "Build CUDA kernels: AUTO, ON or OFF")
set_property(CACHE KVSMITH_CUDA PROPERTY STRINGS AUTO ON OFF)

if(Torch_DIR)
  set(candidates ${Torch_DIR}/../../..)
else()
  file(GLOB wheel ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
  cmake_path(CONVERT "$ENV{CMAKE_PREFIX_PATH}" TO_CMAKE_PATH_LIST candidates)
  list(PREPEND candidates ${CMAKE_PREFIX_PATH})
  list(TRANSFORM candidates APPEND /../.. OUTPUT_VARIABLE of_wheel_cmake)
  list(APPEND candidates ${of_wheel_cmake} ${wheel})
endif()
set(version_file share/cmake/Torch/TorchConfigVersion.cmake)
unset(torch_root)
find_path(torch_root ${version_file} PATHS ${candidates} NO_CACHE NO_DEFAULT_PATH)
if(NOT torch_root)
  message(FATAL_ERROR "LibTorch is not in Torch_DIR, CMAKE_PREFIX_PATH or .venv (looked at: "
    "${candidates}). Install it with `./run setup`, or give "
    "-DTorch_DIR=<LibTorch>/share/cmake/Torch.")
endif()
cmake_path(NORMAL_PATH torch_root)
string(REGEX REPLACE "/$" "" torch_root "${torch_root}")

file(READ ${torch_root}/${version_file} text)
string(REGEX MATCH "PACKAGE_VERSION \"([0-9.]+)" _ "${text}")
set(torch_version "${CMAKE_MATCH_1}")
if(torch_version VERSION_LESS kvsmith_oldest_torch)
  message(FATAL_ERROR "LibTorch ${torch_version} in ${torch_root} is too old; "
    "kvsmith needs ${kvsmith_oldest_torch} or newer.")
endif()
file(READ ${torch_root}/share/cmake/Torch/TorchConfig.cmake text)
if(text MATCHES "_GLIBCXX_USE_CXX11_ABI=0")
  message(FATAL_ERROR "LibTorch in ${torch_root} was built with the C++ ABI from before GCC 5, in "
    "which it cannot be linked with the system's libraries; take the cxx11-abi archive.")
endif()

set(torch_libraries torch torch_cpu c10)
set(torch_flavour CPU)
if(EXISTS ${torch_root}/lib/libtorch_cuda.so)
  list(APPEND torch_libraries torch_cuda c10_cuda)
  set(torch_flavour CUDA)
endif()
list(TRANSFORM torch_libraries REPLACE "(.+)" "${torch_root}/lib/lib\\1.so")

# Nothing refers to a symbol of libtorch_cuda: it must stay in the list of needed libraries to
# register its kernels at start-up.
set(CMAKE_LINK_LIBRARY_USING_kept_SUPPORTED TRUE)
set(CMAKE_LINK_LIBRARY_USING_kept "LINKER:--push-state,--no-as-needed" "<LINK_ITEM>"
  "LINKER:--pop-state")
list(JOIN torch_libraries "," libraries)
add_library(LibTorch::torch INTERFACE IMPORTED)
target_include_directories(LibTorch::torch SYSTEM INTERFACE
  ${torch_root}/include ${torch_root}/include/torch/csrc/api/include)
# stdc++ first: LibTorch exports some of std::filesystem from an older, static libstdc++, and a
# program that took remove_all from there would call a null pointer.
target_link_libraries(LibTorch::torch INTERFACE "$<LINK_LIBRARY:kept,stdc++,${libraries}>")

if(KVSMITH_CUDA STREQUAL AUTO OR KVSMITH_CUDA)
  find_program(nvcc nvcc NO_CACHE PATHS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
endif()
set(KVSMITH_CUDA_ENABLED OFF)
if(nvcc AND torch_flavour STREQUAL CUDA)
  set(KVSMITH_CUDA_ENABLED ON)
  set(CMAKE_CUDA_COMPILER ${nvcc} CACHE FILEPATH "CUDA compiler")
  set(CMAKE_CUDA_ARCHITECTURES 90 CACHE STRING "GPU architectures to build kernels for")
  enable_language(CUDA)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)  # CMake 3.25 does not know it of nvcc
  find_package(CUDAToolkit REQUIRED)
elseif(KVSMITH_CUDA AND NOT KVSMITH_CUDA STREQUAL AUTO)
  message(FATAL_ERROR "KVSMITH_CUDA=ON needs nvcc (found: ${nvcc}) and a CUDA LibTorch (found: "
    "${torch_flavour} flavour in ${torch_root}). Install the missing one or use KVSMITH_CUDA=OFF.")
endif()
message(NOTICE "LibTorch ${torch_version} (${torch_flavour}) in ${torch_root}; "
  "CUDA kernels: ${KVSMITH_CUDA_ENABLED}")

find_path(gloo_include gloo/rendezvous/store.h NO_CACHE)
if(gloo_include)
  add_library(LibTorch::gloo INTERFACE IMPORTED)
  target_include_directories(LibTorch::gloo SYSTEM INTERFACE ${gloo_include})
  target_compile_definitions(LibTorch::gloo INTERFACE USE_C10D_GLOO)
endif()
