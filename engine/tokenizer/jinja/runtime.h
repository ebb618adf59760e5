// What one rendering may use, and how templates fail. Inside this folder failures are exceptions, because an
// expression evaluator with a check after every step would hide its own rules; chat_template.cpp catches all
// of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace kvcrush::jinja {

struct Namespace;

class TemplateError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// More than a limit below allows.
class LimitError : public TemplateError {
 public:
  using TemplateError::TemplateError;
};

inline constexpr std::size_t kMaxSourceBytes = std::size_t{1} << 20;
inline constexpr int kMaxExpressionDepth = 150;  // of the syntax tree
inline constexpr int kMaxStatementDepth = 50;
inline constexpr int kMaxEvaluationDepth = 300;    // expressions, statements and macro calls together
inline constexpr int kMaxValueDepth = 60;          // lists in lists
inline constexpr std::size_t kMaxArguments = 255;  // of one call, and parameters of a macro
inline constexpr std::int64_t kMaxRange = 100'000;
inline constexpr std::size_t kMaxSteps = 1'000'000;                  // of one rendering
inline constexpr std::size_t kMaxTextBytes = std::size_t{32} << 20;  // of one string, the output included
inline constexpr std::size_t kMaxWrittenBytes = std::size_t{256}
                                                << 20;  // of all strings that one rendering makes

class Runtime {
 public:
  Runtime() = default;
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  ~Runtime();  // empties all namespaces, which may hold each other

  // Called before the work is done.
  void charge_steps(std::size_t num_steps);
  void charge_bytes(std::size_t num_bytes);
  std::shared_ptr<Namespace> make_namespace();

  class Level {
   public:
    explicit Level(Runtime& runtime);
    ~Level() { --runtime_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Runtime& runtime_;
  };

 private:
  std::size_t num_steps_ = 0;
  std::size_t num_bytes_ = 0;
  int depth_ = 0;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

}  // namespace kvcrush::jinja
