#include "engine/tokenizer/pre_tokenizer.h"

#include <cstdint>

#include "engine/core/readable.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace kvcrush {
namespace {

// White_Space of Unicode, spelled out: PCRE2's \s also has U+180E, which left that set long ago.
#define KVCRUSH_SPACE                        \
  R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680})" \
  R"(\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"

constexpr const char* kGpt2 =
    "'(?:s|t|re|ve|m|ll|d)"
    R"(| ?\p{L}+| ?\p{N}+)"
    "| ?[^" KVCRUSH_SPACE R"(\p{L}\p{N}]+)"
    "|[" KVCRUSH_SPACE "]+(?![^" KVCRUSH_SPACE
    "])"
    "|[" KVCRUSH_SPACE "]+";

// Digits are split off one by one before the rest is looked at. In one expression: a digit is a word, and to
// a run of spaces before it the text seems to end there, so that none of the spaces is left for the next
// word.
constexpr const char* kSmollm = R"(\p{N})"
                                "|'(?:s|t|re|ve|m|ll|d)"
                                R"(| ?\p{L}+)"
                                "| ?[^" KVCRUSH_SPACE R"(\p{L}\p{N}]+)"
                                "|[" KVCRUSH_SPACE "]+(?![^" KVCRUSH_SPACE R"(\p{N}]))"
                                "|[" KVCRUSH_SPACE "]+";

constexpr const char* kLlama3 =
    "'(?i:s|t|re|ve|m|ll|d)"
    R"(|[^\r\n\p{L}\p{N}]?\p{L}+)"
    R"(|\p{N}{1,3})"
    "| ?[^" KVCRUSH_SPACE R"(\p{L}\p{N}]+[\r\n]*)"
    "|[" KVCRUSH_SPACE R"(]*[\r\n]+)"
    "|[" KVCRUSH_SPACE "]+(?![^" KVCRUSH_SPACE
    "])"
    "|[" KVCRUSH_SPACE "]+";

constexpr const char* kQwen2 =
    "'(?i:s|t|re|ve|m|ll|d)"
    R"(|[^\r\n\p{L}\p{N}]?\p{L}+)"
    R"(|\p{N})"
    "| ?[^" KVCRUSH_SPACE R"(\p{L}\p{N}]+[\r\n]*)"
    "|[" KVCRUSH_SPACE R"(]*[\r\n]+)"
    "|[" KVCRUSH_SPACE "]+(?![^" KVCRUSH_SPACE
    "])"
    "|[" KVCRUSH_SPACE "]+";

// Words of capitals and words that end in small letters; scripts without case count as both.
#define KVCRUSH_CAPITALS R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define KVCRUSH_SMALL R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define KVCRUSH_BEFORE_WORD R"([^\r\n\p{L}\p{N}]?)"
#define KVCRUSH_ENDING "(?:'(?i:s|t|re|ve|m|ll|d))?"

constexpr const char* kTekken =
    KVCRUSH_BEFORE_WORD KVCRUSH_CAPITALS "*" KVCRUSH_SMALL
                                         "+"
                                         "|" KVCRUSH_BEFORE_WORD KVCRUSH_CAPITALS "+" KVCRUSH_SMALL
                                         "*"
                                         R"(|\p{N})"
                                         "| ?[^" KVCRUSH_SPACE R"(\p{L}\p{N}]+[\r\n/]*)"
                                         "|[" KVCRUSH_SPACE R"(]*[\r\n]+)"
                                         "|[" KVCRUSH_SPACE "]+(?![^" KVCRUSH_SPACE
                                         "])"
                                         "|[" KVCRUSH_SPACE "]+";

constexpr const char* kGpt4o = KVCRUSH_BEFORE_WORD KVCRUSH_CAPITALS
    "*" KVCRUSH_SMALL "+" KVCRUSH_ENDING "|" KVCRUSH_BEFORE_WORD KVCRUSH_CAPITALS "+" KVCRUSH_SMALL
    "*" KVCRUSH_ENDING R"(|\p{N}{1,3})"
    "| ?[^" KVCRUSH_SPACE R"(\p{L}\p{N}]+[\r\n/]*)"
    "|[" KVCRUSH_SPACE R"(]*[\r\n]+)"
    "|[" KVCRUSH_SPACE "]+(?![^" KVCRUSH_SPACE
    "])"
    "|[" KVCRUSH_SPACE "]+";
#undef KVCRUSH_ENDING
#undef KVCRUSH_BEFORE_WORD
#undef KVCRUSH_SMALL
#undef KVCRUSH_CAPITALS
#undef KVCRUSH_SPACE

struct Family {
  std::string_view name;
  const char* pattern;
};

constexpr Family kFamilies[] = {
    {"default", kGpt2},    {"gpt-2", kGpt2},       {"gpt2", kGpt2},        {"smollm", kSmollm},
    {"refact", kSmollm},   {"starcoder", kSmollm}, {"command-r", kSmollm}, {"llama3", kLlama3},
    {"llama-v3", kLlama3}, {"llama-bpe", kLlama3}, {"qwen2", kQwen2},      {"tekken", kTekken},
    {"gpt-4o", kGpt4o},
};

std::string regex_error(int code) {
  char text[256] = {};
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof(text));
  return text;
}

template <auto release>
struct Releaser {
  template <typename T>
  void operator()(T* object) const {
    release(object);
  }
};
using CodePtr = std::unique_ptr<pcre2_code, Releaser<pcre2_code_free>>;
using MatchDataPtr = std::unique_ptr<pcre2_match_data, Releaser<pcre2_match_data_free>>;
using MatchContextPtr = std::unique_ptr<pcre2_match_context, Releaser<pcre2_match_context_free>>;

}  // namespace

struct PreTokenizer::Regex {
  CodePtr code;
  MatchContextPtr limits;
};

PreTokenizer::PreTokenizer(std::unique_ptr<Regex> regex) : regex_(std::move(regex)) {}
PreTokenizer::~PreTokenizer() = default;

Result<std::shared_ptr<const PreTokenizer>> PreTokenizer::create(std::string_view name) {
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.name != name) {
      known += (known.empty() ? "" : ", ") + std::string(family.name);
      continue;
    }
    int code = 0;
    PCRE2_SIZE offset = 0;
    auto regex = std::make_unique<Regex>();
    regex->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(family.pattern), PCRE2_ZERO_TERMINATED,
                                    PCRE2_UTF | PCRE2_UCP, &code, &offset, nullptr));
    if (!regex->code) {
      return internal_error("pre-tokenizer \"" + std::string(name) + "\": " + regex_error(code));
    }
    // Without JIT on this machine the interpreter does the same work.
    static_cast<void>(pcre2_jit_compile(regex->code.get(), PCRE2_JIT_COMPLETE));
    regex->limits.reset(pcre2_match_context_create(nullptr));
    // The expressions need time linear in a run's length and no stack, so long runs may use as many steps as
    // they are long; the default limit would refuse a run of some ten million spaces.
    pcre2_set_match_limit(regex->limits.get(), UINT32_MAX);
    return std::shared_ptr<const PreTokenizer>(new PreTokenizer(std::move(regex)));
  }
  return invalid_argument("unknown pre-tokenizer " + in_quotes(name) + "; known: " + known);
}

Status PreTokenizer::split(std::string_view text,
                           const std::function<void(std::string_view)>& on_word) const {
  const MatchDataPtr match(pcre2_match_data_create_from_pattern(regex_->code.get(), nullptr));
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  std::size_t offset = 0;
  while (offset < text.size()) {
    int rc = pcre2_match(regex_->code.get(), subject, text.size(), offset, PCRE2_NO_UTF_CHECK, match.get(),
                         regex_->limits.get());
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(regex_->code.get(), subject, text.size(), offset, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       match.get(), regex_->limits.get());
    }
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
      return internal_error("pre-tokenizer failed at byte " + std::to_string(offset) + ": " +
                            regex_error(rc));
    }
    const PCRE2_SIZE* borders = pcre2_get_ovector_pointer(match.get());
    const std::size_t begin = rc < 0 ? text.size() : borders[0];
    const std::size_t end = rc < 0 ? text.size() : borders[1];
    // Every character belongs to some alternative; should a gap ever appear, it is a word too, so no text is
    // lost.
    if (begin > offset) on_word(text.substr(offset, begin - offset));
    if (end > begin) on_word(text.substr(begin, end - begin));
    offset = end > offset ? end : text.size();
  }
  return {};
}

}  // namespace kvcrush
