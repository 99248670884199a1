// What other programs added to a file of this program: attributes, datasets, groups, links.
#pragma once

#include <cstddef>

#include "experiments/files/hdf5.hpp"

namespace bipo::hdf5 {

// Copies to `to` what `from` holds and `known` lacks, also in groups and on datasets that both
// have; `to` gets a group of the same name for each of those that it lacks.  `known` and `to` may
// be one. Returns the number of attributes and links copied.  Throws CannotKeep for what cannot be
// copied: references to objects, and objects with several names.
std::size_t copy_additions(const Handle& from, const Handle& known, const Handle& to);

}  // namespace bipo::hdf5
