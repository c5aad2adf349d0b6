# One top-level folder = one static library = one layer.
include_guard()

add_library(kvsmith_flags INTERFACE)
target_compile_options(kvsmith_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
    -Wnon-virtual-dtor -Woverloaded-virtual -Werror>
  # Saves a sixth of the compile time of a file that sees LibTorch; must be the same in the
  # precompiled header.
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fno-devirtualize>
  # g++ 12 sees overflows in its own std::string and std::regex (GCC bugs 105329, 105562).
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict -Wno-stringop-overflow -Wno-maybe-uninitialized>)
target_include_directories(kvsmith_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_definitions(kvsmith_flags INTERFACE KVSMITH_VERSION="${PROJECT_VERSION}")

# Parsing LibTorch's headers costs seconds per file; every target that sees tensors shares this one
# precompiled header. ccache needs the two settings to look past it.
find_program(KVSMITH_CCACHE ccache)
if(KVSMITH_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
    CCACHE_SLOPPINESS=pch_defines,time_macros ${KVSMITH_CCACHE})
  target_compile_options(kvsmith_flags INTERFACE
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>)
endif()
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/torch_pch.cpp CONTENT "")
add_library(torch_pch OBJECT ${PROJECT_BINARY_DIR}/torch_pch.cpp)
target_link_libraries(torch_pch PRIVATE LibTorch::torch kvsmith_flags)
target_precompile_headers(torch_pch PRIVATE <torch/types.h> <torch/nn/module.h>
  <torch/csrc/autograd/custom_function.h> <nlohmann/json.hpp>)

# kvsmith_layer(<folder> USES <folders it may include> [LINKS <libraries>] [TORCH])
function(kvsmith_layer name)
  cmake_parse_arguments(ARG "TORCH" "" "USES;LINKS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/main\\.cpp$")
  if(KVSMITH_CUDA_ENABLED)
    file(GLOB_RECURSE kernels CONFIGURE_DEPENDS ${name}/*.cu)
    list(FILTER sources EXCLUDE REGEX "/no_cuda\\.cpp$")
    list(APPEND sources ${kernels})
  endif()
  if(sources)
    add_library(${name} STATIC ${sources})
    target_link_libraries(${name} PUBLIC ${ARG_USES} ${ARG_LINKS} PRIVATE kvsmith_flags)
    if(kernels)
      target_link_libraries(${name} PUBLIC CUDA::cudart_static)
    endif()
    if(ARG_TORCH)
      target_link_libraries(${name} PUBLIC LibTorch::torch)
      target_precompile_headers(${name} REUSE_FROM torch_pch)
    endif()
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE ${ARG_USES} ${ARG_LINKS})
  endif()
  set_property(GLOBAL APPEND PROPERTY KVSMITH_LAYERS ${name})
  set_property(GLOBAL PROPERTY KVSMITH_USES_${name} "${ARG_USES}")
  set_property(GLOBAL PROPERTY KVSMITH_TORCH_${name} ${ARG_TORCH})
endfunction()

# One test binary, and one ctest entry, per folder: a process that loads LibTorch costs a second.
function(kvsmith_tests)
  foreach(name IN LISTS ARGN)
    file(GLOB_RECURSE sources CONFIGURE_DEPENDS tests/${name}/*_test.cpp)
    if(NOT sources)
      continue()
    endif()
    add_executable(${name}_tests ${sources})
    target_link_libraries(${name}_tests PRIVATE ${name} kvsmith_flags GTest::gtest_main)
    target_compile_definitions(${name}_tests PRIVATE
      KVSMITH_SOURCE_DIR="${PROJECT_SOURCE_DIR}" KVSMITH_BINARY="${PROJECT_BINARY_DIR}/kvsmith")
    get_property(torch GLOBAL PROPERTY KVSMITH_TORCH_${name})
    if(torch)
      target_precompile_headers(${name}_tests REUSE_FROM torch_pch)
    endif()
    add_test(NAME ${name} COMMAND ${name}_tests)
    # Two threads: enough to run the parallel paths, few enough to run binaries side by side; a
    # thread that spins while it waits would slow down all others.
    set_tests_properties(${name} PROPERTIES LABELS unit TIMEOUT 600
      ENVIRONMENT "OMP_NUM_THREADS=2;OMP_WAIT_POLICY=PASSIVE")
  endforeach()
endfunction()

# A comparison with another program, in Python: kvsmith_python_test(<name> <script> <argument...>).
# Skipped until `./run test` has set up .venv-test.
function(kvsmith_python_test name script)
  set(python ${PROJECT_SOURCE_DIR}/.venv-test/bin/python)
  add_test(NAME ${name} COMMAND sh -c "test -x \"$1\" || exit 77; exec \"$@\"" sh
    ${python} ${PROJECT_SOURCE_DIR}/${script} ${ARGN})
  set_tests_properties(${name} PROPERTIES LABELS python SKIP_RETURN_CODE 77 TIMEOUT 900)
endfunction()

function(kvsmith_check_layering)
  get_property(layers GLOBAL PROPERTY KVSMITH_LAYERS)
  set(rules "")
  foreach(layer IN LISTS layers)
    get_property(uses GLOBAL PROPERTY KVSMITH_USES_${layer})
    string(REPLACE ";" "," uses "${uses}")
    list(APPEND rules "${layer}=${uses}")
  endforeach()
  string(REPLACE ";" "|" rules "${rules}")
  add_test(NAME layering COMMAND ${CMAKE_COMMAND} "-DRULES=${rules}"
    -DROOT=${PROJECT_SOURCE_DIR} -P ${PROJECT_SOURCE_DIR}/cmake/check_layering.cmake)
  set_tests_properties(layering PROPERTIES LABELS unit)
endfunction()
