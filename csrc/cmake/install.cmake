# cmake --install: header, libraries, pkg-config, CMake package, Lua module and files, runner, documents.
install(FILES include/uffd.h include/uffd.hpp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS ${UFFD_LIBRARIES} EXPORT uffdTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT uffdTargets NAMESPACE uffd:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/uffd)
configure_package_config_file(csrc/cmake/uffdConfig.cmake.in uffdConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/uffd)
write_basic_package_version_file(uffdConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/uffdConfig.cmake" "${PROJECT_BINARY_DIR}/uffdConfigVersion.cmake"
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/uffd)

# Relative to the .pc file, so that a moved or repacked tree works; packagers may pass absolute directories.
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  set(UFFD_PC_PREFIX "${CMAKE_INSTALL_PREFIX}")
  set(UFFD_PC_LIBDIR "${CMAKE_INSTALL_LIBDIR}")
else()
  file(RELATIVE_PATH up "/p/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/p")
  set(UFFD_PC_PREFIX "\${pcfiledir}/${up}")
  set(UFFD_PC_LIBDIR "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
endif()
if(IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(UFFD_PC_INCLUDEDIR "${CMAKE_INSTALL_INCLUDEDIR}")
else()
  set(UFFD_PC_INCLUDEDIR "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
# What a static library needs is for --static alone where there is a shared one, and for everybody where there is not.
set(UFFD_PC_LIBS "")
set(UFFD_PC_PAGER "")
set(UFFD_PC_IMAGE "")
if(NOT UFFD_BUILD_SHARED)
  set(UFFD_PC_LIBS " -pthread")
  set(UFFD_PC_PAGER ", jansson >= 2.12")
  set(UFFD_PC_IMAGE ", libzstd >= 1.4.0")
endif()
set(UFFD_PC_PAGER_IMAGE "")
if(UFFD_BUILD_IMAGE)
  set(UFFD_PC_PAGER_IMAGE ", uffd-image = ${PROJECT_VERSION}")
endif()
configure_file(csrc/cmake/uffd.pc.in uffd.pc @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/uffd.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# Exports of their own: the package looks whether they are there. The pager uses images.
if(UFFD_BUILD_IMAGE)
  install(FILES include/uffd_image.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(TARGETS ${UFFD_IMAGE_LIBRARIES} EXPORT uffdImageTargets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT uffdImageTargets NAMESPACE uffd:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/uffd)
  configure_file(csrc/cmake/uffd-image.pc.in uffd-image.pc @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/uffd-image.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()

if(UFFD_BUILD_PAGER)
  install(FILES include/uffd_pager.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(TARGETS ${UFFD_PAGER_LIBRARIES} EXPORT uffdPagerTargets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT uffdPagerTargets NAMESPACE uffd:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/uffd)
  configure_file(csrc/cmake/uffd-pager.pc.in uffd-pager.pc @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/uffd-pager.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()

if(UFFD_BUILD_PAGER AND TARGET uffd-lua)
  foreach(unit uffd-pager.service uffd-pager.socket)
    configure_file(csrc/runner/${unit}.in ${unit} @ONLY)
    install(FILES "${PROJECT_BINARY_DIR}/${unit}" DESTINATION ${UFFD_UNIT_DIR})
  endforeach()
endif()

install(TARGETS uffd_preload LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})

if(TARGET uffd_core)
  install(TARGETS uffd_core LIBRARY DESTINATION ${UFFD_LUA_CDIR}/uffd)
  install(DIRECTORY lua/uffd DESTINATION ${UFFD_LUA_DIR} FILES_MATCHING PATTERN "*.lua")
endif()
if(TARGET uffd-lua)
  install(TARGETS uffd-lua RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
foreach(document README.md CHANGELOG.md LICENSE)
  if(EXISTS "${PROJECT_SOURCE_DIR}/${document}")
    install(FILES ${document} DESTINATION ${CMAKE_INSTALL_DOCDIR})
  endif()
endforeach()
install(DIRECTORY examples DESTINATION ${CMAKE_INSTALL_DOCDIR} PATTERN run EXCLUDE) # run builds a checkout first
foreach(folder csrc include lua tests tests/bench) # the pages keep their places: README.md points to them
  if(EXISTS "${PROJECT_SOURCE_DIR}/${folder}/README.md")
    install(FILES ${folder}/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR}/${folder})
  endif()
endforeach()

if(TARGET uffd_pages)
  install(DIRECTORY "${UFFD_PAGES}/man/" DESTINATION ${CMAKE_INSTALL_MANDIR})
  install(DIRECTORY "${UFFD_PAGES}/bash-completion" "${UFFD_PAGES}/zsh" DESTINATION ${CMAKE_INSTALL_DATADIR})
endif()

if(PROJECT_IS_TOP_LEVEL)
  add_custom_target(uninstall COMMENT "Removing what was installed last"
    COMMAND ${CMAKE_COMMAND} -D "MANIFEST=${PROJECT_BINARY_DIR}/install_manifest.txt"
            -P "${PROJECT_SOURCE_DIR}/csrc/cmake/uninstall.cmake")
endif()
