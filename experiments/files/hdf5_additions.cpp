#include "experiments/files/hdf5_additions.hpp"

#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "experiments/files/hdf5_call.hpp"

namespace bipo::hdf5 {
namespace {

using Names = std::vector<std::string>;

Names link_names(const Handle& group) {
  Names names;
  const auto add = [](hid_t, const char* name, const H5L_info_t*, void* data) -> herr_t {
    static_cast<Names*>(data)->emplace_back(name);
    return 0;
  };
  hsize_t place = 0;
  check(H5Literate(group.id(), H5_INDEX_NAME, H5_ITER_INC, &place, add, &names), "H5Literate",
        "links");
  return names;
}

H5L_info_t link_info(const Handle& group, const std::string& name) {
  H5L_info_t info{};
  check(H5Lget_info(group.id(), name.c_str(), &info, H5P_DEFAULT), "H5Lget_info", name);
  return info;
}

Handle open_object(const Handle& parent, const std::string& name) {
  return {check(H5Oopen(parent.id(), name.c_str(), H5P_DEFAULT), "H5Oopen", name), H5Oclose};
}

bool is_group(const Handle& object) {
  const H5I_type_t type = H5Iget_type(object.id());
  return type == H5I_GROUP || type == H5I_FILE;
}

std::size_t number_of_names(const Handle& object, const std::string& name) {
#if H5_VERSION_GE(1, 12, 0)
  H5O_info2_t info{};
  check(H5Oget_info3(object.id(), &info, H5O_INFO_BASIC), "H5Oget_info3", name);
#else
  H5O_info_t info{};
  check(H5Oget_info(object.id(), &info), "H5Oget_info", name);
#endif
  return info.rc;
}

[[noreturn]] void refuse(const std::string& what, const char* why) {
  throw CannotKeep(
      fmt::format("another program added {}, which {}, so that the next save would lose it; remove "
                  "it, or go on with an intact copy of the file",
                  what, why));
}

void require_no_references(const Handle& type, const std::string& what) {
  if (check(H5Tdetect_class(type.id(), H5T_REFERENCE), "H5Tdetect_class", what) > 0) {
    refuse(what, "refers to other objects of the file");
  }
}

std::string called(const std::string& attribute) {
  return fmt::format("the attribute '{}'", attribute);
}

// Copies the memory of texts and lists of variable length back to HDF5.
class AttributeMemory {
 public:
  AttributeMemory(const Handle& type, const Handle& space, std::size_t bytes)
      : type_(type), space_(space), bytes_(bytes) {}
  AttributeMemory(const AttributeMemory&) = delete;
  AttributeMemory& operator=(const AttributeMemory&) = delete;
  ~AttributeMemory() { H5Dvlen_reclaim(type_.id(), space_.id(), H5P_DEFAULT, bytes_.data()); }

  void* data() { return bytes_.data(); }

 private:
  const Handle& type_;
  const Handle& space_;
  std::vector<std::byte> bytes_;
};

Handle attribute_type(const Handle& attribute, const std::string& name) {
  const Handle found(check(H5Aget_type(attribute.id()), "H5Aget_type", name), H5Tclose);
  // A copy belongs to no file, as a named type does.
  return {check(H5Tcopy(found.id()), "H5Tcopy", name), H5Tclose};
}

void copy_attribute(const Handle& from, const std::string& name, const Handle& to) {
  const Handle source(check(H5Aopen(from.id(), name.c_str(), H5P_DEFAULT), "H5Aopen", name),
                      H5Aclose);
  const Handle type = attribute_type(source, name);
  require_no_references(type, called(name));
  const Handle space(check(H5Aget_space(source.id()), "H5Aget_space", name), H5Sclose);
  const Handle copy(
      check(H5Acreate2(to.id(), name.c_str(), type.id(), space.id(), H5P_DEFAULT, H5P_DEFAULT),
            "H5Acreate2", name),
      H5Aclose);
  const auto count = static_cast<std::size_t>(
      check(H5Sget_simple_extent_npoints(space.id()), "H5Sget_simple_extent_npoints", name));
  if (count == 0) {
    return;
  }
  AttributeMemory memory(type, space, count * H5Tget_size(type.id()));
  check(H5Aread(source.id(), type.id(), memory.data()), "H5Aread", name);
  check(H5Awrite(copy.id(), type.id(), memory.data()), "H5Awrite", name);
}

void require_copyable(const Handle& object, const std::string& name) {
  const std::string what = fmt::format("'{}'", name);
  if (number_of_names(object, name) > 1) {
    refuse(what, "has several names");
  }
  for (const std::string& attribute : attribute_names(object)) {
    const Handle opened(
        check(H5Aopen(object.id(), attribute.c_str(), H5P_DEFAULT), "H5Aopen", name), H5Aclose);
    require_no_references(attribute_type(opened, attribute), called(attribute));
  }
  if (H5Iget_type(object.id()) == H5I_DATASET) {
    require_no_references({check(H5Dget_type(object.id()), "H5Dget_type", name), H5Tclose}, what);
  }
  if (!is_group(object)) {
    return;
  }
  for (const std::string& member : link_names(object)) {
    if (link_info(object, member).type == H5L_TYPE_HARD) {
      require_copyable(open_object(object, member), fmt::format("{}/{}", name, member));
    }
  }
}

void copy_named_place(const Handle& from, const std::string& name, const H5L_info_t& info,
                      const Handle& to) {
  std::vector<char> value(info.u.val_size);
  check(H5Lget_val(from.id(), name.c_str(), value.data(), value.size(), H5P_DEFAULT), "H5Lget_val",
        name);
  if (info.type == H5L_TYPE_SOFT) {
    check(H5Lcreate_soft(value.data(), to.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
          "H5Lcreate_soft", name);
    return;
  }
  if (info.type != H5L_TYPE_EXTERNAL) {
    refuse(fmt::format("the link '{}'", name), "is of a kind of its own");
  }
  const char* file = nullptr;
  const char* object = nullptr;
  check(H5Lunpack_elink_val(value.data(), value.size(), nullptr, &file, &object),
        "H5Lunpack_elink_val", name);
  check(H5Lcreate_external(file, object, to.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
        "H5Lcreate_external", name);
}

void copy_link(const Handle& from, const std::string& name, const Handle& to) {
  const H5L_info_t info = link_info(from, name);
  if (info.type != H5L_TYPE_HARD) {
    copy_named_place(from, name, info, to);
    return;
  }
  require_copyable(open_object(from, name), name);
  check(H5Ocopy(from.id(), name.c_str(), to.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
        "H5Ocopy", name);
}

}  // namespace

std::size_t copy_additions(const Handle& from, const Handle& known, const Handle& to) {
  std::size_t copied = 0;
  for (const std::string& name : attribute_names(from)) {
    if (check(H5Aexists(known.id(), name.c_str()), "H5Aexists", name) == 0) {
      copy_attribute(from, name, to);
      ++copied;
    }
  }
  if (!is_group(from)) {
    return copied;
  }
  for (const std::string& name : link_names(from)) {
    if (!is_group(known) || !has_link(known, name)) {
      copy_link(from, name, to);
      ++copied;
    } else if (link_info(from, name).type == H5L_TYPE_HARD) {
      const Handle place = has_link(to, name) ? open_object(to, name) : create_group(to, name);
      copied += copy_additions(open_object(from, name), open_object(known, name), place);
    }
  }
  return copied;
}

}  // namespace bipo::hdf5
