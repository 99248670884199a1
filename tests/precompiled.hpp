// The header that every unit test includes, precompiled with those of launcher/cmake; see
// CMakeLists.txt.
#pragma once

#include <gtest/gtest.h>
