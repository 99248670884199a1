// Claims under races, kills, stops, damage and clocks that disagree; the owners are real processes.
#include "experiments/sweeps/claims.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "collectives/foundation/errors.hpp"

namespace {

// Seconds by which this process takes its host's clock to be ahead.
std::atomic<std::time_t> clock_skew{0};

}  // namespace

// Stands before the C library's, so that the wall clock of the code under test can be wrong.
extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const long result = ::syscall(SYS_clock_gettime, clock, time);
  if (result == 0 && clock == CLOCK_REALTIME) {
    time->tv_sec += clock_skew;
  }
  return static_cast<int>(result);
}

namespace bipo {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

// Renewed, but never dead by age while a test runs.
constexpr ClaimTimes kPatient{10s, 1h};

class ClaimsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "claims-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { fs::remove_all(directory_); }

  fs::path file(const std::string& name, int generation) const {
    return directory_ / "claims" / (name + "." + std::to_string(generation) + ".json");
  }

  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory_ / "claims")) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  std::unique_ptr<Claim> take(const std::string& name, const ClaimTimes& times = kPatient) const {
    return Claim::take(directory_, name, times);
  }

  bool is_free(const std::string& name, const ClaimTimes& times = kPatient) const {
    return claim_state(directory_, name, times) == ClaimState::kFree;
  }

  fs::path directory_;
};

using Files = std::vector<std::string>;

std::string text_of(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

void set_age(const fs::path& path, std::chrono::seconds age) {
  fs::last_write_time(path, fs::file_time_type::clock::now() - age);
}

// Changes one value of a claim file, as another owner would have written it.
template <typename Value>
void edit(const fs::path& path, const std::string& key, const Value& value) {
  const auto renewed = fs::last_write_time(path);
  auto json = nlohmann::json::parse(text_of(path));
  ASSERT_TRUE(json.contains(key)) << json;
  json[key] = value;
  write_text(path, json.dump());
  fs::last_write_time(path, renewed);
}

class Pipe {
 public:
  Pipe() { EXPECT_EQ(::pipe(ends_.data()), 0); }
  ~Pipe() {
    close_reader();
    close_writer();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  void close_reader() { close(ends_[0]); }
  void close_writer() { close(ends_[1]); }
  void put(char byte) const { EXPECT_EQ(::write(ends_[1], &byte, 1), 1); }

  // None at the end.
  std::optional<char> get() const {
    char byte = 0;
    return ::read(ends_[0], &byte, 1) == 1 ? std::optional(byte) : std::nullopt;
  }

 private:
  static void close(int& end) {
    if (end >= 0) {
      ::close(end);
    }
    end = -1;
  }

  std::array<int, 2> ends_{};
};

// A process that takes a claim and then does what it is told; it ends with the object.
class Owner {
 public:
  Owner(const fs::path& directory, const std::string& name, const ClaimTimes& times = kPatient) {
    pid_ = ::fork();
    if (pid_ == 0) {
      commands_.close_writer();
      answers_.close_reader();
      serve(directory, name, times);
    }
    commands_.close_reader();
    answers_.close_writer();
    has_claim_ = answers_.get() == 'y';
  }
  ~Owner() { kill(); }
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;

  bool has_claim() const { return has_claim_; }
  bool is_mine() { return ask('m') == 'y'; }
  void finish() { ask('f'); }

  void signal(int number) const { ASSERT_EQ(::kill(pid_, number), 0); }

  void wait_until_stopped() const {
    int status = 0;
    ASSERT_EQ(::waitpid(pid_, &status, WUNTRACED), pid_);
    ASSERT_TRUE(WIFSTOPPED(status));
  }

  // Waits for the end, but leaves the zombie.
  void kill_unreaped() const {
    ::kill(pid_, SIGKILL);
    siginfo_t info{};
    ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT), 0);
  }

  void kill() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
      pid_ = -1;
    }
  }

 private:
  [[noreturn]] void serve(const fs::path& directory, const std::string& name,
                          const ClaimTimes& times) const {
    const auto claim = Claim::take(directory, name, times);
    answers_.put(claim ? 'y' : 'n');
    while (const auto command = commands_.get()) {
      if (*command == 'f') {
        claim->finish();
      }
      answers_.put(claim->is_mine() ? 'y' : 'n');
    }
    ::_exit(0);
  }

  std::optional<char> ask(char command) {
    commands_.put(command);
    return answers_.get();
  }

  Pipe commands_;
  Pipe answers_;
  pid_t pid_ = -1;
  bool has_claim_ = false;
};

constexpr int kRacers = 8;
constexpr int kNames = 50;

std::string race_name(int index) {
  return "cell" + std::to_string(index);
}

// How many of the processes that all try for every name at once get each, and hold it until all
// have tried.
std::vector<int> winners_of_race(const fs::path& directory) {
  constexpr char kTriedAll = 127;
  Pipe start;
  Pipe hold;
  std::vector<std::unique_ptr<Pipe>> results;
  std::vector<pid_t> racers;
  for (int racer = 0; racer < kRacers; ++racer) {
    results.push_back(std::make_unique<Pipe>());
    racers.push_back(::fork());
    if (racers.back() == 0) {
      start.close_writer();
      hold.close_writer();
      std::vector<std::unique_ptr<Claim>> claims;
      start.get();
      for (int name = 0; name < kNames; ++name) {
        claims.push_back(Claim::take(directory, race_name(name), kPatient));
        if (claims.back()) {
          results.back()->put(static_cast<char>(name));
        }
      }
      results.back()->put(kTriedAll);
      hold.get();
      ::_exit(0);
    }
  }
  start.close_writer();
  std::vector<int> winners(kNames, 0);
  for (const auto& result : results) {
    result->close_writer();
    while (const auto name = result->get()) {
      if (*name == kTriedAll) {
        break;
      }
      ++winners.at(static_cast<std::size_t>(*name));
    }
  }
  hold.close_writer();
  for (const pid_t racer : racers) {
    ::waitpid(racer, nullptr, 0);
  }
  return winners;
}

TEST_F(ClaimsTest, AClaimInACopyOfTheDirectoryIsNoClaim) {
  const auto mine = take("a");
  ASSERT_TRUE(mine);
  fs::path copy = directory_;
  copy += "-copy";
  fs::copy(directory_, copy, fs::copy_options::recursive);
  EXPECT_FALSE(is_free("a"));
  EXPECT_EQ(claim_state(copy, "a", kPatient), ClaimState::kFree);
  EXPECT_TRUE(Claim::take(copy, "a", kPatient));
  EXPECT_TRUE(mine->is_mine());
  fs::remove_all(copy);
}

TEST_F(ClaimsTest, OfRacingProcessesOneGetsEachName) {
  EXPECT_EQ(winners_of_race(directory_), std::vector<int>(kNames, 1));
  for (int name = 0; name < kNames; ++name) {
    EXPECT_TRUE(fs::exists(file(race_name(name), 1)));
  }
  EXPECT_EQ(files().size(), std::size_t{kNames});
}

TEST_F(ClaimsTest, OfProcessesRacingForDeadClaimsOneGetsEach) {
  winners_of_race(directory_);
  EXPECT_EQ(winners_of_race(directory_), std::vector<int>(kNames, 1));
  for (int name = 0; name < kNames; ++name) {
    EXPECT_TRUE(fs::exists(file(race_name(name), 2)));
  }
  EXPECT_EQ(files().size(), std::size_t{2 * kNames});
}

TEST_F(ClaimsTest, OfRacingThreadsOneGetsEachName) {
  std::mutex mutex;
  std::map<int, std::vector<std::unique_ptr<Claim>>> claims;
  {
    std::vector<std::jthread> racers;
    for (int racer = 0; racer < kRacers; ++racer) {
      racers.emplace_back([&] {
        for (int name = 0; name < kNames; ++name) {
          auto claim = take(race_name(name));
          const std::lock_guard lock(mutex);
          if (claim) {
            claims[name].push_back(std::move(claim));
          }
        }
      });
    }
  }
  for (int name = 0; name < kNames; ++name) {
    ASSERT_EQ(claims[name].size(), 1U) << name;
    EXPECT_TRUE(claims[name].front()->is_mine()) << name;
  }
}

// Takes, releases and finishes one claim again and again, in a process of its own whose exit code
// is 0 only if nobody else ever had the claim at the same time.
pid_t start_churning(const fs::path& directory, unsigned seed) {
  const pid_t pid = ::fork();
  if (pid != 0) {
    return pid;
  }
  constexpr int kTimes = 60;
  const fs::path busy = directory / "busy";
  std::minstd_rand random(seed);
  int taken = 0;
  while (taken < kTimes) {
    const auto claim = Claim::take(directory, "cell", kPatient);
    if (!claim) {
      continue;
    }
    ++taken;
    const int marker = ::open(busy.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (marker < 0) {
      ::_exit(1);
    }
    ::close(marker);
    std::this_thread::yield();
    ::unlink(busy.c_str());
    if (random() % 2 == 0) {
      claim->finish();
    }
  }
  ::_exit(0);
}

TEST_F(ClaimsTest, NeverHasTwoOwnersAtOnce) {
  std::vector<pid_t> owners;
  for (unsigned seed = 1; seed <= 6; ++seed) {
    owners.push_back(start_churning(directory_, seed));
  }
  for (const pid_t owner : owners) {
    int status = 0;
    ASSERT_EQ(::waitpid(owner, &status, 0), owner);
    EXPECT_EQ(status, 0);
  }
}

TEST_F(ClaimsTest, ALiveOwnerKeepsOthersOut) {
  Owner owner(directory_, "cell");
  ASSERT_TRUE(owner.has_claim());
  EXPECT_EQ(take("cell"), nullptr);
  EXPECT_FALSE(is_free("cell"));
  EXPECT_TRUE(owner.is_mine());
  EXPECT_TRUE(is_free("another"));
}

TEST_F(ClaimsTest, ItsOwnProcessDoesNotGetItTwice) {
  const auto claim = take("cell");
  ASSERT_NE(claim, nullptr);
  EXPECT_EQ(take("cell"), nullptr);
  EXPECT_TRUE(claim->is_mine());
}

TEST_F(ClaimsTest, AKilledOwnersClaimIsFreeAtOnce) {
  Owner owner(directory_, "cell");
  ASSERT_TRUE(owner.has_claim());
  owner.kill();
  EXPECT_TRUE(is_free("cell"));
  const auto claim = take("cell");
  ASSERT_NE(claim, nullptr);
  EXPECT_TRUE(claim->is_mine());
  EXPECT_EQ(files(), (Files{"cell.1.json", "cell.2.json"}));
}

TEST_F(ClaimsTest, AKilledOwnerThatNobodyWaitedForIsDeadToo) {
  const Owner owner(directory_, "cell");
  ASSERT_TRUE(owner.has_claim());
  owner.kill_unreaped();
  EXPECT_NE(take("cell"), nullptr);
}

TEST_F(ClaimsTest, AStoppedOwnerDiesOfAge) {
  Owner owner(directory_, "cell");
  ASSERT_TRUE(owner.has_claim());
  owner.signal(SIGSTOP);
  owner.wait_until_stopped();
  set_age(file("cell", 1), 59min);
  EXPECT_EQ(take("cell"), nullptr);
  set_age(file("cell", 1), 61min);
  const auto claim = take("cell");
  ASSERT_NE(claim, nullptr);

  owner.signal(SIGCONT);
  EXPECT_FALSE(owner.is_mine());
  owner.finish();
  EXPECT_TRUE(claim->is_mine());
  EXPECT_EQ(files(), (Files{"cell.1.json", "cell.2.json"}));
}

TEST_F(ClaimsTest, RenewalKeepsAClaimAliveUntilItStops) {
  constexpr ClaimTimes kQuick{50ms, 1500ms};
  const Owner owner(directory_, "cell", kQuick);
  ASSERT_TRUE(owner.has_claim());
  const std::string text = text_of(file("cell", 1));
  std::this_thread::sleep_for(2 * kQuick.dead_after);
  EXPECT_EQ(take("cell", kQuick), nullptr);
  EXPECT_EQ(text_of(file("cell", 1)), text);

  owner.signal(SIGSTOP);
  owner.wait_until_stopped();
  const auto stopped = std::chrono::steady_clock::now();
  std::unique_ptr<Claim> claim;
  while (!claim && std::chrono::steady_clock::now() - stopped < 20s) {
    claim = take("cell", kQuick);
    std::this_thread::sleep_for(10ms);
  }
  ASSERT_NE(claim, nullptr);
  EXPECT_GT(std::chrono::steady_clock::now() - stopped, kQuick.dead_after / 2);
}

TEST_F(ClaimsTest, AReleasedClaimIsFreeAtOnce) {
  const auto first = take("cell");
  ASSERT_NE(first, nullptr);
  first->release();
  EXPECT_FALSE(first->is_mine());
  const auto second = take("cell");
  ASSERT_NE(second, nullptr);
  EXPECT_TRUE(second->is_mine());
  first->release();
  first->finish();
  EXPECT_TRUE(second->is_mine());
  EXPECT_EQ(files(), (Files{"cell.1.json", "cell.2.json"}));
}

TEST_F(ClaimsTest, AnOfferedClaimIsOursUntilItIsTaken) {
  const auto claim = take("cell");
  claim->offer();
  EXPECT_TRUE(claim->is_mine());
  EXPECT_TRUE(is_free("cell"));
  const auto taken = take("cell");
  ASSERT_NE(taken, nullptr);
  EXPECT_FALSE(claim->is_mine());
  claim->release();
  EXPECT_TRUE(taken->is_mine());
  EXPECT_FALSE(is_free("cell"));
}

TEST_F(ClaimsTest, AnOfferedClaimCanBeFinished) {
  const auto claim = take("cell");
  claim->offer();
  claim->finish();
  EXPECT_EQ(files(), std::vector<std::string>());
}

TEST_F(ClaimsTest, AReleasedFileStaysJson) {
  take("cell")->release();
  EXPECT_EQ(nlohmann::json::parse(text_of(file("cell", 1))).at("released"), true);
}

TEST_F(ClaimsTest, TheObjectsEndReleases) {
  ASSERT_NE(take("cell"), nullptr);
  EXPECT_TRUE(is_free("cell"));
  EXPECT_NE(take("cell"), nullptr);
}

TEST_F(ClaimsTest, FinishingLeavesNoFile) {
  Owner(directory_, "cell").kill();
  take("cell")->release();
  const fs::path leftover = directory_ / "claims" / ".of-a-killed-taker.tmp";
  write_text(leftover, "");
  set_age(leftover, 2h);
  const auto claim = take("cell");
  ASSERT_NE(claim, nullptr);
  ASSERT_EQ(files(),
            (Files{".of-a-killed-taker.tmp", "cell.1.json", "cell.2.json", "cell.3.json"}));
  claim->finish();
  EXPECT_EQ(files(), Files{});
  EXPECT_FALSE(claim->is_mine());
  EXPECT_NE(take("cell"), nullptr);
}

TEST_F(ClaimsTest, FinishingLeavesOthersFiles) {
  const auto other = take("cell.1");
  const fs::path temp = directory_ / "claims" / ".of-a-taker-at-work.tmp";
  write_text(temp, "");
  take("cell")->finish();
  EXPECT_EQ(files(), (Files{".of-a-taker-at-work.tmp", "cell.1.1.json"}));
  EXPECT_TRUE(other->is_mine());
}

TEST_F(ClaimsTest, NamesThatBeginAlikeAreDifferent) {
  const auto plain = take("cell");
  for (const char* name : {"cell.1", "cell.1.json", "cel", "cell.1.1"}) {
    EXPECT_TRUE(is_free(name)) << name;
    EXPECT_NE(take(name), nullptr) << name;
  }
  EXPECT_TRUE(plain->is_mine());
  EXPECT_FALSE(is_free("cell"));
}

TEST_F(ClaimsTest, AHigherGenerationTakesTheClaimAway) {
  const auto claim = take("cell");
  write_text(file("cell", 7), "{}");
  EXPECT_FALSE(claim->is_mine());
  fs::remove(file("cell", 7));
  EXPECT_TRUE(claim->is_mine());
}

TEST_F(ClaimsTest, FinishingUnderAHigherGenerationThatGoesAgainLeavesTheNameFree) {
  const auto claim = take("cell");
  write_text(file("cell", 2), "{}");
  claim->finish();
  EXPECT_EQ(files(), (Files{"cell.1.json", "cell.2.json"}));
  fs::remove(file("cell", 2));
  EXPECT_TRUE(is_free("cell"));
}

TEST_F(ClaimsTest, AnotherOwnersFileUnderOurNameIsNotOurs) {
  const auto claim = take("cell", {5ms, 1h});
  const std::string text = text_of(file("cell", 1));
  fs::remove(file("cell", 1));
  EXPECT_FALSE(claim->is_mine());
  // As after others took over, finished, and began anew.
  write_text(file("cell", 1), text);
  edit(file("cell", 1), "owner", "another");
  set_age(file("cell", 1), 30s);
  const auto renewed = fs::last_write_time(file("cell", 1));
  const std::string others = text_of(file("cell", 1));
  EXPECT_FALSE(claim->is_mine());
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(fs::last_write_time(file("cell", 1)), renewed);
  claim->release();
  claim->finish();
  EXPECT_EQ(text_of(file("cell", 1)), others);
}

TEST_F(ClaimsTest, ARecycledPidIsAnotherProcess) {
  const auto claim = take("cell");
  const auto json = nlohmann::json::parse(text_of(file("cell", 1)));
  ASSERT_EQ(json.at("pid"), ::getpid());
  edit(file("cell", 1), "start_time", json.at("start_time").get<std::uint64_t>() + 1);
  EXPECT_NE(take("cell"), nullptr);
}

TEST_F(ClaimsTest, TheStartTimeIsThatOfTheKernel) {
  // ps computes the age from the same field of /proc by its own code.
  const auto claim = take("cell");
  const auto json = nlohmann::json::parse(text_of(file("cell", 1)));
  const auto ticks = json.at("start_time").get<double>();
  double uptime = 0;
  std::ifstream("/proc/uptime") >> uptime;
  const double age = uptime - ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
  const std::string command = "ps -o etimes= -p " + std::to_string(::getpid());
  FILE* ps = ::popen(command.c_str(), "r");
  ASSERT_NE(ps, nullptr);
  double expected = -1;
  ASSERT_EQ(std::fscanf(ps, "%lf", &expected), 1);
  ::pclose(ps);
  EXPECT_NEAR(age, expected, 2);
}

class ForeignClaimTest : public ClaimsTest, public testing::WithParamInterface<std::string> {};

TEST_P(ForeignClaimTest, DiesOfAgeOnly) {
  Owner owner(directory_, "cell");
  owner.kill();
  edit(file("cell", 1), GetParam(), "elsewhere");
  EXPECT_EQ(take("cell"), nullptr);
  set_age(file("cell", 1), 59min);
  EXPECT_EQ(take("cell"), nullptr);
  set_age(file("cell", 1), 61min);
  EXPECT_NE(take("cell"), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Of, ForeignClaimTest, testing::Values("boot_id", "pid_namespace"),
                         [](const auto& key) { return key.param; });

TEST_F(ClaimsTest, ASignTellsWhetherTheOwnerIsKnownToLive) {
  EXPECT_EQ(read_claim(directory_, "cell").state, ClaimState::kFree);
  const auto claim = take("cell");
  ClaimSign sign = read_claim(directory_, "cell", kPatient);
  EXPECT_EQ(sign.state, ClaimState::kLive);
  EXPECT_TRUE(sign.is_proven);
  EXPECT_EQ(sign.renewed, fs::last_write_time(file("cell", 1)));
  edit(file("cell", 1), "boot_id", "elsewhere");
  sign = read_claim(directory_, "cell", kPatient);
  EXPECT_EQ(sign.state, ClaimState::kLive);
  EXPECT_FALSE(sign.is_proven);
}

class DamagedClaimTest : public ClaimsTest, public testing::WithParamInterface<std::string> {};

TEST_P(DamagedClaimTest, DiesOfAge) {
  take("cell")->release();
  write_text(file("cell", 1), GetParam());
  EXPECT_FALSE(is_free("cell"));
  EXPECT_EQ(take("cell"), nullptr);
  set_age(file("cell", 1), 61min);
  EXPECT_TRUE(is_free("cell"));
  const auto claim = take("cell");
  ASSERT_NE(claim, nullptr);
  EXPECT_TRUE(claim->is_mine());
  claim->finish();
  EXPECT_EQ(files(), Files{});
}

INSTANTIATE_TEST_SUITE_P(
    Texts, DamagedClaimTest,
    testing::Values(
        "", R"({"owner":"0123","ho)", std::string(300, '\0'), "[]", "{}", "null",
        R"({"owner":1,"host":2,"boot_id":3,"pid_namespace":4,"pid":"x","start_time":-1,)"
        R"("released":"no"})",
        std::string(1 << 20, 'x')));

// The wall clock of this host is wrong by this much while the object lives.
class SkewedClock {
 public:
  explicit SkewedClock(std::chrono::seconds skew) { clock_skew = skew.count(); }
  ~SkewedClock() { clock_skew = 0; }
  SkewedClock(const SkewedClock&) = delete;
  SkewedClock& operator=(const SkewedClock&) = delete;
};

TEST_F(ClaimsTest, AWrongClockOfTheHostDoesNotMatter) {
  const auto wall_clock = [] { return std::chrono::system_clock::now(); };
  const auto before = wall_clock();
  const auto claim = take("cell");
  edit(file("cell", 1), "boot_id", "elsewhere");
  take("old")->release();
  edit(file("old", 1), "boot_id", "elsewhere");
  edit(file("old", 1), "released", false);
  set_age(file("old", 1), 61min);
  for (const auto skew : {24h, -24h}) {
    const SkewedClock wrong(skew);
    ASSERT_GT(std::chrono::abs(wall_clock() - before), 23h) << "the clock is not skewed";
    EXPECT_FALSE(is_free("cell"));
    EXPECT_EQ(take("cell"), nullptr);
    EXPECT_TRUE(is_free("old"));
  }
}

TEST_F(ClaimsTest, ADateFarAheadIsNoSignOfLife) {
  const auto claim = take("cell");
  edit(file("cell", 1), "boot_id", "elsewhere");
  set_age(file("cell", 1), -59min);
  EXPECT_FALSE(is_free("cell"));
  set_age(file("cell", 1), -61min);
  EXPECT_TRUE(is_free("cell"));
}

TEST_F(ClaimsTest, LookingLeavesNothingBehind) {
  EXPECT_TRUE(is_free("cell"));
  EXPECT_TRUE(fs::is_empty(directory_));
  const auto claim = take("cell");
  EXPECT_FALSE(is_free("cell"));
  EXPECT_EQ(files(), Files{"cell.1.json"});
}

TEST_F(ClaimsTest, EndingDoesNotWaitForTheNextRenewal) {
  const auto start = std::chrono::steady_clock::now();
  take("cell", {1h, 2h})->finish();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 30s);
}

TEST_F(ClaimsTest, ADirectoryThatCannotHoldClaimsIsAnError) {
  write_text(directory_ / "claims", "a file");
  try {
    take("cell");
    FAIL() << "no error";
  } catch (const EnvironmentError& error) {
    EXPECT_NE(std::string(error.what()).find((directory_ / "claims").string()), std::string::npos)
        << error.what();
  }
}

TEST_F(ClaimsTest, ANameIsOneFilesName) {
  EXPECT_THROW(take(""), BugError);
  EXPECT_THROW(take("a/b"), BugError);
  EXPECT_THROW(is_free("../a"), BugError);
}

}  // namespace
}  // namespace bipo
