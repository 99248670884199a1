// The header of libtorch that most sources with tensors include; see BipoRooms.cmake.  Autograd's
// custom_function.h is left out: five sources need it, and it adds more than a second to every
// other one.
#pragma once

#include <ATen/ATen.h>
