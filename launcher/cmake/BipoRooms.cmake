# A room is a folder of sources with a library of its own; docs/architecture.md lists them all.
#
# Most of a compile step is reading the headers of libtorch, fmt, nlohmann-json and the standard library.  Two
# precompiled headers, with and without libtorch, are made once per build and used by every room and test.

add_library(bipo_headers OBJECT ${CMAKE_CURRENT_LIST_DIR}/precompiled.cpp)
target_link_libraries(bipo_headers PUBLIC bipo_options fmt::fmt nlohmann_json::nlohmann_json)
target_precompile_headers(bipo_headers PRIVATE ${CMAKE_CURRENT_LIST_DIR}/precompiled.hpp)

add_library(bipo_torch_headers OBJECT ${CMAKE_CURRENT_LIST_DIR}/precompiled.cpp)
target_link_libraries(bipo_torch_headers PUBLIC bipo_options bipo::torch fmt::fmt nlohmann_json::nlohmann_json)
target_precompile_headers(bipo_torch_headers PRIVATE ${CMAKE_CURRENT_LIST_DIR}/precompiled.hpp
                          ${CMAKE_CURRENT_LIST_DIR}/precompiled_torch.hpp)

# bipo_use_precompiled(TARGET TORCH|PLAIN)
function(bipo_use_precompiled target kind)
  if(kind STREQUAL "TORCH")
    target_precompile_headers(${target} REUSE_FROM bipo_torch_headers)
  else()
    target_precompile_headers(${target} REUSE_FROM bipo_headers)
  endif()
endfunction()

# bipo_room_target(VARIABLE PATH): trainer/model is built as bipo_trainer_model.
function(bipo_room_target variable path)
  string(REPLACE "/" "_" name ${path})
  set(${variable} bipo_${name} PARENT_SCOPE)
endfunction()

# bipo_room(PATH [TORCH] [SOURCES file...] [USES room...] [LIBRARIES target...])
#
# SOURCES lie in PATH.  USES names every room whose headers the room's files include, and no other; a test
# holds the list to the files.  TORCH: headers or sources of the room include libtorch.
function(bipo_room path)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;USES;LIBRARIES" ${ARGN})
  bipo_room_target(target ${path})
  set(uses "")
  foreach(room ${ARG_USES})
    bipo_room_target(used ${room})
    list(APPEND uses ${used})
  endforeach()
  if(NOT ARG_SOURCES)
    add_library(${target} INTERFACE)
    target_link_libraries(${target} INTERFACE bipo_options ${uses})
    return()
  endif()
  list(TRANSFORM ARG_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/${path}/)
  add_library(${target} STATIC ${ARG_SOURCES})
  target_link_libraries(${target} PUBLIC bipo_options ${uses} PRIVATE fmt::fmt ${ARG_LIBRARIES})
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${BIPO_UNITY} UNITY_BUILD_BATCH_SIZE 8)
  if(ARG_TORCH)
    target_link_libraries(${target} PUBLIC bipo::torch)
    bipo_use_precompiled(${target} TORCH)
  else()
    bipo_use_precompiled(${target} PLAIN)
  endif()
endfunction()
