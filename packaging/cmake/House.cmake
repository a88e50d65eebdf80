# The house: how a part of Pintle is declared, and which part may use which (the table in README.md, "Map of the code").
#
#   pintle_library(NAME AREA area SOURCES ... [LINK ...])   a static library; its folder is on the include path as the tree's root
#   pintle_program(NAME AREA area SOURCES ... [LINK ...])   an executable
#   pintle_test(NAME AREA area SOURCES ... [LINK ...] [LABELS ...] [ROOT])   a GoogleTest program, one ctest entry a program
#   pintle_benchmark(NAME SOURCES ... [LINK ...])           a Google Benchmark program under tests/bench
#   pintle_fuzz(NAME AREA area SOURCES ... [LINK ...])      a libFuzzer target (only with PINTLE_FUZZ)
#   house_check()                                           refuses a link that the table does not allow
#
# AREA is a folder of the top level, or plugins/NAME. Includes are written from the top of the tree ("cri/images/store.hpp");
# the SDK's public headers as <pintle/...>.

set(PINTLE_WITHOUT "" CACHE STRING "Folders to leave out of this build tree, as sdk/api;plugins/node-agent")

macro(add_subdirectory folder)
  file(RELATIVE_PATH _folder ${PROJECT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/${folder})
  if(NOT _folder IN_LIST PINTLE_WITHOUT)
    _add_subdirectory(${folder})
  endif()
endmacro()

function(_house_declare target area)
  set_property(TARGET ${target} PROPERTY PINTLE_AREA ${area})
  set_property(GLOBAL APPEND PROPERTY PINTLE_TARGETS ${target})
endfunction()

function(pintle_library name)
  cmake_parse_arguments(A "" "AREA" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  target_link_libraries(${name} PUBLIC ${A_LINK} PRIVATE $<BUILD_INTERFACE:pintle_warnings>)
  _house_declare(${name} ${A_AREA})
endfunction()

function(pintle_program name)
  cmake_parse_arguments(A "" "AREA" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${A_LINK} pintle_warnings)
  set_target_properties(${name} PROPERTIES INSTALL_RPATH $ORIGIN/../lib/pintle)
  _house_declare(${name} ${A_AREA})
endfunction()

function(pintle_test name)
  cmake_parse_arguments(A "ROOT" "AREA;TIMEOUT" "SOURCES;LINK;LABELS" ${ARGN})
  pintle_program(${name} AREA ${A_AREA} SOURCES ${A_SOURCES} LINK ${A_LINK} GTest::gmock GTest::gtest_main)
  set_property(TARGET ${name} PROPERTY PINTLE_IS_TEST ON)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "gate;${A_LABELS}" SKIP_REGULAR_EXPRESSION "SKIPPED-ALL")
endfunction()

function(pintle_benchmark name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK" ${ARGN})
  pintle_program(${name} AREA tests SOURCES ${A_SOURCES} LINK ${A_LINK} benchmark::benchmark)
endfunction()

function(pintle_fuzz name)
  if(NOT PINTLE_FUZZ)
    return()
  endif()
  cmake_parse_arguments(A "" "AREA" "SOURCES;LINK" ${ARGN})
  pintle_program(${name} AREA ${A_AREA} SOURCES ${A_SOURCES} LINK ${A_LINK})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
endfunction()

# What each area may link besides itself. `tests` may link all.
set(HOUSE_sdk "")
set(HOUSE_kernel "sdk")
set(HOUSE_cri "sdk")
set(HOUSE_cni "sdk")
set(HOUSE_proxy "sdk")
set(HOUSE_controlplane "sdk")
set(HOUSE_plugins "sdk;cri;cni;proxy")

function(house_check)
  get_property(targets GLOBAL PROPERTY PINTLE_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(area ${target} PINTLE_AREA)
    string(REGEX REPLACE "/.*" "" top ${area})
    if(top STREQUAL "tests")
      continue()
    endif()
    get_target_property(links ${target} LINK_LIBRARIES)
    foreach(link IN LISTS links)
      if(NOT TARGET ${link})
        continue()
      endif()
      get_target_property(other ${link} PINTLE_AREA)
      if(NOT other OR other STREQUAL area)
        continue()
      endif()
      string(REGEX REPLACE "/.*" "" other_top ${other})
      if(other_top STREQUAL "plugins" OR (NOT other_top STREQUAL top AND NOT other_top IN_LIST HOUSE_${top}))
        message(FATAL_ERROR "${target} (${area}) links ${link} (${other}): the house does not allow ${top} to use ${other_top}. "
                            "See 'Map of the code' in README.md.")
      endif()
    endforeach()
  endforeach()
endfunction()
