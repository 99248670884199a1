// Carries a precompiled header; see BipoRooms.cmake.
