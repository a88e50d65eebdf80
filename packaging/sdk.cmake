# What a vendor works with: the SDK and the command `pintle`, which writes and checks plugins.
include(CMakePackageConfigHelpers)

# Three sets of targets, so that a plugin in C needs no Protobuf, and one without tests no Boost.
install(TARGETS pintle_abi EXPORT PintleAbi)
install(TARGETS pintle_base pintle_sdk pintle_schema EXPORT PintleTargets
        ARCHIVE DESTINATION lib/pintle COMPONENT sdk
        LIBRARY DESTINATION lib/pintle COMPONENT node NAMELINK_COMPONENT sdk)
install(TARGETS pintle_testkit EXPORT PintleTestkit ARCHIVE DESTINATION lib/pintle COMPONENT sdk)
foreach(set IN ITEMS PintleAbi PintleTargets PintleTestkit)
  install(EXPORT ${set} NAMESPACE Pintle:: DESTINATION lib/cmake/Pintle COMPONENT sdk)
endforeach()
configure_package_config_file(${PROJECT_SOURCE_DIR}/sdk/cmake/PintleConfig.cmake.in PintleConfig.cmake
                              INSTALL_DESTINATION lib/cmake/Pintle)
write_basic_package_version_file(PintleConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/PintleConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/PintleConfigVersion.cmake
              ${PROJECT_SOURCE_DIR}/sdk/cmake/PintlePlugin.cmake ${PROJECT_SOURCE_DIR}/sdk/cmake/plugin_entry.c.in
              ${PROJECT_SOURCE_DIR}/sdk/cmake/plugin.map DESTINATION lib/cmake/Pintle COMPONENT sdk)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/sdk/include/pintle DESTINATION include COMPONENT sdk)
install(FILES ${PROJECT_SOURCE_DIR}/sdk/testkit/fake_node.hpp ${PROJECT_SOURCE_DIR}/sdk/testkit/contract.hpp
        DESTINATION include/pintle/testkit COMPONENT sdk)
install(DIRECTORY ${PROJECT_BINARY_DIR}/sdk/generated/ DESTINATION include/pintle/schema COMPONENT sdk
        FILES_MATCHING PATTERN "*.pb.h" PATTERN "*.pintle.hpp")
install(DIRECTORY ${PROJECT_SOURCE_DIR}/sdk/schema/ DESTINATION share/pintle/schema COMPONENT sdk
        FILES_MATCHING PATTERN "*.proto" PATTERN tools EXCLUDE)
install(FILES ${PROJECT_SOURCE_DIR}/sdk/schema/manifest.schema.json DESTINATION share/pintle/schema COMPONENT sdk)
if(TARGET pintle)
  install(TARGETS pintle RUNTIME DESTINATION bin COMPONENT node)
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/sdk/template DESTINATION share/pintle COMPONENT node)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/sdk/examples DESTINATION share/doc/pintle COMPONENT sdk)
