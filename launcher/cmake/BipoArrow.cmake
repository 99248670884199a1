# Defines bipo::arrow and BIPO_HAVE_ARROW.
#
# Arrow's C++ library is taken from an installed pyarrow package, whose wheel holds headers and libraries, for
# reading Parquet files and the directories of datasets.
#
#   ARROW_DIR   where the package is; beside torch when not given.
#   BIPO_ARROW  ON, OFF or AUTO (the default: on when it is there).
set(BIPO_ARROW "AUTO" CACHE STRING "Read Parquet and Arrow files through pyarrow's library: ON, OFF or AUTO")
set_property(CACHE BIPO_ARROW PROPERTY STRINGS AUTO ON OFF)
set(ARROW_DIR "" CACHE PATH "Directory of the pyarrow package (holds libarrow.so.* and include/)")

set(BIPO_HAVE_ARROW OFF)
if(NOT BIPO_ARROW STREQUAL "OFF")
  set(_arrow "${ARROW_DIR}")
  if(NOT _arrow)
    get_filename_component(_arrow "${TORCH_DIR}/../pyarrow" ABSOLUTE)
  endif()
  file(GLOB _libarrow "${_arrow}/libarrow.so.*")
  file(GLOB _libparquet "${_arrow}/libparquet.so.*")
  if(_libarrow AND _libparquet AND EXISTS "${_arrow}/include/parquet/arrow/reader.h")
    set(BIPO_HAVE_ARROW ON)
    # A package has one version; further names of the same file, where there are any, are links to it.
    list(GET _libarrow 0 _libarrow)
    list(GET _libparquet 0 _libparquet)
    # As for the headers of torch.
    file(CREATE_LINK "${_arrow}" "${PROJECT_BINARY_DIR}/arrow_package" SYMBOLIC)
    add_library(bipo_arrow_core SHARED IMPORTED)
    set_target_properties(bipo_arrow_core PROPERTIES IMPORTED_LOCATION "${_libarrow}"
      INTERFACE_INCLUDE_DIRECTORIES "${PROJECT_BINARY_DIR}/arrow_package/include")
    add_library(bipo_arrow_parquet SHARED IMPORTED)
    set_target_properties(bipo_arrow_parquet PROPERTIES IMPORTED_LOCATION "${_libparquet}"
      INTERFACE_LINK_LIBRARIES bipo_arrow_core)
    add_library(bipo_arrow INTERFACE)
    add_library(bipo::arrow ALIAS bipo_arrow)
    target_link_libraries(bipo_arrow INTERFACE bipo_arrow_parquet bipo_arrow_core)
  elseif(BIPO_ARROW STREQUAL "ON")
    message(FATAL_ERROR "BIPO_ARROW=ON, but ${_arrow} holds no libarrow.so.*, libparquet.so.* and include/")
  endif()
endif()
message(STATUS "Parquet and Arrow files: ${BIPO_HAVE_ARROW} ${_libarrow}")
