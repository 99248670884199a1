#include "collectives/device.hpp"

namespace bipo {

std::string accelerator_fault() {
  return "";
}

}  // namespace bipo
