# The compiler's settings for every target of ours.
set(CMAKE_C_STANDARD 11)
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()

option(PINTLE_FUZZ "Build the libFuzzer targets (clang only)" OFF)
option(PINTLE_WERROR "Warnings are errors" ON)
set(PINTLE_SANITIZE "" CACHE STRING "Sanitizers: address,undefined or thread")

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

find_program(LLD NAMES ld.lld ld.lld-14)
if(LLD)
  add_link_options(-fuse-ld=lld)
endif()

# Debug information of a fixed, small kind: line tables keep stack traces readable at a third of the link time.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1 -DNDEBUG")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g1 -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1")
set(CMAKE_C_FLAGS_DEBUG "-O1 -g1")

add_library(pintle_warnings INTERFACE)
target_compile_options(pintle_warnings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers
  $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor -Woverloaded-virtual>
  $<$<BOOL:${PINTLE_WERROR}>:-Werror>)

add_compile_options(-fno-plt)
add_link_options(-Wl,--as-needed)
if(PINTLE_SANITIZE)
  add_compile_options(-fsanitize=${PINTLE_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${PINTLE_SANITIZE})
  # What protoc generates takes minutes to build with checks, and none of it is ours. Threads' checks need all code, though.
  if(NOT PINTLE_SANITIZE MATCHES thread)
    set(PINTLE_GENERATED_OPTIONS -fno-sanitize=all)
  endif()
else()
  add_compile_options(-fstack-protector-strong -fstack-clash-protection -fcf-protection
                      $<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=2>)
  add_link_options(-Wl,-z,relro,-z,now,-z,noexecstack)
endif()
if(PINTLE_FUZZ)
  # clang 14 cannot emit what -fsanitize=function puts before functions where a coroutine was split.
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize=function -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()
