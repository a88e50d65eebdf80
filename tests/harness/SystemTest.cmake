# pintle_system_test(NAME FILE file.py [LABEL gate|long] [TIMEOUT seconds] [ARGUMENTS ...] [ENVIRONMENT NAME=value ...])
#
# A test of a whole node, in Python (tests/harness/README.md): one ctest entry. It has the machine for itself, because it measures time
# and compares the machine before and after.
find_program(PINTLE_PYTHON NAMES python3 PATHS /usr/bin NO_DEFAULT_PATH REQUIRED)
set(PINTLE_HARNESS ${CMAKE_CURRENT_LIST_DIR})

function(pintle_system_test name)
  cmake_parse_arguments(A "" "FILE;LABEL;TIMEOUT" "ARGUMENTS;ENVIRONMENT" ${ARGN})
  if(NOT A_LABEL)
    set(A_LABEL gate)
  endif()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 180)
  endif()
  add_test(NAME ${name} COMMAND ${PINTLE_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/${A_FILE} ${A_ARGUMENTS})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS ${A_LABEL} RUN_SERIAL TRUE SKIP_RETURN_CODE 77
    ENVIRONMENT "PINTLE_BUILD=${CMAKE_BINARY_DIR};PYTHONPATH=${PINTLE_HARNESS};PYTHONDONTWRITEBYTECODE=1;${A_ENVIRONMENT}")
endfunction()
