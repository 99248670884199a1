// The conceptor file: what is written comes back, what no reader would take is not written, and
// neither kind of file passes for the other.
#include "experiments/runs/conceptor_file.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "collectives/foundation/errors.hpp"
#include "experiments/runs/inspect.hpp"
#include "experiments/runs/run_file.hpp"
#include "tests/experiments/sample_run.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

using testing::error_of;
using testing::expect_parts;

class ConceptorFile : public ::testing::Test {
 protected:
  ConceptorFile() { fs::create_directories(directory_); }
  ~ConceptorFile() override { fs::remove_all(directory_); }

  fs::path file() const { return directory_ / "c.h5"; }

  fs::path directory_ =
      fs::temp_directory_path() / ("conceptor_file_test." + std::to_string(getpid()));
};

ConceptorRecord sample_conceptor() {
  ConceptorRecord record;
  static_cast<JobAttributes&>(record.attributes) = sample_run(1).attributes;
  record.attributes.hidden_size = 2;
  record.attributes.layer = 3;
  record.attributes.aperture = 0.1;
  record.attributes.absolute_aperture = 1.0 / 3;
  record.matrix = {0.5, 1e-17, 1e-17, 0.25};
  return record;
}

TEST_F(ConceptorFile, ReturnsWhatWasWritten) {
  const ConceptorRecord record = sample_conceptor();
  write_conceptor_file(file(), record);
  const ConceptorRecord read = read_conceptor_file(file());
  EXPECT_EQ(read.matrix, record.matrix);
  EXPECT_EQ(read.attributes.layer, 3);
  EXPECT_EQ(read.attributes.hidden_size, 2);
  EXPECT_EQ(read.attributes.aperture, 0.1);  // to the bit, though it is stored as a text
  EXPECT_EQ(read.attributes.absolute_aperture, 1.0 / 3);
  EXPECT_EQ(read.attributes.model, record.attributes.model);
  EXPECT_EQ(read.attributes.config, record.attributes.config);
  EXPECT_EQ(quota_of(read), 0.375);
  EXPECT_TRUE(is_conceptor_file(file()));
}

TEST_F(ConceptorFile, ACombinationHasNoAperture) {
  ConceptorRecord record = sample_conceptor();
  record.attributes.aperture.reset();
  record.attributes.absolute_aperture.reset();
  write_conceptor_file(file(), record);
  const ConceptorRecord read = read_conceptor_file(file());
  EXPECT_FALSE(read.attributes.aperture);
  EXPECT_FALSE(read.attributes.absolute_aperture);
}

TEST_F(ConceptorFile, NothingIsWrittenThatReadersWouldReject) {
  ConceptorRecord lopsided = sample_conceptor();
  lopsided.matrix[1] = 0.125;
  ConceptorRecord infinite = sample_conceptor();
  infinite.matrix[0] = std::numeric_limits<double>::infinity();
  ConceptorRecord small = sample_conceptor();
  small.matrix.pop_back();
  ConceptorRecord amplifying = sample_conceptor();
  amplifying.matrix[3] = 1.1;
  ConceptorRecord negative = sample_conceptor();
  negative.matrix[0] = -0.1;
  ConceptorRecord wide = sample_conceptor();
  wide.attributes.absolute_aperture = std::numeric_limits<double>::infinity();
  for (const ConceptorRecord& record : {lopsided, infinite, small, amplifying, negative, wide}) {
    EXPECT_THROW(write_conceptor_file(file(), record), BugError);
    EXPECT_FALSE(fs::exists(file()));
  }
}

TEST_F(ConceptorFile, IsNoRunFileAndARunFileIsNoneOfIts) {
  write_conceptor_file(file(), sample_conceptor());
  expect_parts(error_of<UserError>([&] { read_run_file(file()); }),
               {file().string(), "holds a conceptor"});
  expect_parts(error_of<UserError>([&] { read_stored_vector(file()); }), {"holds a conceptor"});
  const fs::path run = directory_ / "run.h5";
  write_run_file(run, sample_run(2));
  EXPECT_FALSE(is_conceptor_file(run));
  expect_parts(error_of<UserError>([&] { read_conceptor_file(run); }),
               {run.string(), "a conceptor file"});
  EXPECT_FALSE(is_conceptor_file(directory_ / "nothing.h5"));
  EXPECT_FALSE(is_conceptor_file(directory_));
}

TEST_F(ConceptorFile, DamageIsFound) {
  write_conceptor_file(file(), sample_conceptor());
  const auto middle = static_cast<std::streamoff>(fs::file_size(file()) / 2);
  std::fstream bytes(file(), std::ios::binary | std::ios::in | std::ios::out);
  bytes.seekg(middle);
  const auto byte = static_cast<char>(bytes.get() ^ 1);
  bytes.seekp(middle);
  bytes.put(byte);
  bytes.close();
  expect_parts(error_of<UserError>([&] { read_conceptor_file(file()); }),
               {file().string(), "damaged", "extract it anew"});
}

TEST_F(ConceptorFile, InspectSaysWhatItLetsPass) {
  std::ostringstream out;
  print_conceptor(out, sample_conceptor());
  for (const char* const part :
       {"Conceptor\n", "layer     3 (hidden size 2)", "0.1 in residual units (0.3333 of",
        "quota     0.3750, 0.8 of 2 dimensions pass", "\nSettings\n"}) {
    EXPECT_NE(out.str().find(part), std::string::npos) << part << "\n" << out.str();
  }
  const auto json = conceptor_as_json(sample_conceptor());
  EXPECT_EQ(json["kind"], "conceptor");
  EXPECT_EQ(json["quota"], 0.375);
  EXPECT_EQ(json["aperture"], 0.1);
  ConceptorRecord combined = sample_conceptor();
  combined.attributes.aperture.reset();
  EXPECT_TRUE(conceptor_as_json(combined)["aperture"].is_null());
}

}  // namespace
}  // namespace bipo
