// Checks the tokenizer against token ids worked out by hand and against a naive merge loop.
#include "datasets/tokenizer/tokenizer.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <random>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/pcre2_regex.hpp"
#include "datasets/tokenizer/pre_tokenizer.hpp"

namespace bipo {
namespace {

using nlohmann::json;
using Ids = std::vector<TokenId>;
using Words = std::vector<std::string>;

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            fmt::format("bipo-tokenizer-{}-{}", ::getpid(), count++);
    std::filesystem::create_directory(path_);
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }

  std::filesystem::path write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

// Ids: a 0, b 1, c 2, space 3, ab 4, bc 5, abc 6, space+a 7, the two bytes of e-acute 8 and 9,
// x 10.
json small_tokenizer() {
  return json::parse(R"json({
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                      "use_regex": true},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false,
                       "use_regex": true},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null,
              "continuing_subword_prefix": "", "end_of_word_suffix": null, "fuse_unk": false,
              "byte_fallback": false, "ignore_merges": false,
              "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "bc": 5, "abc": 6, "Ġa": 7,
                        "Ã": 8, "©": 9, "x": 10},
              "merges": ["b c", "a b", "Ġ a"]}
  })json");
}

json added_token(TokenId id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", false}};
}

Tokenizer load(const json& content) {
  const TemporaryDirectory directory;
  return Tokenizer::from_file(directory.write("tokenizer.json", content.dump()));
}

Ids encode(const json& content, std::string_view text) {
  return load(content).encode(text);
}

std::string refusal_of_file(const std::filesystem::path& tokenizer_json) {
  try {
    Tokenizer::from_file(tokenizer_json);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

// The message with which the program refuses `content`; "" where it is accepted.
std::string refusal(const json& content) {
  const TemporaryDirectory directory;
  return refusal_of_file(directory.write("tokenizer.json", content.dump()));
}

void expect_too_long(const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "accepted";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("the tokenizer's rules make"), std::string::npos)
        << error.what();
  }
}

TEST(Tokenizer, MergesLowestRankFirstAndStopsWhereNoMergeIsLeft) {
  EXPECT_EQ(encode(small_tokenizer(), "abc"), (Ids{0, 5}));
  EXPECT_EQ(encode(small_tokenizer(), "abab"), (Ids{4, 4}));
  EXPECT_EQ(encode(small_tokenizer(), "bcabc a"), (Ids{5, 0, 5, 7}));
  EXPECT_EQ(encode(small_tokenizer(), ""), Ids{});
}

TEST(Tokenizer, MergesMayBePairs) {
  json content = small_tokenizer();
  content["model"]["merges"] = json::parse(R"([["a", "b"], ["b", "c"], ["ab", "c"]])");
  EXPECT_EQ(encode(content, "abcab"), (Ids{6, 4}));
}

TEST(Tokenizer, IgnoreMergesTakesAWordThatIsATokenWhole) {
  json content = small_tokenizer();
  content["model"]["ignore_merges"] = true;
  EXPECT_EQ(encode(content, "abc abc"), (Ids{6, 7, 5}));
}

TEST(Tokenizer, WritesTheBytesOfACharacterInTheByteLevelAlphabet) {
  EXPECT_EQ(encode(small_tokenizer(), "\u00E9"), (Ids{8, 9}));
}

TEST(Tokenizer, LeavesOutCharactersWithoutIdWhereThereIsNoUnknownToken) {
  EXPECT_EQ(encode(small_tokenizer(), "azc"), (Ids{0, 2}));
}

TEST(Tokenizer, UsesTheUnknownTokenAndFusesItWhereAsked) {
  json content = small_tokenizer();
  content["model"]["unk_token"] = "x";
  EXPECT_EQ(encode(content, "zzazz"), (Ids{10, 10, 0, 10, 10}));
  content["model"]["fuse_unk"] = true;
  EXPECT_EQ(encode(content, "zzazz"), (Ids{10, 0, 10}));
}

TEST(Tokenizer, UnknownTokenOutsideTheVocabularyMattersOnlyWhenNeeded) {
  json content = small_tokenizer();
  content["model"]["unk_token"] = "<unk>";
  const Tokenizer tokenizer = load(content);
  EXPECT_EQ(tokenizer.encode("abc"), (Ids{0, 5}));
  EXPECT_THROW(tokenizer.encode("z"), UserError);
}

TEST(Tokenizer, ByteFallbackComesBeforeTheUnknownToken) {
  json content = small_tokenizer();
  content["model"]["unk_token"] = "x";
  content["model"]["byte_fallback"] = true;
  content["model"]["vocab"]["<0x7A>"] = 11;
  EXPECT_EQ(encode(content, "az"), (Ids{0, 11}));
  EXPECT_EQ(encode(content, "ay"), (Ids{0, 10}));
}

TEST(Tokenizer, NormalizesToNfcOnlyWhereAsked) {
  json content = small_tokenizer();
  content["model"]["vocab"]["e"] = 11;
  content["model"]["vocab"]["Ì"] = 12;
  content["model"]["vocab"]["ģ"] = 13;  // the byte 0x81
  const std::string decomposed = "e\u0301";
  EXPECT_EQ(encode(content, decomposed), (Ids{11, 12, 13}));
  content["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array()}};
  EXPECT_EQ(encode(content, decomposed), (Ids{11, 12, 13}));
  content["normalizer"] = {{"type", "NFC"}};
  EXPECT_EQ(encode(content, decomposed), (Ids{8, 9}));
  content["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}};
  EXPECT_EQ(encode(content, decomposed), (Ids{8, 9}));
}

TEST(Tokenizer, PrefixSpaceGoesBeforeEveryPieceBetweenAddedTokens) {
  json content = small_tokenizer();
  content["pre_tokenizer"]["add_prefix_space"] = true;
  content["added_tokens"] = {added_token(11, "<s>")};
  EXPECT_EQ(encode(content, "a<s>a a"), (Ids{7, 11, 7, 7}));
  EXPECT_EQ(encode(content, ""), Ids{});
}

TEST(Tokenizer, AcceptsWhatHasNoEffectOnIdsWithoutSpecialTokens) {
  json content = small_tokenizer();
  content["truncation"] = {{"max_length", 1}};
  content["post_processor"] = json::parse(
      R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, 
            {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}]}]})");
  content["decoder"] = json::parse(R"({"type": "Sequence", "decoders": [{"type": "Fuse"}]})");
  EXPECT_EQ(encode(content, "aa"), (Ids{0, 0}));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Tokenizer tokenizer = load(small_tokenizer());
  for (const std::string text :
       {"a\x80", "\xC0\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE4\xBD"}) {
    EXPECT_THROW(tokenizer.encode(text), UserError);
  }
}

TEST(Tokenizer, KnowsItsTokensAndItsSize) {
  json content = small_tokenizer();
  content["added_tokens"] = {added_token(4, "ab"), added_token(11, "<s>")};
  const Tokenizer tokenizer = load(content);
  EXPECT_EQ(tokenizer.vocabulary_size(), 12);
  EXPECT_EQ(tokenizer.token_id("<s>"), 11);
  EXPECT_EQ(tokenizer.token_id("abc"), 6);
  EXPECT_EQ(tokenizer.token_id("abd"), std::nullopt);
}

// As Hugging Face's add_tokens, whatever ids the file has.
TEST(Tokenizer, AnAddedTokenTakesItsIdFromTheVocabularyOrTheNextOne) {
  json content = small_tokenizer();
  content["added_tokens"] = {added_token(20, "new"), added_token(3, "a"), added_token(3, "more"),
                             added_token(11, "new")};
  content["added_tokens"][3]["rstrip"] = true;  // the later flags count
  const Tokenizer tokenizer = load(content);
  EXPECT_EQ(tokenizer.token_id("new"), 11);
  EXPECT_EQ(tokenizer.token_id("a"), 0);
  EXPECT_EQ(tokenizer.token_id("more"), 12);
  EXPECT_EQ(tokenizer.encode("cnew  x"), (Ids{2, 11, 10}));
  EXPECT_EQ(tokenizer.vocabulary_size(), 13);
}

// The next id counts from the number of the vocabulary's tokens, which holes leave behind.
TEST(Tokenizer, AnAddedTokenCanShareTheIdOfAnother) {
  json content = small_tokenizer();
  content["model"]["vocab"]["x"] = 11;
  content["added_tokens"] = {added_token(12, "new")};
  const Tokenizer tokenizer = load(content);
  EXPECT_EQ(tokenizer.token_id("new"), 11);
  EXPECT_EQ(tokenizer.encode("xnew"), (Ids{11, 11}));
  EXPECT_EQ(tokenizer.decode(Ids{11}, SpecialTokenText::kKept), "new");
}

TEST(Tokenizer, SizeCountsHolesInTheVocabulary) {
  json content = small_tokenizer();
  content["model"]["vocab"]["y"] = 100;
  EXPECT_EQ(load(content).vocabulary_size(), 101);
}

// The small tokenizer with the added token "--", id 11, of which `flags` are set.
json with_added(const json& flags) {
  json content = small_tokenizer();
  json token = added_token(11, "--");
  token.update(flags);
  content["added_tokens"] = {token};
  return content;
}

TEST(AddedTokens, AreFoundAnywhere) {
  EXPECT_EQ(encode(with_added(json::object()), "a--b -- c"), (Ids{0, 11, 1, 3, 11, 3, 2}));
}

TEST(AddedTokens, StripTakesTheWhiteSpaceBeside) {
  EXPECT_EQ(encode(with_added({{"lstrip", true}}), "a \u3000--  c"), (Ids{0, 11, 3, 3, 2}));
  EXPECT_EQ(encode(with_added({{"rstrip", true}}), "a  -- \n\tc"), (Ids{0, 3, 3, 11, 2}));
}

TEST(AddedTokens, SingleWordMustNotTouchAWordCharacter) {
  const json content = with_added({{"single_word", true}});
  EXPECT_EQ(encode(content, "a --. --"), (Ids{0, 3, 11, 3, 11}));
  // The dashes of a token that is turned down have no ids in this vocabulary.
  EXPECT_EQ(encode(content, "a-- --b \u00E9-- --\u00E9"), (Ids{0, 3, 1, 3, 8, 9, 3, 8, 9}));
}

TEST(AddedTokens, LongestOfTheLeftmostWins) {
  json content = small_tokenizer();
  content["added_tokens"] = {added_token(11, "--"), added_token(12, "-->"), added_token(13, "->a")};
  EXPECT_EQ(encode(content, "-->a--b->a"), (Ids{12, 0, 11, 1, 13}));
}

TEST(AddedTokens, RawOnesComeBeforeNormalizedOnes) {
  json content = small_tokenizer();
  json normalized = added_token(11, "a--");
  normalized["normalized"] = true;
  content["added_tokens"] = {normalized, added_token(12, "--b")};
  EXPECT_EQ(encode(content, "a--b"), (Ids{0, 12}));
  EXPECT_EQ(encode(content, "a--c"), (Ids{11, 2}));
}

TEST(AddedTokens, NormalizedOnesAreSearchedForInNormalForm) {
  json content = small_tokenizer();
  content["normalizer"] = {{"type", "NFC"}};
  json token = added_token(11, "<e\u0301>");
  content["added_tokens"] = {token};
  EXPECT_EQ(encode(content, "<e\u0301>a<\u00E9>"), (Ids{11, 0, 8, 9}));
  content["added_tokens"][0]["normalized"] = true;
  EXPECT_EQ(encode(content, "<e\u0301>a<\u00E9>"), (Ids{11, 0, 11}));
}

Words words_of(PreTokenizerStep step, std::string_view text, bool begins_text = true) {
  std::vector<PreTokenizerStep> steps;
  steps.push_back(std::move(step));
  return PreTokenizer(std::move(steps)).words(text, begins_text);
}

Words split_words(const std::string& pattern, DelimiterBehavior behavior, bool invert = false) {
  return words_of(SplitStep{Regex::literal(pattern), behavior, invert}, "the-final--countdown");
}

TEST(PreTokenizer, DelimiterBehaviors) {
  EXPECT_EQ(split_words("-", DelimiterBehavior::kRemoved), (Words{"the", "final", "countdown"}));
  EXPECT_EQ(split_words("-", DelimiterBehavior::kIsolated),
            (Words{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(split_words("-", DelimiterBehavior::kMergedWithPrevious),
            (Words{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(split_words("-", DelimiterBehavior::kMergedWithNext),
            (Words{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(split_words("-", DelimiterBehavior::kContiguous),
            (Words{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(split_words("-", DelimiterBehavior::kRemoved, true), (Words{"-", "-", "-"}));
  EXPECT_EQ(split_words("--", DelimiterBehavior::kIsolated),
            (Words{"the-final", "--", "countdown"}));
}

TEST(PreTokenizer, CutsAsGpt2Does) {
  const ByteLevelStep step{false, true};
  EXPECT_EQ(words_of(step, "I'll  go, x2!\n\n"),
            (Words{"I", "'ll", "Ġ", "Ġgo", ",", "Ġx", "2", "!", "ĊĊ"}));
  EXPECT_EQ(words_of(step, "I'LL"), (Words{"I", "'", "LL"}));
}

TEST(PreTokenizer, DigitsOneByOneBeforeTheWords) {
  std::vector<PreTokenizerStep> steps;
  steps.emplace_back(SplitStep{Regex("\\p{N}"), DelimiterBehavior::kIsolated, false});
  steps.emplace_back(ByteLevelStep{false, true});
  EXPECT_EQ(PreTokenizer(std::move(steps)).words("a 12b", true), (Words{"a", "Ġ", "1", "2", "b"}));
}

TEST(PreTokenizer, EveryByteHasAPrintableStandIn) {
  const ByteLevelStep step{false, false};
  EXPECT_EQ(words_of(step, std::string("\0 \n\x7F", 4)), (Words{"ĀĠĊġ"}));
  EXPECT_EQ(words_of(step, "~\u00AD\u00FF"), (Words{"~ÂŃÃ¿"}));
}

TEST(PreTokenizer, MetaspaceCutsBeforeEveryStandIn) {
  const MetaspaceStep step{"_", PrependScheme::kAlways, true};
  EXPECT_EQ(words_of(step, "a  b "), (Words{"_a", "_", "_b", "_"}));
  EXPECT_EQ(words_of(step, " a_b"), (Words{"_a", "_b"}));
  EXPECT_EQ(words_of({MetaspaceStep{"_", PrependScheme::kAlways, false}}, "a  b "),
            (Words{"_a__b_"}));
}

TEST(PreTokenizer, MetaspacePrependsByItsScheme) {
  const auto prepended = [](PrependScheme scheme, bool begins_text) {
    return words_of(MetaspaceStep{"_", scheme, true}, "a", begins_text) == Words{"_a"};
  };
  EXPECT_TRUE(prepended(PrependScheme::kAlways, true));
  EXPECT_TRUE(prepended(PrependScheme::kAlways, false));
  EXPECT_TRUE(prepended(PrependScheme::kFirst, true));
  EXPECT_FALSE(prepended(PrependScheme::kFirst, false));
  EXPECT_FALSE(prepended(PrependScheme::kNever, true));
}

TEST(PreTokenizer, StepsMayStandInAnyOrder) {
  std::vector<PreTokenizerStep> steps;
  steps.emplace_back(ByteLevelStep{false, false});
  steps.emplace_back(SplitStep{Regex::literal("Ġ"), DelimiterBehavior::kMergedWithNext, false});
  EXPECT_EQ(PreTokenizer(std::move(steps)).words("a bé", true), (Words{"a", "ĠbÃ©"}));
}

TEST(OnigurumaPattern, RefusesWhatPcre2WouldReadDifferently) {
  for (const char* pattern :
       {"[a[bc]]", "[a-z&&[^c]]", "\\w+", "\\bfoo", "\\h", "\\p{Han}", "\\pL", "a{2,3}+", "a{,3}",
        "(?i)a", "(*ACCEPT)", "(?m:.)", "[]a]", "[a", "\\", "\\p{L", "\\K"}) {
    EXPECT_THROW(oniguruma_to_pcre2(pattern), UserError) << pattern;
  }
}

TEST(OnigurumaPattern, MongolianVowelSeparatorIsNoWhiteSpace) {
  EXPECT_TRUE(Regex(oniguruma_to_pcre2("\\s|[\\s]")).find_all("\u180E").empty());
  EXPECT_EQ(Regex(oniguruma_to_pcre2("[^\\S]")).find_all("a\u3000"), (std::vector<Span>{{1, 4}}));
}

TEST(Regex, EmptyMatchesDoNotFollowAMatchDirectly) {
  const Regex digits("\\d*");
  EXPECT_EQ(digits.find_all("a12\u00E9"), (std::vector<Span>{{0, 0}, {1, 3}, {5, 5}}));
}

TEST(Regex, BacktrackingThroughALongTextNeedsNoStack) {
  const std::string text(2'000'000, 'a');
  EXPECT_TRUE(Regex("(?:a|b(?=c))+z|q").find_all(text.substr(0, 2000)).empty());
  EXPECT_EQ(Regex("(?:a|(ab))+").find_all(text), (std::vector<Span>{{0, text.size()}}));
}

// Merges one pair at a time, searching the whole word anew: the definition of byte-pair encoding.
Words naive_bpe(Words symbols, const std::map<std::pair<std::string, std::string>, int>& ranks) {
  while (true) {
    std::size_t best = symbols.size();
    int best_rank = std::numeric_limits<int>::max();
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = ranks.find({symbols[i], symbols[i + 1]});
      if (found != ranks.end() && found->second < best_rank) {
        best = i;
        best_rank = found->second;
      }
    }
    if (best == symbols.size()) {
      return symbols;
    }
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

class RandomMerges : public testing::TestWithParam<unsigned> {};

TEST_P(RandomMerges, EqualTheDefinition) {
  std::mt19937 random(GetParam());
  const auto below = [&](std::size_t bound) { return random() % bound; };
  Words tokens = {"a", "b", "c"};
  std::vector<std::pair<std::string, std::string>> merges;
  for (int i = 0; i < 40; ++i) {
    const std::pair merge(tokens[below(tokens.size())], tokens[below(tokens.size())]);
    // One way to make each token: where there are two, the definition leaves the order open.
    if (std::find(tokens.begin(), tokens.end(), merge.first + merge.second) == tokens.end()) {
      tokens.push_back(merge.first + merge.second);
      merges.push_back(merge);
    }
  }
  std::shuffle(merges.begin(), merges.end(), random);

  json content = small_tokenizer();
  content["model"]["vocab"] = json::object();
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    content["model"]["vocab"][tokens[i]] = i;
  }
  content["model"]["merges"] = merges;
  const Tokenizer tokenizer = load(content);
  std::map<std::pair<std::string, std::string>, int> ranks;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    ranks[merges[i]] = static_cast<int>(i);
  }

  for (int round = 0; round < 50; ++round) {
    Words symbols;
    std::string text;
    for (std::size_t i = below(60); i > 0; --i) {
      symbols.push_back(tokens[below(3)]);
      text += symbols.back();
    }
    Ids expected;
    for (const std::string& symbol : naive_bpe(symbols, ranks)) {
      expected.push_back(*tokenizer.token_id(symbol));
    }
    EXPECT_EQ(tokenizer.encode(text), expected) << text;
  }
}
INSTANTIATE_TEST_SUITE_P(Seeds, RandomMerges, testing::Range(0U, 20U));

TEST(Tokenizer, AWordOfAMegabyteIsNotQuadratic) {
  json content = small_tokenizer();
  content["model"]["vocab"] = {{"a", 0}, {"aa", 1}, {"aaaa", 2}, {"aaaaaaaa", 3}};
  content["model"]["merges"] = {"a a", "aa aa", "aaaa aaaa"};
  const std::size_t length = std::size_t{1} << 20;
  EXPECT_EQ(encode(content, std::string(length + 3, 'a')).size(), length / 8 + 2);
}

struct BadFile {
  std::string name;
  std::function<void(json&)> damage;
  std::string complaint;  // must be in the message, beside the file's name
};

void PrintTo(const BadFile& file, std::ostream* out) {
  *out << file.name;
}

class RefusedTokenizers : public testing::TestWithParam<BadFile> {};

TEST_P(RefusedTokenizers, SayWhatIsWrongAndWhere) {
  json content = small_tokenizer();
  GetParam().damage(content);
  const std::string message = refusal(content);
  EXPECT_NE(message.find("tokenizer.json"), std::string::npos) << message;
  EXPECT_NE(message.find(GetParam().complaint), std::string::npos) << message;
}

json component(const std::string& type) {
  return {{"type", type}};
}

json metaspace(const std::string& replacement) {
  return {{"type", "Metaspace"}, {"replacement", replacement}};
}

const std::vector<BadFile>& bad_files() {
  static const std::vector<BadFile> files = {
      {"Unigram",
       [](json& f) {
         f["model"] = {{"type", "Unigram"}};
       },
       "\"Unigram\""},
      {"WordPiece", [](json& f) { f["model"]["type"] = "WordPiece"; }, "\"WordPiece\""},
      {"NoModel", [](json& f) { f.erase("model"); }, "\"model\" is missing"},
      {"PreTokenizer", [](json& f) { f["pre_tokenizer"] = component("Whitespace"); },
       "\"Whitespace\""},
      {"NestedPreTokenizer",
       [](json& f) {
         f["pre_tokenizer"] = {{"type", "Sequence"},
                               {"pretokenizers", {f["pre_tokenizer"], component("Odd")}}};
       },
       "pre_tokenizer.pretokenizers[1]"},
      {"MetaspaceOfTwoCharacters", [](json& f) { f["pre_tokenizer"] = metaspace("__"); },
       "one character"},
      {"MetaspaceOfNothing", [](json& f) { f["pre_tokenizer"] = metaspace(""); }, "one character"},
      {"MetaspaceScheme",
       [](json& f) {
         f["pre_tokenizer"] = metaspace("_");
         f["pre_tokenizer"]["prepend_scheme"] = "last";
       },
       "\"last\""},
      {"MetaspaceContradiction",
       [](json& f) {
         f["pre_tokenizer"] = metaspace("_");
         f["pre_tokenizer"]["prepend_scheme"] = "first";
         f["pre_tokenizer"]["add_prefix_space"] = false;
       },
       "add_prefix_space"},
      {"MetaspaceFirstAfterNormalizer",
       [](json& f) {
         f["normalizer"] = component("NFC");
         f["pre_tokenizer"] = metaspace("_");
         f["pre_tokenizer"]["prepend_scheme"] = "first";
       },
       "without a normalizer"},
      {"MetaspaceFirstAfterAnother",
       [](json& f) {
         json first = metaspace("_");
         first["prepend_scheme"] = "first";
         f["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {metaspace("_"), first}}};
       },
       "pre_tokenizer.pretokenizers[1]"},
      {"Normalizer", [](json& f) { f["normalizer"] = component("Precompiled"); },
       "\"Precompiled\""},
      {"NormalizerSetting",
       [](json& f) {
         f["normalizer"] = {{"type", "Prepend"}, {"prepend", "_"}, {"odd", 1}};
       },
       "\"odd\""},
      {"EndlessSequences",
       [](json& f) {
         f["normalizer"] = component("NFC");
         // Far beyond what is read; the test's own writer must not run out of stack under
         // sanitizers.
         for (int depth = 0; depth < 200; ++depth) {
           json outer = component("Sequence");
           outer["normalizers"].push_back(std::move(f["normalizer"]));
           f["normalizer"] = std::move(outer);
         }
       },
       "deep"},
      {"NothingLeftOfAnAddedToken",
       [](json& f) {
         f["normalizer"] = {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}};
         f["added_tokens"] = {added_token(11, "  ")};
         f["added_tokens"][0]["normalized"] = true;
       },
       "token 11"},
      {"StripDecoderCount",
       [](json& f) {
         f["decoder"] = {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}};
       },
       "decoder.start"},
      {"NestedNormalizer",
       [](json& f) {
         f["normalizer"] = {{"type", "Sequence"}, {"normalizers", {component("Nmt")}}};
       },
       "normalizer.normalizers[0]"},
      {"PostProcessor", [](json& f) { f["post_processor"] = component("Odd"); }, "\"Odd\""},
      {"Decoder", [](json& f) { f["decoder"] = component("Odd"); }, "\"Odd\""},
      {"RootSetting", [](json& f) { f["odd"] = 1; }, "\"odd\""},
      {"ModelSetting", [](json& f) { f["model"]["odd"] = 1; }, "\"odd\""},
      {"Version", [](json& f) { f["version"] = "2.0"; }, "version"},
      {"Dropout", [](json& f) { f["model"]["dropout"] = 0.1; }, "model.dropout"},
      {"Suffix", [](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }, "</w>"},
      {"EmptyVocabulary", [](json& f) { f["model"]["vocab"] = json::object(); }, "model.vocab"},
      {"NegativeId", [](json& f) { f["model"]["vocab"]["a"] = -1; }, "model.vocab[\"a\"]"},
      {"HugeId", [](json& f) { f["model"]["vocab"]["a"] = 2147483648U; }, "2147483648"},
      {"HugestId", [](json& f) { f["model"]["vocab"]["a"] = 18446744073709551615ULL; }, "token id"},
      {"FractionalId", [](json& f) { f["model"]["vocab"]["a"] = 0.5; }, "0.5"},
      {"RepeatedId", [](json& f) { f["model"]["vocab"]["a"] = 1; }, "id 1 is given to both"},
      {"MergeOfUnknown", [](json& f) { f["model"]["merges"] = {"a q"}; }, "\"q\""},
      {"MergeIntoUnknown", [](json& f) { f["model"]["merges"] = {"c a"}; }, "\"ca\""},
      {"MergeOfThree", [](json& f) { f["model"]["merges"] = {"a b c"}; }, "model.merges[0]"},
      {"MergeOfOne", [](json& f) { f["model"]["merges"] = {{"a"}}; }, "model.merges"},
      {"MergeKind", [](json& f) { f["model"]["merges"] = {1}; }, "must be a string"},
      {"AddedEmpty", [](json& f) { f["added_tokens"] = {added_token(11, "")}; }, "content"},
      {"AddedFlag",
       [](json& f) {
         f["added_tokens"] = {added_token(11, "n")};
         f["added_tokens"][0]["lstrip"] = "yes";
       },
       "added_tokens[0].lstrip"},
      {"Pattern",
       [](json& f) {
         const json split = {{"type", "Split"},
                             {"pattern", {{"Regex", "\\p{L}("}}},
                             {"behavior", "Isolated"},
                             {"invert", false}};
         f["pre_tokenizer"] = {{"type", "Sequence"},
                               {"pretokenizers", {split, f["pre_tokenizer"]}}};
       },
       "\\p{L}("},
      {"Behavior",
       [](json& f) {
         f["pre_tokenizer"] = {{"type", "Split"},
                               {"pattern", {{"String", "a"}}},
                               {"behavior", "Odd"},
                               {"invert", false}};
       },
       "pre_tokenizer.behavior"},
  };
  return files;
}

INSTANTIATE_TEST_SUITE_P(Files, RefusedTokenizers, testing::ValuesIn(bad_files()),
                         [](const auto& test) { return test.param.name; });

// Parsing such a file takes no stack, but working on what was parsed would.
TEST(Tokenizer, RefusesAFileNestedBeyondReason) {
  const TemporaryDirectory directory;
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  const std::string text = R"({"model": {"type": "BPE", "vocab": {"a": )" + deep + "}}}";
  EXPECT_NE(refusal_of_file(directory.write("tokenizer.json", text)).find("nested more than 100"),
            std::string::npos);
}

json doubling_replace() {
  return {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
}

TEST(Tokenizer, RefusesToLetTheNormalizerDoubleATextAgainAndAgain) {
  json content = small_tokenizer();
  content["normalizer"] = {{"type", "Sequence"}, {"normalizers", json(64, doubling_replace())}};
  expect_too_long([&] { encode(content, "a"); });
  content["normalizer"] = {
      {"type", "Replace"}, {"pattern", {{"Regex", ""}}}, {"content", std::string(100000, 'a')}};
  expect_too_long([&] { encode(content, std::string(100000, 'b')); });
}

TEST(Tokenizer, RefusesToLetThePreTokenizerDoubleATextAgainAndAgain) {
  json content = small_tokenizer();
  const json step = content["pre_tokenizer"];
  content["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", json(64, step)}};
  expect_too_long([&] { encode(content, "\u00e9"); });
}

TEST(Tokenizer, RefusesToLetTheDecoderDoubleATextAgainAndAgain) {
  json content = small_tokenizer();
  content["decoder"] = {{"type", "Sequence"}, {"decoders", json(64, doubling_replace())}};
  const Tokenizer tokenizer = load(content);
  expect_too_long([&] { tokenizer.decode(Ids{0}, SpecialTokenText::kKept); });
}

TEST(Tokenizer, RefusesAnExpressionThatTriesTooManyWays) {
  json content = small_tokenizer();
  content["pre_tokenizer"] = {{"type", "Split"},
                              {"pattern", {{"Regex", "(?:a|ab?a?)+(?=c)(?<=b)"}}},
                              {"behavior", "Isolated"},
                              {"invert", false}};
  try {
    encode(content, std::string(60, 'a') + "c");
    ADD_FAILURE() << "matched in time";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("too many steps"), std::string::npos) << error.what();
  }
}

TEST(Tokenizer, RefusesMissingAndMalformedFiles) {
  const TemporaryDirectory directory;
  EXPECT_THROW(Tokenizer::from_file(directory.path() / "tokenizer.json"), UserError);
  EXPECT_THROW(Tokenizer::from_file(directory.path()), UserError);
  for (const std::string content : {"", "{", "[]", "3", "{\"model\": \"\xFF\"}"}) {
    EXPECT_THROW(Tokenizer::from_file(directory.write("tokenizer.json", content)), UserError);
  }
}

}  // namespace
}  // namespace bipo
